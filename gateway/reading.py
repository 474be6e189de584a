"""A Network Integration reply read strictly, from its beginning or from a string in its middle: what may pass of it.

Members of a class that is withheld are left out with their values, at every depth; elsewhere, addresses at the vendor's
hosts are rewritten, or null. Everything else keeps its text: numbers, escapes, order, mostly even white space.

Source: RFC 8259.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from operator import itemgetter

from gateway.fields import FieldClass, is_address
from gateway.filter import Unfilterable
from gateway.grammar import OTHER, SPACE, STRING, TEXT
from gateway.rules import NAMELESS, Name, Rules, Tally, decoded, utf8
from gateway.shapes import Lesson, Shape

MAX_TOKEN = 1_048_576
"""Bytes of one string, or of white space in a row; also what waits in memory for its end, beside one piece."""
MAX_DEPTH = 256
NEAR = 64
SEARCHED_AGAIN = 4_096
LESSONS = 64
"""Objects of a depth that are learned from before one is met again; then no more are, in this reply."""

_VALUE = rb"(?:(" + STRING + rb")|(" + OTHER + rb")(?=[ \t\n\r,}\]])|([{\[]))"

_space = re.compile(SPACE).match
_member = re.compile(SPACE + rb"(" + STRING + rb")" + SPACE + rb":" + SPACE + _VALUE).match
_element = re.compile(SPACE + _VALUE).match
_PLAIN = SPACE + STRING + SPACE + rb":" + SPACE + rb"(?:" + STRING + rb"|" + OTHER + rb"(?=[ \t\n\r,}]))"
# As many plain members as there are, commas behind them included; perhaps a last one, of which this is said.
_members = re.compile(rb"(?:" + _PLAIN + SPACE + rb",)*+(" + _PLAIN + rb"(?=" + SPACE + rb"\}))?+").match
_object = re.compile(SPACE + rb"\{").match
_text = re.compile(TEXT).match

# Where the reading of a body stands: before the document, before a member, an element, what follows either, behind it
# all; and in a body that is not read from its beginning: before what may be either, and inside a string.
_START, _MEMBER, _ELEMENT, _AFTER, _END, _EITHER, _INSIDE = range(7)
_OBJECT, _LIST, _UNKNOWN = 0x7B, 0x5B, 0
_CLOSED_BY = {_OBJECT: 0x7D, _LIST: 0x5D}


class Reading:
    """Reads a document, from its beginning or from a string in its middle; `feed` gives what may pass of it."""

    def __init__(self, rules: Rules, tally: Tally) -> None:
        self.at = 0
        self._rules = rules
        self.tally = tally
        self._buffer = b""
        self._enough = 0
        self._state = _START
        # What is open: its kind, whether something of it was passed, so that a comma stands before the next.
        self._open: list[int] = []
        self._filled: list[bool] = []
        self._muted = 0  # how deep what is left out began, plus one
        self._users = 0  # how deep what holds users began, plus one
        self._out: list[bytes] = []
        self._need = False  # a comma was read: something has to follow
        self._suspects: list[tuple[int, int, int]] = []  # where in the piece at hand the look found something
        self._next = 0
        # Shapes: where an object has just been opened, those open in the piece at hand, by how deep they are: where
        # each began, how much had passed then; how many may yet be tried to be learned; whose names are in the tally.
        self._fresh = -1
        self._began: dict[int, tuple[int, int]] = {}
        self._lessons: dict[int, int] = {}
        self._told: set[Shape] = set()

    def begin(self, data: bytes, found: int) -> int:
        """Begin in the middle, at the string in `data` that `found` lies in. Returns how much of `data` passes
        unread; `at` is where reading begins. Raises: Unfilterable."""
        at = _opening_quote(data, found)
        self._open, self._filled = [_UNKNOWN], [True]
        if at < 0:  # it began long before: a text that is too long to be a name, or an address
            self._state, self.at = _INSIDE, found
            return found
        before = without_space(data, at)
        mark = data[before - 1] if before else 0
        self.at = at
        if mark == 0x2C:
            self._state, self._need = _EITHER, True
            return before - 1
        if mark == 0x7B:
            self._open, self._filled, self._state = [_UNKNOWN, _OBJECT], [True, False], _MEMBER
        elif mark == 0x5B:
            self._open, self._filled, self._state = [_UNKNOWN, _LIST], [True, False], _ELEMENT
        elif mark == 0x3A:
            self._open, self._filled, self._state = [_UNKNOWN, _OBJECT], [True, False], _ELEMENT
        else:
            raise Unfilterable("a string stands where none can")
        return at

    def feed(self, data: bytes) -> bytes:
        if self._buffer:
            data = self._buffer + data
            if len(data) < self._enough:
                self._buffer = data
                return b""
        self._suspects, self._next = self._rules.look.all(data), 0
        at = self._run(data)
        self._fresh = -1
        self._began.clear()
        self._buffer = data[at:]
        left = len(self._buffer)
        if left > MAX_TOKEN:
            raise Unfilterable("a value is too long")
        # What is long and not complete is searched again only once much more of it is there.
        self._enough = 0 if left <= SEARCHED_AGAIN else left + left // 2
        out = b"".join(self._out)
        self._out.clear()
        return out

    def close(self) -> bytes:
        self._suspects, self._next = self._rules.look.all(self._buffer), 0
        at = self._run(self._buffer)
        rest = self._buffer[at:]
        # In a body that was not read from its beginning, the end of what is open is not known.
        if rest.strip(b" \t\n\r") or self._state not in (_END, _AFTER) or self._open not in ([], [_UNKNOWN]):
            raise Unfilterable("the body ends too early, or is no JSON")
        return b"".join(self._out) + rest

    def _run(self, data: bytes) -> int:
        """Reads what is complete. Returns where what is not begins."""
        at, size = 0, len(data)
        while at < size:
            state = self._state
            if state == _AFTER:
                end = self._after(data, at)
            elif state == _MEMBER:
                end = self._begun(data, at) if at == self._fresh and not self._muted else at
                if end == at:
                    end = self._plain(data, at)
                if end == at:
                    end = self._member(data, at)
            elif state == _ELEMENT:
                end = self._element(data, at)
            elif state == _EITHER:
                end = self._either(data, at)
            elif state == _INSIDE:
                end = self._inside(data, at)
            else:
                end = self._edge(data, at)
            if end < 0:
                return at
            at = end
        return at

    def _edge(self, data: bytes, at: int) -> int:
        """Before and behind the document."""
        at = _space(data, at).end()  # type: ignore[union-attr]
        if at == len(data):
            return at
        if self._state == _END or data[at] not in b"{[":
            raise Unfilterable("the body is not a JSON object or list")
        self._push(data[at], data[at : at + 1])
        self._fresh = at + 1
        return at + 1

    def _after(self, data: bytes, at: int) -> int:
        end = _space(data, at).end()  # type: ignore[union-attr]
        if end == len(data):
            return -1
        mark, kind = data[end], self._open[-1]
        if mark == 0x2C:
            if kind == _LIST and (found := _object(data, end + 1)) is not None:
                self._push(_OBJECT, found[0])
                self._fresh = found.end()
                return self._fresh
            self._need = True
            self._state = _MEMBER if kind == _OBJECT else _ELEMENT if kind == _LIST else _EITHER
        elif mark in b"}]" and kind in (_UNKNOWN, 0x7B if mark == 0x7D else 0x5B):
            if kind == _OBJECT:
                self._ended(data, at, end + 1)
            self._pop(data[at : end + 1])
        else:
            raise Unfilterable("the body is not JSON")
        return end + 1

    def _plain(self, data: bytes, at: int) -> int:
        """Passes the members from here on that need no judging: before the next suspect, and not of a user."""
        suspects, number = self._suspects, self._next
        while number < len(suspects) and suspects[number][1] < at:
            number += 1
        self._next = number
        if self._muted:
            until = len(data)
        elif self._users or self._rules.users:
            return at
        else:
            until = suspects[number][1] if number < len(suspects) else len(data)
        found = _members(data, at, until)
        end = found.end()  # type: ignore[union-attr]  # it matches nothing too
        if end == at:
            return at
        last = found[1] is not None  # type: ignore[index]
        text = data[at : end if last else end - 1]
        if not text.isascii():
            utf8(text)
        self._pass(text)
        self._need = not last
        if last:
            self._state = _AFTER
        return end

    def _begun(self, data: bytes, at: int) -> int:
        """An object begins: passes what may of it at once, where it has a shape that was met before."""
        rules, suspects, number = self._rules, self._suspects, self._next
        while number < len(suspects) and suspects[number][1] < at:
            number += 1
        self._next = number
        among_users, level = self._users > 0 or rules.users, len(self._open)
        for shape in rules.shapes.at(data, at, among_users):
            found = shape.match(data, at)
            if found is None or level - 1 + shape.depth > MAX_DEPTH:
                continue
            shown, end = found
            after = number + shape.suspects
            if (after > number and (after > len(suspects) or suspects[after - 1][1] >= end)) or (
                after < len(suspects) and suspects[after][1] < end
            ):
                break  # the look found something in a value: it has to be judged
            if not _is_text(data[at:end]):
                break  # also where it is left out; the strict reading says what becomes of it
            text = b"".join(shown)
            self._next, self._lessons[level] = after, LESSONS
            if shape not in self._told:
                self._told.add(shape)
                for cls, name in shape.withheld:
                    self.tally.withhold(cls, name)
            self._need = False
            self._pop(text)
            return end
        if self._lessons.get(level, LESSONS):
            self._began[level] = at, len(self._out)
        return at

    def _ended(self, data: bytes, at: int, end: int) -> None:
        """An object ends at `end`, its last member at `at`: its shape can be learned, if all of it is here."""
        level = len(self._open)
        began = self._began.pop(level, None)
        if began is None:
            return
        self._lessons[level] = self._lessons.get(level, LESSONS) - 1
        start, passed = began
        first = bisect_left(self._suspects, start, key=itemgetter(1))
        last = bisect_left(self._suspects, end, key=itemgetter(1))
        self._rules.shapes.learn(
            Lesson(
                data[start:end],
                b"".join(self._out[passed:]) + data[at:end],
                self._users > 0 or self._rules.users,
                [(begins - start, ends - start) for _, begins, ends in self._suspects[first:last]],
            ),
            self._rules.judge,
        )

    def _member(self, data: bytes, at: int) -> int:
        found = _member(data, at)
        if found is None:
            return self._closed(data, at, 0x7D, b'"')
        name = self._rules.name(found[1])
        cls = self._class(name, found)
        if cls is None:
            return self._value(data, at, found, 2, name)
        if cls == "link" and found[2] is not None:
            led = self._rules.hosts.led(text := decoded(found[2]))
            if led is not None and led != text:
                self._pass(data[at : found.start(2)] + _written(led))
                return self._behind(found.end())
        if not self._muted:
            self.tally.withhold(cls, name.text)
        return self._drop(found, 4)

    def _class(self, name: Name, found: re.Match[bytes]) -> FieldClass | None:
        """The class for which a member is left out, None for one that passes, or is judged by its value."""
        rules, cls = self._rules, name.cls
        if cls == "pii":
            return cls if rules.personal else None
        if cls == "link":
            # Under a link's name what is no address is none: a number, a text, nothing at all.
            address = found[4] is not None or (found[2] is not None and is_address(decoded(found[2])))
            return cls if address else None
        if cls is None and name.of_a_user and (self._users or rules.users):
            return "pii"
        return cls

    def _element(self, data: bytes, at: int) -> int:
        found = _element(data, at)
        if found is None:
            return self._closed(data, at, 0x5D, b'"{[-0123456789tfn')
        return self._value(data, at, found, 1)

    def _either(self, data: bytes, at: int) -> int:
        """What follows a comma in something of which it is not known whether it is an object."""
        found = _member(data, at)
        if found is not None:
            return self._member(data, at)
        found = _element(data, at)
        if found is None:
            return self._closed(data, at, 0, b'"{[-0123456789tfn')
        if found[1] is not None:
            # Whether it is a name is told by what follows, which has to be there.
            follows = _space(data, found.end()).end()  # type: ignore[union-attr]
            if follows == len(data) or data[follows] == 0x3A:
                return -1
        return self._value(data, at, found, 1)

    def _inside(self, data: bytes, at: int) -> int:
        """The rest of a string that began before reading did."""
        end = _text(data, at).end()  # type: ignore[union-attr]
        if data[end : end + 1] == b'"':
            end += 1
            self._state = (
                _AFTER  # where no colon can stand: a name that began long ago is none that may go on
            )
        elif end < len(data) and (data[end] != 0x5C or len(data) - end >= 6):
            raise Unfilterable("a string is broken")
        if end == at:
            return -1
        self._out.append(data[at:end])
        return end

    # -- what is passed

    def _value(self, data: bytes, at: int, found: re.Match[bytes], group: int, name: Name = NAMELESS) -> int:
        """Passes an element or a member that is not withheld for its name; `group` is where its value begins."""
        text = found[group]
        if text is not None:
            if not text.isascii():
                utf8(text)
            if b"/" in text or b"\\" in text:
                led = self._rules.hosts.led(plain := decoded(text))
                if led is None:
                    if not self._muted:
                        self.tally.withhold("link", name.text)
                    self._pass(data[at : found.start(group)] + b"null")
                    return self._behind(found.end())
                if led != plain:
                    self._pass(data[at : found.start(group)] + _written(led))
                    return self._behind(found.end())
        elif found[group + 2] is not None:
            self._push(found[group + 2][0], data[at : found.end()])
            self._fresh = found.end()
            if name.users and not self._users:
                self._users = len(self._open)
            return found.end()
        self._pass(data[at : found.end()])
        return self._behind(found.end())

    def _behind(self, end: int) -> int:
        self._state = _AFTER
        return end

    def _drop(self, found: re.Match[bytes], container: int) -> int:
        """Leaves out a member: at once, or until what it opens is closed."""
        self._need = False
        if found[container] is None:
            return self._behind(found.end())
        if not self._muted:
            self._muted = len(self._open) + 1
        self._open.append(found[container][0])
        self._filled.append(False)
        self._state = _MEMBER if found[container] == b"{" else _ELEMENT
        self._bounded()
        return found.end()

    def _pass(self, text: bytes) -> None:
        self._need = False
        if self._muted:
            return
        if self._open:
            if self._filled[-1]:
                self._out.append(b",")
            self._filled[-1] = True
        self._out.append(text)

    def _push(self, kind: int, text: bytes) -> None:
        self._pass(text)
        self._open.append(kind)
        self._filled.append(False)
        self._state = _MEMBER if kind == _OBJECT else _ELEMENT
        self._bounded()

    def _bounded(self) -> None:
        if len(self._open) > MAX_DEPTH:
            raise Unfilterable("the body is nested too deep")

    def _pop(self, text: bytes) -> None:
        kind = self._open.pop()
        self._filled.pop()
        if not self._muted:
            self._out.append(text)
        if self._muted > len(self._open):
            self._muted = 0
        if self._users > len(self._open):
            self._users = 0
        if kind == _UNKNOWN and not self._open:  # what lies around what is open is not known either
            self._open, self._filled = [_UNKNOWN], [True]
        self._state = _AFTER if self._open else _END

    def _closed(self, data: bytes, at: int, mark: int, begins: bytes) -> int:
        """Where no member, or element, could be read: the end of an empty one, an unfinished one, or no JSON."""
        end = _space(data, at).end()  # type: ignore[union-attr]
        if end == len(data):
            return -1
        if data[end] == mark and not self._need:
            self._pop(data[at : end + 1])
            return end + 1
        if data[end] not in begins:
            raise Unfilterable("the body is not JSON")
        return -1


def _opening_quote(data: bytes, found: int) -> int:
    """Where the string begins that `found` lies in: at the last quote before it that no backslash escapes, or -1.

    Backslashes in a row are never kept back in part, so their number is known.
    """
    at = data.rfind(b'"', 0, found)
    while at >= 0:
        before = at
        while before and data[before - 1] == 0x5C:
            before -= 1
        if (at - before) % 2 == 0:
            return at
        at = data.rfind(b'"', 0, at)
    return -1


def without_space(data: bytes, at: int) -> int:
    """Where what stands before `at` ends, white space aside. Little is looked at: slices of a long piece are copies."""
    near = data[max(0, at - NEAR) : at].rstrip(b" \t\n\r")
    if near or at <= NEAR:
        return at - min(at, NEAR) + len(near)
    return len(data[:at].rstrip(b" \t\n\r"))


def _is_text(text: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        return text.isascii() or text.decode() is not None
    except UnicodeDecodeError:
        return False


def _written(text: str) -> bytes:
    return json.dumps(text).encode()
