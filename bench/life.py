"""The life of one user's tokens as a model, and whether what was seen of a gateway can be explained by it.

Many hands act at once, so nobody knows in which order the gateway took what overlapped. An order is looked for in
which every answer is the model's: each act somewhere between its being sent and its answer, each use too. Where there
is none, the gateway accepted what it must not, refused what it may not, or lost something (Wing and Gong 1993,
"Testing and verifying concurrent objects").

An act that was cut off by a crash has happened or not, as fits. An act of the owner's is two moments: one at which its
bearer was accepted, and one, not before it, at which it was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

OWNER, ADMINISTRATOR, OPERATOR, APP = "owner", "administrator", "operator", "app"
DONE, REFUSED, ENDED, NOT_THEIRS, GONE = "done", "refused", "ended", "not theirs", "gone"
STILL = frozenset({REFUSED, ENDED, NOT_THEIRS, GONE})
"""What was answered so has changed nothing."""
READS = frozenset({"use", "show"})


@dataclass(frozen=True, slots=True)
class Token:
    """One token: the names of its secrets, not their texts."""

    current: str
    earlier: str | None = None
    paused_by: str | None = None
    deleted: bool = False

    @property
    def state(self) -> str:
        return "deleted" if self.deleted else "paused" if self.paused_by else "active"


@dataclass(frozen=True, slots=True)
class World:
    """A user and their tokens. `given` is how often the answer to each Idempotency-Key was given."""

    active: bool = True
    tokens: tuple[tuple[str, Token], ...] = ()
    given: tuple[tuple[str, int], ...] = ()

    def token(self, name: str) -> Token | None:
        return dict(self.tokens).get(name)

    def with_token(self, name: str, token: Token) -> World:
        return replace(self, tokens=tuple(sorted((dict(self.tokens) | {name: token}).items())))

    def with_given(self, key: str, times: int) -> World:
        return replace(self, given=tuple(sorted((dict(self.given) | {key: times}).items())))


@dataclass(frozen=True, slots=True)
class Op:
    """What somebody did or asked, from when to when (seconds of one clock), and the answer; none when it was lost.

    `secret` is the one used, or the one that an act makes, which is also the act's Idempotency-Key.
    """

    what: str
    by: str
    token: str
    start: float
    end: float
    answer: str | None
    secret: str = ""
    overlap: bool = False

    @property
    def changes(self) -> bool:
        """Whether this may have changed something."""
        return self.what not in READS and self.answer not in STILL


def step(world: World, op: Op) -> tuple[str, World]:
    """What the model answers, and the world after it. The owner's bearer was accepted before."""
    if op.what in ("disable", "enable"):
        return DONE, replace(world, active=op.what == "enable")
    if op.what in ("create", "rotate"):
        return _secret(world, op)
    token = world.token(op.token)
    if op.what == "use":
        works = world.active and token is not None and token.state == "active"
        return (DONE if works and token and op.secret in (token.current, token.earlier) else REFUSED), world
    if token is None:
        return "unknown", world
    if op.what == "show":
        return token.state, world
    if op.what == "delete":
        return DONE, world.with_token(op.token, replace(token, deleted=True))
    if token.deleted:
        return ENDED, world
    if op.what == "pause":
        if token.paused_by is None or (token.paused_by == OWNER and op.by != OWNER):
            token = replace(token, paused_by=op.by)
        return DONE, world.with_token(op.token, token)
    assert op.what == "resume", op.what
    if op.by == OWNER and token.paused_by not in (None, OWNER):
        return NOT_THEIRS, world
    return DONE, world.with_token(op.token, replace(token, paused_by=None))


def _secret(world: World, op: Op) -> tuple[str, World]:
    """A new token or a new secret; asked for again with the same key, the same one, once."""
    times, token = dict(world.given).get(op.secret, 0), world.token(op.token)
    if times:
        gone = times > 1 or token is None or token.deleted
        return (GONE if gone else DONE), world.with_given(op.secret, times + 1)
    if op.what == "create":
        if not world.active:
            return REFUSED, world
        return DONE, world.with_token(op.token, Token(op.secret)).with_given(op.secret, 1)
    if token is None:
        return "unknown", world
    if not world.active:
        return REFUSED, world
    if token.deleted:
        return ENDED, world
    token = replace(token, current=op.secret, earlier=token.current if op.overlap else None)
    return DONE, world.with_token(op.token, token).with_given(op.secret, 1)


@dataclass
class Search:
    """The search for an order. `best` is how many could be put in order at most, `stuck` those that then could not."""

    ops: Sequence[Op]
    best: int = -1
    stuck: list[Op] = field(default_factory=list)
    last: World = field(default_factory=World)

    def found(self) -> bool:
        """Whether there is an order in which every answer is the model's."""
        self.ops = sorted(self.ops, key=lambda op: op.start)
        waiting, seen = [(World(), 0, 0)], set()
        while waiting:
            world, done, proven = waiting.pop()
            done, proven, near = self._read(world, done, proven)
            if not near:
                return True
            if (world, done, proven) in seen:
                continue
            seen.add((world, done, proven))
            if done.bit_count() > self.best:
                self.best, self.last = done.bit_count(), world
                self.stuck = [self.ops[place] for place in near]
            for place in near:
                op = self.ops[place]
                if not op.changes:
                    continue
                if op.answer is None:  # it did not happen
                    waiting.append((world, done | 1 << place, proven))
                if op.by == OWNER and not proven >> place & 1:
                    continue
                answer, after = step(world, op)
                if op.answer == answer or (op.answer is None and answer == DONE):
                    waiting.append((after, done | 1 << place, proven))
        return False

    def _read(self, world: World, done: int, proven: int) -> tuple[int, int, list[int]]:
        """All that changes nothing and fits the world now may be put here; and what could come next then."""
        while True:
            near, before = self._near(done), (done, proven)
            for place in near:
                op = self.ops[place]
                if op.by == OWNER and world.active:
                    proven |= 1 << place
                if not op.changes and self._fits(world, op, bool(proven >> place & 1)):
                    done |= 1 << place
            if (done, proven) == before:
                return done, proven, near

    @staticmethod
    def _fits(world: World, op: Op, proven: bool) -> bool:
        if op.by == OWNER and op.answer == REFUSED:
            return not world.active
        return (op.by != OWNER or proven) and step(world, op)[0] == op.answer

    def _near(self, done: int) -> list[int]:
        """What is not in order yet and began before any other of these was over."""
        place = (~done & (done + 1)).bit_length() - 1
        near: list[int] = []
        bound = float("inf")
        while place < len(self.ops) and self.ops[place].start <= bound:
            if not done >> place & 1:
                near.append(place)
                bound = min(bound, self.ops[place].end)
            place += 1
        return [place for place in near if self.ops[place].start <= bound]


def complaint(ops: Sequence[Op]) -> str:
    """Where no order explains what was seen: what could not be explained, and what was known by then. Else empty."""
    search = Search(ops)
    if search.found():
        return ""
    lines = [f"no order explains this, after {search.best} of {len(ops)}: {search.last}"]
    return "\n".join([*lines, *(f"    {told(op)}" for op in search.stuck)])


def told(op: Op) -> str:
    """One op for people to read."""
    about = " ".join(word for word in (op.token, op.secret, "with overlap" if op.overlap else "") if word)
    return f"{op.start:.4f}–{op.end:.4f} {op.by} {op.what} {about} → {op.answer or 'lost'}"
