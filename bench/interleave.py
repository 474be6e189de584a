"""Random interleavings of all that happens to tokens, over a real gateway that is killed meanwhile, against a model.

Each interleaving is one user and their tokens. The owner and an administrator act through the API and an operator on
the command line, all at once; two apps use every secret there ever was, old ones too, on connections new and kept; and
now and then a worker or the whole gateway is killed (-9), or restarted. Nothing waits for anything, so acts and uses
overlap; `life.py` says whether what was seen can be explained by any order of what overlapped. Afterwards every
secret is used and every token looked up once more: what was acknowledged has to be there.

What is drawn by lot follows from the seed; when it happens is the machine's. Exit 1 on anything unexplained.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.bodies import SMALL
from bench.client import Answer, Broken, Client
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
    told,
)
from bench.processes import Children, allow_files, ending_on_signals, python, write_json
from bench.report import note, say, table
from bench.scripted import Scripted
from bench.serving import CREDENTIAL, Serving, serve, start, workers_of
from gateway import command
from gateway.issue import Issuer
from gateway.model import Account
from gateway.store import open_store
from gateway.store.keys import LiveKeys

NETWORK = Account("network", "33", "33")
WORKERS = 2
TOGETHER = 16
"""How many interleavings share the gateway, and its crashes, at a time."""
AT_TERMINALS = 3
STALE_S = 2.0
"""For how long an act that was cut off may be known to one worker and not to another: nobody was told of it."""
LATE_S = 0.25
KEPT_S = 50.0
"""For how long an answer is asked for again; the gateway keeps it for 60 s."""
PATIENCE_S = 30.0
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


@dataclass
class Site:
    """The gateway, which comes and goes. Within `disturbed` an exchange may break off."""

    children: Children
    serving: Serving
    up: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)
    disturbed: list[list[float]] = field(default_factory=list)
    terminals: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_TERMINALS))
    blows: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.serving.port

    def excuses(self, start: float, end: float) -> bool:
        """Whether a crash or a restart fell into this time."""
        return any(began <= end and start <= over for began, over in self.disturbed)

    async def strike(self, how: str, chance: random.Random) -> None:
        """A crash or a restart; back when all workers serve again."""
        self.blows[how] += 1
        window = [time.monotonic(), float("inf")]
        self.disturbed.append(window)
        if how == "a worker killed":
            os.kill(chance.choice(workers_of(self.serving.child)), signal.SIGKILL)
            await self.listening(lambda count: count < WORKERS)
        else:
            self.up.clear()
            child = self.serving.child
            if how == "all killed":
                os.killpg(child.pid, signal.SIGKILL)
            await asyncio.to_thread(self.children.stop, child)
            self.said.append(child.errors.read_text(errors="replace"))
            child = start(self.children, self.serving.config)
            self.serving = Serving(self.serving.url, child, (), self.serving.manager, self.serving.config)
            await asyncio.to_thread(child.line)
        await self.listening(lambda count: count == WORKERS)
        window[1] = time.monotonic()
        self.up.set()

    async def listening(self, enough: Callable[[int], bool]) -> None:
        """Until so many workers accept connections. Raises: RuntimeError when that does not come about."""
        deadline = time.monotonic() + PATIENCE_S
        while not enough(listeners(self.port)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"a worker was not replaced: {self.serving.child.said()}")
            await asyncio.sleep(0.01)

    async def fate(self, chance: random.Random, blows: int) -> None:
        """Crashes at moments drawn by lot, half of them right after something was acknowledged."""
        for _ in range(blows):
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            if chance.random() < 0.5:
                self.acknowledged.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.acknowledged.wait(), 1.0)
            await self.strike(chance.choice(("a worker killed", "all killed", "restarted")), chance)


def listeners(port: int) -> int:
    """How many sockets of this machine listen on a port of loopback."""
    wanted = f"0100007F:{port:04X}"
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(1 for row in rows if row[1] == wanted and row[3] == "0A")


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


@dataclass
class Totals:
    """What was done and seen in all."""

    acts: Counter[tuple[str, str]] = field(default_factory=Counter)
    uses: Counter[str] = field(default_factory=Counter)
    overlapping: int = 0
    lost: int = 0
    unjudged: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, one: Interleaving) -> None:
        changing = [op for op in one.ops if op.changes]
        for op in one.ops:
            if op.what == "use":
                self.uses[op.answer or ""] += 1
                self.overlapping += any(act.start <= op.end and op.start <= act.end for act in changing)
            elif op.what != "show":
                self.acts[op.what, op.by] += 1
                self.lost += op.answer is None
        self.unjudged += one.unjudged
        if one.faults:
            trace = [told(op) for op in sorted(one.ops, key=lambda op: op.start) if op.what != "use"]
            self.faults.append("\n".join([f"interleaving {one.seed}:", *one.faults, "its acts:", *trace]))


async def batch(
    site: Site, seed: int, numbers: Sequence[int], options: argparse.Namespace
) -> list[Interleaving]:
    """Some interleavings at once, each with a user of its own, and the crashes that befall them."""
    settings = command.read(str(site.serving.config))
    store = await open_store(settings.store, time.time)
    try:
        issuer = Issuer(store, LiveKeys(settings.store.keys), settings.public_url)
        made = []
        for number in numbers:
            email = f"{seed}-{number}@example.com"
            user, _, bearer = await issuer.first(email, NETWORK, "super", administrator=False)
            made.append(Interleaving(site, f"{seed}/{number}", user.id, email, bearer, options))
    finally:
        await store.close()
    chance = random.Random(f"{seed}/fate/{numbers[0]}")  # noqa: S311
    async with asyncio.TaskGroup() as all_of_it:
        all_of_it.create_task(site.fate(chance, options.blows))
        for one in made:
            all_of_it.create_task(one.run())
    return made


async def interleave(options: argparse.Namespace, children: Children, folder: Path) -> tuple[Totals, Site]:
    totals, upstream = Totals(), Scripted(CREDENTIAL)
    async with upstream.serving() as url:
        serving = await asyncio.to_thread(serve, children, folder, url, tokens=0, workers=WORKERS)
        site = Site(children, serving)
        await site.listening(lambda count: count == WORKERS)
        site.up.set()
        numbers = [*range(options.first, options.first + options.count)]
        for at in range(0, len(numbers), TOGETHER):
            for one in await batch(site, options.seed, numbers[at : at + TOGETHER], options):
                totals.add(one)
            note(f"{min(at + TOGETHER, len(numbers))} of {len(numbers)}, {len(totals.faults)} unexplained")
        await asyncio.to_thread(children.stop, site.serving.child)
        site.said.append(site.serving.child.errors.read_text(errors="replace"))
    totals.faults += [f"the gateway said: {text[-2000:]}" for text in site.said if "Traceback" in text]
    return totals, site


def report(options: argparse.Namespace, totals: Totals, site: Site) -> int:
    by = (OWNER, ADMINISTRATOR, OPERATOR)
    say(f"{options.count:,} interleavings, {WORKERS} workers, seed {options.seed}\n")
    rows = [[what, *(f"{totals.acts[what, hand]:,}" for hand in by)] for what in KINDS]
    say(table(["act", "the owner", "an administrator", "the command line"], rows))
    say(f"\n{sum(totals.acts.values()):,} acts, of which {totals.lost:,} were cut off by a crash; "
        f"{', '.join(f'{times} × {how}' for how, times in sorted(site.blows.items()))}.")  # fmt: skip
    say(f"{sum(totals.uses.values()):,} uses: {totals.uses[DONE]:,} accepted, {totals.uses[REFUSED]:,} refused; "
        f"{totals.overlapping:,} of them while something was done to the user or a token of theirs.")  # fmt: skip
    say(f"{totals.unjudged:,} were not judged: within {STALE_S:g} s of an act that was cut off, "
        "of which no worker but the dead one may have known.")  # fmt: skip
    for fault in totals.faults:
        say(f"\nFAULT: {fault}")
    again = (
        f"python -m bench.interleave --seed {options.seed} --first {options.first} --count {options.count}"
    )
    say(
        f"\n{len(totals.faults)} unexplained; again: {again}"
        if totals.faults
        else "\nEvery answer is the model's."
    )
    if options.json:
        acts = {f"{what} by {hand}": times for (what, hand), times in sorted(totals.acts.items())}
        write_json(options.json, {"seed": options.seed, "count": options.count, "acts": acts, "uses": totals.uses,
                                  "lost": totals.lost, "unjudged": totals.unjudged, "overlapping": totals.overlapping,
                                  "blows": site.blows, "faults": totals.faults})  # fmt: skip
    return 1 if totals.faults else 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.interleave", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--count", type=int, default=1000, help="how many interleavings")
    parser.add_argument(
        "--seed", type=int, help="of what is drawn by lot; another one each time, and printed"
    )
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with the Nth of the seed")
    parser.add_argument("--acts", type=int, default=12, help="in each interleaving")
    parser.add_argument(
        "--by-command", type=float, default=0.06, metavar="SHARE", help="of acts on the command line"
    )
    parser.add_argument(
        "--blows", type=int, default=2, help=f"crashes and restarts for each {TOGETHER} at once"
    )
    parser.add_argument("--data", metavar="DIR", help="keep store, keys and records here")
    parser.add_argument("--json", metavar="FILE", help="write the numbers here")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    allow_files(4096)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_on_signals())
        folder = Path(options.data or stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.mkdir(exist_ok=True)
        children = stack.enter_context(Children(folder))
        return report(options, *asyncio.run(interleave(options, children, folder)))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
