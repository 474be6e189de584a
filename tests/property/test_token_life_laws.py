"""The life of tokens against a model: whatever is done to them in whatever order, those are accepted that the model
allows, and no others, at every moment, by a process that remembers verdicts while another one acts.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from gateway import config
from gateway.authenticate import Authenticator
from gateway.issue import Issuer
from gateway.model import Account
from gateway.once import KEPT_S, once
from gateway.problem import Problem
from gateway.ratelimit import RateLimit
from gateway.store import Which, open_store
from gateway.store.keys import LiveKeys
from gateway.store.tally import DAY_S
from gateway.verdicts import Verdicts

NOW = 1_800_000_000
ORIGIN = "https://gateway.example.com"
EXPOSED_H = 24
LIVES = st.sampled_from([1, 30, 60, 3600, 100_000, 8_000_000])
STEPS = st.sampled_from([0, 1, 29, 30, 59, 60, 3599, 86_399, 90_000])
OVERLAPS = st.sampled_from([0, 3600, 86_400])


@dataclass
class Modelled:
    """What the model knows of one token. `texts` are all it ever had, the present one last."""

    id: str
    owner: int
    expires_at: int
    not_before: int | None
    maker: Modelled | None
    outlives: bool
    bootstrap: bool
    texts: list[str]
    children: list[Modelled] = field(default_factory=list)
    rotate_by: int | None = None
    exposed: bool = False
    earlier_until: int | None = None
    paused_by: str | None = None
    deleted: bool = False

    @property
    def ends(self) -> int:
        return self.expires_at if self.rotate_by is None else min(self.expires_at, self.rotate_by)

    def ended(self, now: int) -> bool:
        return self.deleted or now >= self.ends

    def family(self) -> list[Modelled]:
        dying = [each for child in self.children if not child.outlives for each in child.family()]
        return [self, *dying]

    def end_by(self, moment: int) -> None:
        self.rotate_by = moment if self.rotate_by is None else min(self.rotate_by, moment)


@dataclass
class Answered:
    """A request with an Idempotency-Key that was answered."""

    key: str
    token: Modelled
    text: str
    at: int
    given: int = 1
    forgotten: bool = False


class TokenLife(RuleBasedStateMachine):
    tokens = Bundle("tokens")
    answers = Bundle("answers")

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.count = 0
        self.known: list[Modelled] = []
        self.active = [True, True]
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.Runner()
        self.path = str(Path(self.folder.name) / "gateway.sqlite3")

    def teardown(self) -> None:
        for store in (self.store, self.other):
            self.run(store.close())
        self.loop.close()
        self.folder.cleanup()

    def run(self, act: Any) -> Any:
        return self.loop.run(act)

    def refused(self, kind: str, act: Any) -> None:
        with pytest.raises(Problem) as caught:
            self.run(act)
        assert caught.value.kind == kind

    @initialize()
    def begin(self) -> None:
        self.answered: list[Answered] = []
        self._open()
        self.owners = [
            self.run(self.other.add_user(f"{n}@example.com", Account("network", "33", "33"), "super")).id
            for n in range(2)
        ]

    def _open(self) -> None:
        """One store verifies, and remembers; the other is another process's, and acts."""
        self.store, self.other = (
            self.run(open_store(config.Store(path=self.path), lambda: self.now)) for _ in range(2)
        )
        keys = LiveKeys(str(Path(self.folder.name) / "keys"))
        self.issuer = Issuer(self.other, keys, ORIGIN, lambda: self.now)
        verdicts = Verdicts(self.store, lambda: self.now, 100, lambda: 0.0)  # always fresh: the epoch alone
        self.run(verdicts.check())
        self.verdicts = verdicts
        self.authenticator = Authenticator(
            self.store, keys, ORIGIN, lambda: self.now, RateLimit("none", 0, time.monotonic), verdicts
        )

    # --- what happens to tokens

    @rule(
        target=tokens,
        owner=st.integers(0, 1),
        life=LIVES,
        begins=st.none() | st.integers(1, 99),
        bootstrap=st.booleans(),
    )
    def create(self, owner: int, life: int, begins: int | None, bootstrap: bool) -> Any:
        return self._create(owner, life, begins, None, False, bootstrap)

    @rule(target=tokens, maker=tokens, life=LIVES, outlives=st.booleans())
    def create_by(self, maker: Modelled, life: int, outlives: bool) -> Any:
        return self._create(maker.owner, life, None, maker, outlives, False)

    def _create(
        self,
        owner: int,
        life: int,
        begins: int | None,
        maker: Modelled | None,
        outlives: bool,
        bootstrap: bool,
    ) -> Any:
        self.count += 1
        ends = self.now + life
        not_before = None if begins is None or begins >= life else self.now + begins
        act = self.issuer.create(
            owner_id=self.owners[owner], description=f"token {self.count}", scopes=["network:read"], expires_at=ends,
            made_by=None if maker is None else maker.id, outlives_maker=outlives, bootstrap=bootstrap,
            not_before=not_before,
        )  # fmt: skip
        if not self.active[owner] or (maker and (maker.ended(self.now) or maker.paused_by)):
            self.refused("invalid-token", act)
            return multiple()
        row, text = self.run(act)
        if maker is not None and not maker.bootstrap:
            ends = min(ends, maker.ends)
        made = Modelled(row.id, owner, ends, not_before, maker, outlives, bootstrap, [text])
        if maker is not None:
            maker.children.append(made)
        self.known.append(made)
        assert row.expires_at == ends
        return made

    @rule(token=tokens, life=LIVES, overlap=OVERLAPS)
    def rotate(self, token: Modelled, life: int, overlap: int) -> None:
        self._rotate(token, self.now + life, overlap, None)

    def _rotate(self, token: Modelled, ends: int, overlap: int, key: str | None) -> str | None:
        asked = None if key is None else once([key], whose=("x",), body=b"")
        act = self.issuer.rotate(
            token.id, owner_id=self.owners[token.owner], expires_at=ends, overlap_s=overlap, once=asked
        )
        if token.maker is not None and not token.maker.bootstrap:
            ends = min(ends, token.maker.expires_at if token.outlives else token.maker.ends)
        if not self.active[token.owner]:
            self.refused("invalid-token", act)
        elif token.ended(self.now) or ends <= self.now:
            self.refused("token-ended", act)
        elif token.not_before is not None and token.not_before >= ends:
            self.refused("invalid-input", act)
        else:
            _, text = self.run(act)
            token.earlier_until = min(self.now + overlap, token.ends, ends)
            for each in token.family()[1:]:
                if each.expires_at > ends and ends < token.expires_at:
                    each.end_by(ends)
            token.expires_at, token.rotate_by, token.exposed = ends, None, False
            token.texts.append(text)
            return text
        return None

    @rule(target=answers, token=tokens, key=st.uuids())
    def rotate_with_a_key(self, token: Modelled, key: UUID) -> Any:
        text = self._rotate(token, self.now + 3600, 3600, str(key))
        if text is None:
            return multiple()
        self.answered.append(Answered(str(key), token, text, self.now))
        return self.answered[-1]

    @rule(answer=answers)
    def ask_again(self, answer: Answered) -> None:
        if answer.forgotten:  # then it is asked for the first time
            text = self._rotate(answer.token, self.now + 3600, 0, answer.key)
            if text is not None:
                answer.text, answer.at, answer.given, answer.forgotten = text, self.now, 1, False
            return
        asked = once([answer.key], whose=("x",), body=b"")
        act = self.issuer.rotate(
            answer.token.id,
            owner_id=self.owners[answer.token.owner],
            expires_at=self.now + 9,
            overlap_s=0,
            once=asked,
        )
        answer.given += 1
        if answer.given > 2 or self.now >= answer.at + KEPT_S or answer.token.ended(self.now):
            self.refused("answer-gone", act)
        else:
            assert self.run(act)[1] == answer.text

    @rule()
    def erase(self) -> None:
        self.run(self.other.erase_sealed())
        for answer in self.answered:
            answer.forgotten |= self.now >= answer.at + KEPT_S + DAY_S

    @rule(token=tokens, administrator=st.booleans())
    def pause(self, token: Modelled, administrator: bool) -> None:
        owner = self.owners[token.owner]
        by = "usr_admin" if administrator else owner
        act = self.other.pause_token(token.id, by=by, at=self.now)
        if token.ended(self.now):
            self.refused("token-ended", act)
            return
        if token.paused_by is None or by != owner:
            token.paused_by = by
        assert self.run(act).paused_by == token.paused_by

    @rule(token=tokens, administrator=st.booleans())
    def resume(self, token: Modelled, administrator: bool) -> None:
        owner = self.owners[token.owner]
        by = "usr_admin" if administrator else owner
        act = self.other.resume_token(token.id, by=by, anybodys=administrator, at=self.now)
        if token.ended(self.now):
            self.refused("token-ended", act)
        elif not administrator and token.paused_by not in (None, owner):
            self.refused("denied", act)
        else:
            token.paused_by = None
            assert self.run(act).paused_at is None

    @rule(token=tokens)
    def delete(self, token: Modelled) -> None:
        self.run(self.other.delete_token(token.id, by="usr_x", at=self.now))
        for each in token.family():
            each.deleted = True

    @rule(owner=st.integers(0, 1), delete=st.booleans())
    def stop_many(self, owner: int, delete: bool) -> None:
        which = Which("33", owner_id=self.owners[owner])
        live = [token for token in self.known if token.owner == owner and not token.ended(self.now)]
        if delete:
            page = self.run(self.other.delete_tokens(which, by="usr_admin", at=self.now))
            for each in [each for token in live for each in token.family()]:
                each.deleted = True
        else:
            live = [token for token in live if token.paused_by != "usr_admin"]
            page = self.run(self.other.pause_tokens(which, by="usr_admin", at=self.now))
            for token in live:
                token.paused_by = "usr_admin"
        assert list(page.rows) == [token.id for token in live]

    @rule(token=tokens, place=st.integers(0, 9))
    def expose(self, token: Modelled, place: int) -> None:
        text, by = token.texts[-1 - place % len(token.texts)], self.now + EXPOSED_H * 3600
        marked = self.run(self.authenticator.mark_exposed(text, EXPOSED_H))
        current, earlier = token.texts[-1], token.texts[-2] if len(token.texts) > 1 else None
        assert marked == (token.id if text in (current, earlier) else None)
        if text == current and not token.deleted and not token.exposed:
            token.exposed = True
            for each in token.family():
                each.end_by(by)
        elif text == earlier and not token.deleted:
            assert token.earlier_until is not None
            token.earlier_until = min(token.earlier_until, by)

    # --- what happens around them

    @rule(owner=st.integers(0, 1))
    def disable_or_enable(self, owner: int) -> None:
        self.active[owner] = not self.active[owner]
        self.run(self.other.set_user(self.owners[owner], active=self.active[owner]))

    @rule(seconds=STEPS)
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.known)
    @rule()
    def restart(self) -> None:
        for store in (self.store, self.other):
            self.run(store.close())
        self._open()

    # --- what is true at every moment

    @invariant()
    def what_the_model_allows_is_accepted_and_nothing_else(self) -> None:
        for token in self.known:
            for place, text in enumerate(reversed(token.texts)):
                until = self._accepted_until(token, place)
                assert self._principal(text) == until, (token, place)

    def _accepted_until(self, token: Modelled, place: int) -> int | None:
        """When the secret at a place (0 is the present one) stops working; None when it does not work now."""
        if place > 1 or token.paused_by or token.ended(self.now) or not self.active[token.owner]:
            return None
        if token.not_before is not None and self.now < token.not_before:
            return None
        ends = token.ends if place == 0 else min(token.ends, token.earlier_until or 0)
        return ends if self.now < ends else None

    def _principal(self, text: str) -> int | None:
        try:
            principal = self.run(self.authenticator.principal(f"Bearer {text}", "192.0.2.1"))
        except Problem as problem:
            return None if problem.kind == "invalid-token" else -1
        again = self.authenticator.remembered(f"Bearer {text}", "192.0.2.1")
        assert again is None or again == principal
        return int(principal.expires_at)

    @invariant()
    def the_lists_agree_with_the_model(self) -> None:
        states = {}
        for state in ("active", "paused", "exposed", "expired", "deleted"):
            page = self.run(self.store.list_tokens(network="33", state=state, limit=500, now=self.now))
            states |= {row.id: state for row in page.rows}
        assert states == {token.id: self._state(token) for token in self.known}

    def _state(self, token: Modelled) -> str:
        if token.deleted:
            return "deleted"
        if self.now >= token.ends:
            return "expired"
        return "paused" if token.paused_by else "exposed" if token.exposed else "active"


TestTokenLife = TokenLife.TestCase
TestTokenLife.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)  # fmt: skip
