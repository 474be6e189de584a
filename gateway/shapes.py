"""Shapes of objects that were met before: one expression tells what passes of the next, instead of reading it again.

The shape of an object is its text around the plain values, in whatever is nested within. The expression for a shape is
made from an object that was read strictly before: the same text, with the strict grammar of a plain value in every
place. What it matches the strict reading would have taken, with the same result; and it is kept only if it gives for
the object that it was made from, to the byte, what the strict reading has given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.columns.records import Expression, Plans, Shown
from gateway.fields import FieldClass
from gateway.grammar import OTHER, SCALAR, SPACE, STRING, TEXT

KEPT = 64
"""Shapes that are remembered for one set of rules, and beginnings of such."""
ALIKE = 4
"""Shapes with the same beginning that are tried."""
BEGINNING = 64
"""Bytes within which the first name has ended, by which an object is recognised before it is tried."""
LONGEST = 8_192
"""Bytes of an object whose shape is learned: what is longer is seldom like another."""
DEEPEST = 16

ADDRESS = rb'"https?://' + TEXT + rb'"'
_is_address = re.compile(ADDRESS).fullmatch
_tokens = re.compile(
    rb"(" + SPACE + rb")(?:(" + STRING + rb")(" + SPACE + rb":)?+|(" + OTHER + rb")|([{}\[\],]))"
).finditer

Judged = tuple[FieldClass | None, str, bool]
"""Of a name: the class for which its member is left out, its text, whether its value holds users."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What was learned of one. `match` gives what passes behind an object's opening brace, and where the object ends.

    `suspects` is how often the quick look finds something in the names, `depth` how deep the object goes.
    """

    match: Callable[[bytes, int], tuple[list[bytes], int] | None]
    suspects: int
    withheld: tuple[tuple[FieldClass, str], ...]
    depth: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """An object that was read strictly. `text` is what stands behind its opening brace, with the closing one; `shown`
    is what passed of that; `suspects` are the places in it where the quick look found something."""

    text: bytes
    shown: bytes
    among_users: bool
    suspects: Sequence[tuple[int, int]]


class Shapes:
    """The shapes learned under one set of rules."""

    def __init__(self) -> None:
        self._plans: Plans[Shape] = Plans(KEPT)
        self._beginning: dict[tuple[bool, bytes], tuple[Shape, ...]] = {}

    def at(self, data: bytes, at: int, among_users: bool) -> tuple[Shape, ...]:
        """Those that the object may have whose first byte behind the brace is there."""
        return self._beginning.get((among_users, data[at : data.find(b":", at, at + BEGINNING)]), ())

    def learn(self, lesson: Lesson, judge: Callable[[bytes, bool], Judged]) -> None:
        """Remember the shape of an object, once it has been met often enough. `judge` is asked of a name as it is
        written, and whether that is among users."""
        apart = _Apart(lesson.among_users, judge)
        if len(lesson.text) > LONGEST or not apart.take(lesson.text, lesson.suspects):
            return
        made = self._plans.learn(lesson.among_users, apart.shape(), lambda: apart.made(lesson))
        if made is None:
            return
        if len(self._beginning) >= KEPT:
            self._beginning.clear()
        key = lesson.among_users, lesson.text[: lesson.text.find(b":", 0, BEGINNING)]
        others = [each for each in self._beginning.get(key, ()) if each is not made]
        self._beginning[key] = (made, *others[: ALIKE - 1])


class _Apart:
    """An object taken apart: its text and the grammars of its values, in order, and which of them are shown."""

    def __init__(self, among_users: bool, judge: Callable[[bytes, bool], Judged]) -> None:
        self._judge = judge
        self._among_users = among_users
        self._shape: list[bytes] = []
        self._parts: list[tuple[bytes, Shown]] = []
        self._run_on = False
        self._withheld: dict[tuple[FieldClass, str], None] = {}
        self._depth = 1

    def take(self, text: bytes, suspects: Sequence[tuple[int, int]]) -> bool:
        """Takes apart what was read strictly before; False where more than its names decides what passes."""
        filled = [False]  # of each that is open: whether anything of it is shown
        comma, key, end, met = b"", b"", 0, 0
        cls: FieldClass | None = None
        label, holds_users = "", False
        muted = users = 0  # how deep what is not shown, or holds users, began
        for found in _tokens(text):
            space, string, colon, _, mark = found.groups()
            if found.start() != end or not filled:
                return False
            end = found.end()
            if mark == b",":
                comma = found[0]
                continue
            if mark in (b"}", b"]"):
                self._text(found[0], not muted)
                filled.pop()
                muted = 0 if muted > len(filled) else muted
                users = 0 if users > len(filled) else users
                continue
            if colon is not None:
                begins, ends = found.span(2)
                while met < len(suspects) and suspects[met][0] < end:
                    if not begins < suspects[met][0] < ends:
                        return False
                    met += 1
                key = found[0]
                cls, label, holds_users = self._judge(string, self._among_users or users > 0)
                continue
            grammar = SCALAR
            if cls == "link" and mark is None:
                if string is None:
                    cls, grammar = None, OTHER
                elif _is_address(string):
                    grammar = ADDRESS
                elif not muted:
                    return False
            shown = not muted and cls is None
            self._text(comma, shown and filled[-1])
            self._text(key + space + (mark or b""), shown)
            filled[-1] = filled[-1] or shown
            if cls is not None and not muted:
                self._withheld[cls, label] = None
            if mark is None:
                self._value(grammar, shown)
            else:
                filled.append(False)
                self._depth = max(self._depth, len(filled))
                muted = muted or (0 if shown else len(filled))
                users = users or (len(filled) if shown and holds_users else 0)
            comma, key, cls, holds_users = b"", b"", None, False
        return end == len(text) and not filled and met == len(suspects) and self._depth <= DEEPEST

    def _text(self, text: bytes, shown: bool) -> None:
        self._shape.append(text)
        self._add(re.escape(text), shown)

    def _value(self, grammar: bytes, shown: bool) -> None:
        self._shape.append(b"\0" + grammar + b"\0")  # there is no NUL in texts
        self._add(grammar, shown)
        self._run_on = False

    def _add(self, pattern: bytes, shown: bool) -> None:
        how: Shown = "yes" if shown else "no"
        if self._run_on and self._parts[-1][1] == how:
            self._parts[-1] = (self._parts[-1][0] + pattern, how)
        elif pattern:
            self._parts.append((pattern, how))
            self._run_on = True

    def shape(self) -> bytes:
        return b"".join(self._shape)

    def made(self, lesson: Lesson) -> Shape | None:
        """The shape; None where it would not show what was shown."""
        match = Expression(self._parts).match
        found = match(lesson.text, 0)
        if found is None or (b"".join(found[0]), found[1]) != (lesson.shown, len(lesson.text)):
            return None
        return Shape(match, len(lesson.suspects), tuple(self._withheld), self._depth)
