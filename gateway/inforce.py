"""The set of policies in force in this process, and the number by which every worker changes over at once.

A new table reaches a process while the old one still answers (`stage`). Then one number, in memory that all workers
share, is raised; each looks at it wherever a request takes its table, and changes over there. So once it is raised,
no request that begins is answered by the old set, in whichever worker; and one that has begun keeps what it took.

Who raises the number, and when, is the keeper's business (`reload.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal, Protocol

from gateway.load import Sets
from gateway.table import Table
from gateway.tomlfile import Fault

MAX_SHOWN = 20
MAX_SHOWN_CHARS = 300


class Number(Protocol):
    """A number; shared with other processes when it is `multiprocessing.RawValue`. One aligned machine word."""

    value: int


@dataclass
class OwnNumber:
    """A number for a process that is the only one."""

    value: int = 0


Word = Literal["loaded", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reload ended: `refused` for faults of the set, `failed` when it could not be found out or handed over."""

    word: Word
    faults: tuple[Fault, ...] = ()

    def shown(self) -> list[str]:
        """The faults for readiness, as `folder/file:line: what`, without the path that leads there; at most 20."""
        found = [_shown(fault) for fault in self.faults[:MAX_SHOWN]]
        more = len(self.faults) - len(found)
        return [*found, f"and {more} more"] if more else found


LOADED = Outcome("loaded")


def _shown(fault: Fault) -> str:
    path = PurePath(fault.file)
    where = "/".join(path.parts[-2:]) if path.is_absolute() else fault.file
    text = " ".join(str(Fault(where, fault.line, fault.key, fault.text)).split())
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 1] + "…"


class Policies:
    """The sets in force, and those that wait to be. `last` is how the last reload ended."""

    def __init__(
        self, sets: Sets, generation: int = 0, number: Number | None = None, last: Outcome = LOADED
    ) -> None:
        """`generation` is what the number stood at when `sets` were put in force."""
        self._sets = sets
        self._generation = generation
        self._number = OwnNumber(generation) if number is None else number
        self._staged: tuple[int, Sets] | None = None
        self._past_alarms = 0
        self._when_changed: list[Callable[[], None]] = []
        self.last = last

    @property
    def sets(self) -> Sets:
        """The tables for a request that begins now. Take them once, and keep them as long as the request lasts."""
        if self._number.value != self._generation:
            self._change_over()
        return self._sets

    @property
    def table(self) -> Table:
        """The table in force, for what asks about no more."""
        return self.sets.enforced

    def when_changed(self, act: Callable[[], None]) -> None:
        """Have something done, at once, whenever other sets are in force."""
        self._when_changed.append(act)

    @property
    def generation(self) -> int:
        """The number of the set in force: higher for each, not always by one."""
        return self._number.value

    @property
    def alarms(self) -> int:
        """Evaluations that failed, of this table and of those before it."""
        return self._past_alarms + self._sets.enforced.alarms

    def stage(self, generation: int, sets: Sets) -> None:
        """Have sets ready for when the number is raised to `generation`. Those that waited before are dropped."""
        if self._number.value != self._generation:  # nobody has asked since it was raised
            self._change_over()
        self._staged = (generation, sets)

    def put_in_force(self, generation: int) -> None:
        """Raise the number."""
        self._number.value = generation

    def told(self, outcome: Outcome) -> None:
        """Note how a reload ended."""
        if self._number.value != self._generation:
            self._change_over()
        self.last = outcome

    def _change_over(self) -> None:
        """Raises: RuntimeError when that set was never handed over. The old one must not answer for it."""
        staged, wanted = self._staged, self._number.value
        if staged is None or staged[0] != wanted:
            raise RuntimeError(f"the policies of generation {wanted} are in force and are not here")
        self._past_alarms += self._sets.enforced.alarms
        self._sets, self._generation, self._staged = staged[1], wanted, None
        self.last = LOADED
        for act in self._when_changed:
            act()
