"""One user's tokens, and everybody who acts on them and uses them, all at once; each answer is kept as an `Op`."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.bodies import SMALL
from bench.client import Answer, Broken, Client
from bench.crashing import PATIENCE_S, WORKERS, Site
from bench.life import (
    ADMINISTRATOR,
    APP,
    DONE,
    ENDED,
    GONE,
    NOT_THEIRS,
    OPERATOR,
    OWNER,
    REFUSED,
    Op,
    complaint,
)
from bench.processes import python

STALE_S = 2.0
"""For how long an act that was cut off may be known to one worker and not to another: nobody was told of it."""
LATE_S = 0.25
KEPT_S = 50.0
"""For how long an answer is asked for again; the gateway keeps it for 60 s."""
ANSWERS = {200: DONE, 201: DONE, 204: DONE, 401: REFUSED, 409: ENDED, 403: NOT_THEIRS, 410: GONE}
KINDS = {
    "create": 1.6,
    "rotate": 3.0,
    "pause": 3.0,
    "resume": 3.4,
    "delete": 0.7,
    "disable": 0.9,
    "enable": 2.0,
}
BY_OWNER = ("create", "rotate")
BY_OTHERS = ("disable", "enable")


@dataclass(frozen=True, slots=True)
class Act:
    """What a hand is to do: to which of the tokens there will be then (a share of them), after what pause.

    One that is watched has the token used just before it and just after it was acknowledged, so that what a worker
    remembers from before would show.
    """

    what: str
    which: float
    pause_s: float
    overlap: bool
    watched: bool


def plan(chance: random.Random, acts: int, by_command: float) -> dict[str, list[Act]]:
    """What each hand does, one after the other. The first is that there is a token at all."""
    hands: dict[str, list[Act]] = {OWNER: [_act(chance, "create")], ADMINISTRATOR: [], OPERATOR: []}
    for _ in range(acts):
        what = chance.choices([*KINDS], [*KINDS.values()])[0]
        by = chance.choice((OWNER, ADMINISTRATOR))
        if what not in BY_OWNER and chance.random() < by_command:
            by = OPERATOR
        elif what in BY_OWNER:
            by = OWNER
        elif what in BY_OTHERS:
            by = ADMINISTRATOR
        hands[by].append(_act(chance, what))
    return hands


def _act(chance: random.Random, what: str) -> Act:
    return Act(what, chance.random(), chance.uniform(0.0, 0.08), chance.random() < 0.5, chance.random() < 0.7)


class Line(Client):
    """A connection that is kept, and when it was last sent what was answered."""

    good_at = float("inf")


@dataclass
class Known:
    """A token as its hands know it. `ids` is empty until an answer told it."""

    name: str
    id: str = ""


class Interleaving:
    """One user, their tokens, and everybody who acts on them."""

    def __init__(
        self, site: Site, seed: str, user_id: str, email: str, bearer: str, options: argparse.Namespace
    ):
        self.site, self.seed, self.user_id, self.email, self.bearer = site, seed, user_id, email, bearer
        self.chance = random.Random(seed)  # noqa: S311
        self.plan = plan(self.chance, options.acts, options.by_command)
        self.ops: list[Op] = []
        self.tokens: list[Known] = []
        self.texts: dict[str, tuple[str, str]] = {}  # of a secret: its token's name, its text
        self.quiet_until = 0.0
        self.faults: list[str] = []
        self.unjudged = 0
        self.serial = 0
        self.first = asyncio.Event()
        self.over = False

    async def run(self) -> None:
        """All hands at once, apps meanwhile; then the last look."""
        apps = [asyncio.create_task(self._app(random.Random(f"{self.seed}/{n}"))) for n in range(2)]  # noqa: S311
        try:
            async with asyncio.TaskGroup() as hands:
                for by, acts in self.plan.items():
                    hands.create_task(self._hand(by, acts))
            await self._settled()
            self.over = True
            await asyncio.gather(*apps)
            await self._last_look()
        finally:
            for app in apps:
                app.cancel()
        judged = self._judged()
        self.unjudged = len(self.ops) - len(judged)
        found = await asyncio.to_thread(complaint, judged)
        if found:
            self.faults.append(found)

    # --- acts

    async def _hand(self, by: str, acts: Sequence[Act]) -> None:
        client, *watching = lines = [Line("127.0.0.1", self.site.port) for _ in range(1 + WORKERS)]
        try:
            if by != OWNER:
                await self.first.wait()
            for act in acts:
                await asyncio.sleep(act.pause_s)
                await self._settled()
                watched = self._newest(act) if act.watched else None
                for line in watching if watched else ():
                    await self._use(line, watched)
                await self._do(client, by, act)
                for line in watching if watched else ():
                    await self._use(line, watched)
                if self.tokens:
                    self.first.set()
        finally:
            self.first.set()
            for line in lines:
                line.close()

    def _newest(self, act: Act) -> str | None:
        """The last secret of the token that an act is for."""
        usable = [token.name for token in self.tokens if token.id]
        name = usable[int(act.which * len(usable))] if usable else ""
        return next((secret for secret in reversed(self.texts) if self.texts[secret][0] == name), None)

    async def _do(self, client: Line, by: str, act: Act) -> None:
        if act.what == "create":
            self.serial += 1
            await self._make(client, Known(f"t{self.serial}"), act)
        elif act.what in BY_OTHERS:
            path = f"/admin/api/users/{self.user_id}/{act.what}"
            await self._change(client, by, act.what, "", ("POST", path), ("user", act.what, self.email))
        elif usable := [token for token in self.tokens if token.id]:
            token = usable[int(act.which * len(usable))]
            path = f"/admin/api/tokens/{token.id}"
            way = ("DELETE", path) if act.what == "delete" else ("POST", f"{path}/{act.what}")
            if act.what == "rotate":
                await self._make(client, token, act)
            else:
                await self._change(client, by, act.what, token.name, way, ("token", act.what, token.id))

    async def _make(self, client: Line, token: Known, act: Act) -> None:
        """Create or rotate, and again with the same key for as long as the answer is lost."""
        self.serial += 1
        secret, began = f"s{self.serial}", time.monotonic()
        key = f"{self.seed}-{self.user_id}-{secret}".replace("/", "-")
        path = "/admin/api/tokens"
        body: dict[str, object] = {"description": f"{self.seed} {token.name}", "scopes": ["network:read"]}
        if act.what == "rotate":
            path, body = f"{path}/{token.id}/rotate", {"overlap": 3600 if act.overlap else 0}
        while True:
            start = time.monotonic()
            answer = await self._ask(client, "POST", path, self.bearer, body, key)
            self._note(act.what, OWNER, token.name, start, answer, secret=secret, overlap=act.overlap)
            if answer is not None:
                break
            await self._settled()
            if time.monotonic() - began > KEPT_S:
                return
        said = json.loads(answer.body)
        if answer.status == 201:
            self.texts[secret] = (token.name, said["token"])
        if answer.status in (201, 410) and act.what == "create":
            token.id = said["id"]
            self.tokens.append(token)

    async def _change(
        self, client: Line, by: str, what: str, name: str, way: tuple[str, str], words: tuple[str, ...]
    ) -> None:
        """One act that may be done again and again, by the API or on the command line."""
        if by == OPERATOR:
            async with self.site.terminals:
                start = time.monotonic()
                code, said = await self._command(*words)
                answer = DONE if code == 0 else ENDED if "token-ended" in said else f"exit {code}: {said}"
                self.ops.append(Op(what, by, name, start, time.monotonic(), answer))
                self.site.acknowledged.set()
            return
        start = time.monotonic()
        bearer = self.bearer if by == OWNER else self.site.serving.manager
        self._note(what, by, name, start, await self._ask(client, *way, bearer))

    def _note(self, what: str, by: str, name: str, start: float, answer: Answer | None, **more: Any) -> None:
        end = time.monotonic()
        if answer is None:
            end += LATE_S
            self.quiet_until = end + STALE_S
            self.ops.append(Op(what, by, name, start, end, None, **more))
            return
        said = ANSWERS.get(answer.status, f"{answer.status} {answer.problem}")
        self.ops.append(Op(what, by, name, start, end, said, **more))
        if said == DONE:
            self.site.acknowledged.set()

    async def _ask(
        self, client: Line, method: str, path: str, bearer: str, body: object = None, key: str = ""
    ) -> Answer | None:
        """The answer; None when the exchange broke off, which takes a crash."""
        text = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {bearer}"]
        lines += [f"Idempotency-Key: {key}"] if key else []
        if method != "GET":
            lines += ["Content-Type: application/json", f"Content-Length: {len(text)}"]
        start = time.monotonic()
        try:
            await client.send("\r\n".join([*lines, "", ""]).encode() + text)
            answer = await client.answer(PATIENCE_S)
            client.good_at = start
            return answer
        except Broken as broken:
            client.close()
            since, client.good_at = min(start, client.good_at), float("inf")
            await asyncio.sleep(0.01)
            if not self.site.excuses(since, time.monotonic()):
                self.faults.append(f"{method} {path} broke off ({broken}) and nothing had crashed")
            await self.site.up.wait()
            return None

    async def _command(self, *words: str) -> tuple[int, str]:
        """A command in a process of its own: the exit code, and what it complained of."""
        command = python("gateway", *words, "--config", str(self.site.serving.config))
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        _, said = await process.communicate()
        return process.returncode or 0, said.decode().strip()

    async def _settled(self) -> None:
        """Until no worker can be behind with an act that was cut off."""
        while self.quiet_until > time.monotonic():  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    # --- uses

    async def _app(self, chance: random.Random) -> None:
        client = Line("127.0.0.1", self.site.port)
        try:
            while not self.over:
                await asyncio.sleep(chance.uniform(0.0, 0.03))
                await self._settled()
                if self.texts:
                    if chance.random() < 0.3:
                        client.close()  # another connection, and perhaps another worker
                    # The present secret of some token more often than those before it.
                    newest = [*self.texts][-3:] if chance.random() < 0.6 else [*self.texts]
                    await self._use(client, chance.choice(newest))
        finally:
            client.close()

    async def _use(self, client: Line, secret: str | None) -> bool:
        assert secret is not None
        name, text = self.texts[secret]
        start = time.monotonic()
        answer = await self._ask(client, "GET", SMALL, text)
        if answer is not None:
            said = ANSWERS.get(answer.status, "") if answer.status in (200, 401) else ""
            said = said or f"{answer.status} {answer.problem}"
            self.ops.append(Op("use", APP, name, start, time.monotonic(), said, secret))
        return answer is not None

    async def _last_look(self) -> None:
        """Every secret on connections of its own, every token by its id, and the whole list."""
        for secret in self.texts:
            for _ in range(2):
                await self._until(partial(self._use, secret=secret))
        for token in self.tokens:
            await self._until(partial(self._show, token=token))
        await self._until(self._list)

    async def _until(self, look: Callable[[Line], Awaitable[bool]]) -> None:
        """A look on a new connection, again while a crash breaks it off."""
        done = False
        while not done:
            client = Line("127.0.0.1", self.site.port)
            done = await look(client)
            client.close()

    async def _show(self, client: Line, token: Known) -> bool:
        start = time.monotonic()
        answer = await self._ask(client, "GET", f"/admin/api/tokens/{token.id}", self.site.serving.manager)
        if answer is not None:
            said = json.loads(answer.body)["state"] if answer.status == 200 else str(answer.status)
            self.ops.append(Op("show", ADMINISTRATOR, token.name, start, time.monotonic(), said))
        return answer is not None

    async def _list(self, client: Line) -> bool:
        path = f"/admin/api/tokens?owner={self.user_id}&limit=200"
        answer = await self._ask(client, "GET", path, self.site.serving.manager)
        if answer is None:
            return False
        listed = [row for row in json.loads(answer.body)["tokens"] if not row["bootstrap"]]
        missing = {token.id for token in self.tokens} - {row["id"] for row in listed}
        names = Counter(row["description"] for row in listed)
        twice = [name for name, times in names.items() if times > 1]
        if missing or twice:
            self.faults.append(f"lost after their 201: {sorted(missing)}; made twice by one key: {twice}")
        return True

    def _judged(self) -> list[Op]:
        """What is held against the model: all but the uses while nobody could know of an act that was cut off."""
        lost = [(op.start, op.end + STALE_S) for op in self.ops if op.answer is None]
        return [
            op
            for op in self.ops
            if op.what != "use" or not any(op.start <= end and start <= op.end for start, end in lost)
        ]
