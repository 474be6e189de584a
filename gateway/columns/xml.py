"""The XML form of transactions: Transaction elements, of whose children only visible columns pass.

What passes is written by us but for the visible children themselves: the declaration, the root and the rows. XML is
read without a DTD: a DOCTYPE, a comment, a processing instruction, an entity beyond the five of XML itself, text
between elements, another encoding than UTF-8 and a byte order mark are refused, and so is a record that names a
column twice. A visible column that has children, or attributes other than `nil` and `type`, is no documented one; it
counts as pii and financial alike. The children of `custom_data` are named values, and each passes or not by its name.

The vendor does not say how the root and its children are spelled; the closed lists below are what Rails makes.

Sources: XML 1.0 (fifth edition) sections 2.2 to 2.8, 3.1, 4.1, 4.6; vendor pages Transactions API.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.columns.classes import CUSTOM_DATA, ColumnClass, Reveal
from gateway.columns.json import ENTRY_MEMBERS, LABELS
from gateway.columns.records import MAX_DEPTH, Expression, Plans, Records, Shown
from gateway.filter import Unfilterable

ROOTS = ("Transactions", "transactions", "records", "objects")
ROWS = ("Transaction", "transaction", "record", "object")
ENTRIES = frozenset(("item", CUSTOM_DATA, "custom_datum"))
TYPES = (
    "array",
    "boolean",
    "date",
    "dateTime",
    "datetime",
    "decimal",
    "float",
    "integer",
    "string",
    "symbol",
)
DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'
MAX_TAG = 65_536
MAX_REFERENCE = 0x10FFFF


def _any_of(words: Sequence[str]) -> bytes:
    return b"(?:" + "|".join(words).encode() + b")"


_SPACE = rb"[ \t\n\r]*+"
_NAME = rb"[A-Za-z_\x80-\xff][A-Za-z0-9_.\-\x80-\xff]*+"
_PLAIN = rb"[?-\xff '-;=!-%\t\n\r>]*+"  # all but <, & and control characters
_REFERENCE = rb"&(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});"
_SURE_REFERENCE = rb"&(?:amp|lt|gt|quot|apos|#(?:9|10|13|34|39|x9|x[aAdD]|x2[27]));"
_TEXT = _PLAIN + rb"(?:" + _REFERENCE + _PLAIN + rb")*+"
_SURE_TEXT = _PLAIN + rb"(?:" + _SURE_REFERENCE + _PLAIN + rb")*+"
_QUOTED = (
    rb'(?:"[?-\xff \'-;=!#-%\t\n\r>]*+(?:' + _REFERENCE + rb'[?-\xff \'-;=!#-%\t\n\r>]*+)*+"'
    rb"|'[?-\xff (-;=!-%\t\n\r>]*+(?:" + _REFERENCE + rb"[?-\xff (-;=!-%\t\n\r>]*+)*+')"
)
_ATTRIBUTE = rb"[ \t\n\r]++([A-Za-z_:\x80-\xff][A-Za-z0-9_.:\-\x80-\xff]*+)" + _SPACE + rb"=" + _SPACE
_SURE_ATTRIBUTES = rb'(?: type="' + _any_of(TYPES) + rb'")?+(?: nil="true")?+'

_space = re.compile(_SPACE).match
_text = re.compile(_TEXT).match
_name = re.compile(rb"<(" + _NAME + rb")").match
_attribute = re.compile(_ATTRIBUTE + rb"(" + _QUOTED + rb")").match
_close = re.compile(_SPACE + rb"(/?)>").match
_end_tag = re.compile(rb"</(" + _NAME + rb")" + _SPACE + rb">").match
_references = re.compile(rb"&#(?:([0-9]+)|x([0-9A-Fa-f]+));").finditer
_declaration = re.compile(
    rb"<\?xml version=[\"']1\.[0-9][\"'](?: encoding=[\"'](?P<encoding>[A-Za-z0-9._-]+)[\"'])?"
    rb"(?: standalone=[\"'](?:yes|no)[\"'])? ?\?>"
).fullmatch
_root = re.compile(rb"<(" + _any_of(ROOTS) + rb')(?: type="array")?' + _SPACE + rb"(/?)>").fullmatch
_row = re.compile(rb"<(" + _any_of(ROWS) + rb")" + _SPACE + rb"(/?)>").match
_row_end = re.compile(rb"<!\[CDATA\[|</" + _any_of(ROWS) + rb"[ \t\n\r]{0,16}>").search
_forbidden = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]").search
_known = {b"nil": (b"true", b"false"), b"type": tuple(word.encode() for word in TYPES)}

_START, _ROOT, _ROWS, _END = range(4)
_MARK = 32
"""More than the longest mark that ends a row, so that one cut in two is found."""


class Tag:
    """The end of the tag that begins at `at`, which has no `>` in its attributes. Raises: Unfilterable."""

    __slots__ = ("at",)

    def __init__(self, at: int) -> None:
        self.at = at

    def end(self, data: bytes | bytearray) -> int:
        end = data.find(b">", self.at) + 1
        if end:
            return end
        self.at = len(data)
        return -1


class Row:
    """The end of the row that begins at `at`: its first end tag, CDATA sections aside."""

    __slots__ = ("_cdata", "_tag", "at")

    def __init__(self, at: int) -> None:
        self.at = at
        self._tag = True
        self._cdata = False

    def end(self, data: bytes | bytearray) -> int:
        while True:
            if self._tag:
                end = data.find(b">", self.at) + 1
                if end and data[end - 2 : end - 1] == b"/":
                    return end
                self._tag = not end
            elif self._cdata:
                end = data.find(b"]]>", self.at) + 3
                end = 0 if end == 2 else end
                self._cdata = not end
            else:
                found = _row_end(data, self.at)
                end = 0 if found is None else found.end()
                if found is not None and found[0][1:2] == b"/":
                    return end
                self._cdata = found is not None
            if not end:
                self.at = max(self.at, len(data) - _MARK)
                return -1
            self.at = end


@dataclass(frozen=True, slots=True)
class Element:
    """One element by offsets: `[start:end]` with its tags, `[content:close]` without. `space` is where the white
    space before it begins. `plain`: no children, and no attributes but the known ones."""

    name: bytes
    space: int
    start: int
    content: int
    close: int
    end: int
    plain: bool
    children: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One shape of row, in the element `row`. `custom`: which groups are a custom_data with the white space before;
    `hidden`: what is withheld of it."""

    match: Callable[[bytes, int], tuple[list[bytes], int] | None]
    row: bytes
    personal: bool
    custom: tuple[int, ...]
    hidden: tuple[tuple[ColumnClass, str], ...] = ()


_plans: Plans[Plan] = Plans()


class XmlFilter(Records[Plan]):
    """Takes a root with rows, passes a root with as many rows with the visible columns."""

    def __init__(self, reveal: Reveal) -> None:
        super().__init__(reveal)
        self._recent = _plans.recent(reveal)
        self._state = _START
        self._root = b""
        self._root_tag = b""
        self._opened = False

    def _ended(self) -> bool:
        return self._state == _END

    def _run(self, data: bytes, out: list[bytes]) -> int:
        sure = b"]]>" not in data  # which a plain text may not hold, and only the strict way looks for
        at, size = 0, len(data)
        while True:
            begun = at
            at = _space(data, at).end()  # type: ignore[union-attr]  # may be empty, so there is one
            if at > begun and self._state == _START:
                self._state = _ROOT  # XML 1.0 2.8: nothing may stand before a declaration
            if at == size:
                return at
            if data[at] != 0x3C or self._state == _END:  # <
                raise Unfilterable("the body is not a Transactions document")
            if self._state == _ROWS:
                if size - at < 2:
                    self._scan = Tag(0)
                    return at
                if data[at + 1] != 0x2F:  # /
                    end = self._record(data, at, out, sure)
                    if end < 0:
                        return at
                    at = end
                    continue
            end = self._whole(Tag(at), data)
            if end < 0:
                return at
            self._tag(data[at:end], out)
            at = end

    def _tag(self, tag: bytes, out: list[bytes]) -> None:
        """The declaration, and both tags of the root."""
        if self._state == _ROWS:
            found = _end_tag(tag)
            if found is None or found[1] != self._root:
                raise Unfilterable("the root has no end")
            out.append(b"" if self._opened else DECLARATION + self._root_tag)
            out.append(b"</" + self._root + b">\n")
            self._state = _END
            return
        declaration = _declaration(tag) if self._state == _START else None
        if declaration is not None:
            encoding = declaration["encoding"]
            if encoding is not None and encoding.lower() != b"utf-8":
                raise Unfilterable("the body is not UTF-8")
            self._state = _ROOT
            return
        root = _root(tag)
        if root is None:
            raise Unfilterable("the body is not a Transactions document")
        self._root, self._state = root[1], _END if root[2] else _ROWS
        self._root_tag = tag + b"\n"
        if root[2]:
            out.append(DECLARATION + self._root_tag)

    def _record(self, data: bytes, at: int, out: list[bytes], sure: bool) -> int:
        """Passes the row that begins at `at`. Returns its end, or -1 when that has not come yet."""
        for plan in self._recent if sure else ():
            found = plan.match(data, at)
            if found is not None:
                shown, end = found
                for place in plan.custom:
                    shown[place] = self._custom_text(shown[place])
                if plan is not self._recent[0]:
                    self._remember(plan)
                if plan is not self._counted:
                    self._count(plan, plan.hidden)
                break
        else:
            end = self._whole(Row(at), data)
            if end < 0:
                return -1
            plan, shown = self._parsed(data[at:end])
        self.tally.rows += 1
        self.tally.personal += plan.personal
        if not self._opened:
            out.append(DECLARATION + self._root_tag)
            self._opened = True
        out.append(b"  <" + plan.row + b">")
        out += shown
        out.append(b"\n  </" + plan.row + b">\n")
        return end

    def _text(self, data: bytes, end: int) -> None:
        super()._text(data, end)
        # XML 1.0 2.2: U+FFFE and U+FFFF are no characters
        if data.find(b"\xef\xbf\xbe", 0, end) >= 0 or data.find(b"\xef\xbf\xbf", 0, end) >= 0:
            raise Unfilterable("the body has a character that XML does not have")

    # -- the strict way

    def _parsed(self, record: bytes) -> tuple[Plan, list[bytes]]:
        """(a plan that says what row it is and whether it is personal, its visible children)."""
        opened = _row(record, 0)
        if opened is None:
            raise Unfilterable("a child of the root is no transaction")
        if opened[2]:
            return Plan(_never, opened[1], False, ()), []
        children, at = _children(record, opened.end(), 2)
        closed = _end_tag(record, at)
        if closed is None or closed[1] != opened[1] or closed.end() != len(record):
            raise Unfilterable("a record has no end")
        names = [_decoded(child.name) for child in children]
        if len(set(names)) < len(names):
            raise Unfilterable("a record names a column twice")
        shown, personal = [], False
        for name, child in zip(names, children, strict=True):
            text = self._shown(record, name, child)
            if text is not None:
                shown.append(text)
                personal = personal or self._reveal.personal(name)
        spaces = [record[child.space : child.start] + child.name for child in children]
        tail = record[children[-1].end if children else opened.end() :]
        shape = b"\0".join((opened[0], *spaces, tail))
        self._remember(
            _plans.learn(
                self._reveal, shape, lambda: self._plan(opened[0], opened[1], children, record, tail)
            )
        )
        return Plan(_never, opened[1], personal, ()), shown

    def _shown(self, record: bytes, name: str, child: Element) -> bytes | None:
        """The element as it may pass, with the white space before it; None when it may not."""
        reveal = self._reveal
        if reveal.everything:
            return record[child.space : child.end]
        if name == CUSTOM_DATA and (child.children or record[child.content : child.close].strip() == b""):
            text = self._custom(record, child)
            if text is not None:
                return text
        elif child.plain and reveal.sees(name):
            return record[child.space : child.end]
        self.tally.withhold(reveal.hidden_as(name), name)
        return None

    def _custom_text(self, text: bytes) -> bytes:
        """What a plan found of custom_data; its form is known to be right."""
        if self._reveal.everything:
            return text
        return self._custom(text, _element(text, 0, 2)) or b""

    def _custom(self, text: bytes, element: Element) -> bytes | None:
        """The element with its visible entries; None when its attributes or children are not the documented ones."""
        attributes, _ = _attributes(text, element.start + 1 + len(element.name))
        if not _all_known(attributes) or any(
            entry.name.decode() not in ENTRIES for entry in element.children
        ):
            return None
        if not element.children:
            return text[element.space : element.end]
        shown = [text[element.space : element.content]]
        shown += filter(None, (self._entry(text, entry) for entry in element.children))
        shown.append(text[element.children[-1].end : element.end])
        return b"".join(shown)

    def _entry(self, text: bytes, entry: Element) -> bytes | None:
        members = entry.children
        names = [_decoded(member.name) for member in members]
        labels = [_label(text, member) for name, member in zip(names, members, strict=True) if name in LABELS]
        opened, _ = _attributes(text, entry.start + 1 + len(entry.name))
        if len(set(names)) < len(names):
            raise Unfilterable("a record names a column twice")
        plain = all(member.plain for member in members) and _all_known(opened)
        if not labels or None in labels or not plain:
            self.tally.withhold(self._reveal.hidden_as(CUSTOM_DATA), CUSTOM_DATA)
            return None
        hidden = [label for label in labels if label is not None and not self._reveal.sees(label)]
        for label in hidden:
            self.tally.withhold(self._reveal.hidden_as(label), label)
        if hidden:
            return None
        kept = [
            text[m.space : m.end] for name, m in zip(names, members, strict=True) if name in ENTRY_MEMBERS
        ]
        if len(kept) < len(members):
            self.tally.withhold(self._reveal.hidden_as(CUSTOM_DATA), CUSTOM_DATA)
        head = text[entry.space : entry.content]
        return b"".join((head, *kept, text[members[-1].end : entry.end]))

    # -- the fast way

    def _plan(self, tag: bytes, row: bytes, children: Sequence[Element], record: bytes, tail: bytes) -> Plan:
        """The expression for rows of this shape: the same tags, with any plain text in every place."""
        parts: list[tuple[bytes, Shown]] = [(re.escape(tag), "no")]
        personal = False
        for child in children:
            name = _decoded(child.name)
            entries = name == CUSTOM_DATA
            shown: Shown = "alone" if entries else "yes" if self._reveal.sees(name) else "no"
            personal = personal or (shown != "no" and self._reveal.personal(name))
            element = _pattern(child.name, _CUSTOM if entries else _SURE_TEXT)
            parts.append((re.escape(record[child.space : child.start]) + element, shown))
        parts.append((re.escape(tail), "no"))
        expression = Expression(parts)
        names = (_decoded(child.name) for child in children)
        hidden = tuple(
            (self._reveal.hidden_as(name), name)
            for name in names
            if name != CUSTOM_DATA and not self._reveal.sees(name)
        )
        return Plan(expression.match, row, personal, tuple(expression.alone), hidden)


def _pattern(name: bytes, content: bytes) -> bytes:
    """An element of a name with certain content, or empty."""
    tag = re.escape(name)
    return b"<" + tag + _SURE_ATTRIBUTES + b"(?:/>|>" + content + b"</" + tag + b">)"


_CUSTOM_MEMBERS = b"|".join(_pattern(name.encode(), _SURE_TEXT) for name in sorted(ENTRY_MEMBERS))
_CUSTOM_ENTRY = _pattern(b"item", rb"(?:" + _SPACE + rb"(?:" + _CUSTOM_MEMBERS + rb"))*+" + _SPACE)
_CUSTOM = rb"(?:" + _SPACE + _CUSTOM_ENTRY + rb")*+" + _SPACE


def _never(_data: bytes, _at: int) -> None:
    return None


def _element(text: bytes, space: int, depth: int) -> Element:
    """The element behind the white space at `space`. Raises: Unfilterable."""
    if depth > MAX_DEPTH:
        raise Unfilterable("a record is nested too deep")
    start = _space(text, space).end()  # type: ignore[union-attr]  # may be empty, so there is one
    opened = _name(text, start)
    if opened is None:
        raise Unfilterable("a record has something other than elements")
    attributes, after = _attributes(text, opened.end())
    closed = _close(text, after)
    if closed is None:
        raise Unfilterable("a tag has no end")
    content = closed.end()
    if closed[1]:
        return Element(opened[1], space, start, content, content, content, _all_known(attributes), ())
    children: tuple[Element, ...] = ()
    close = _content(text, content)
    if text[close : close + 2] != b"</":
        children, close = _children(text, content, depth + 1)
    end = _end_tag(text, close)
    if end is None or end[1] != opened[1]:
        raise Unfilterable("an element has no end")
    plain = not children and _all_known(attributes)
    return Element(opened[1], space, start, content, close, end.end(), plain, children)


def _children(text: bytes, at: int, depth: int) -> tuple[tuple[Element, ...], int]:
    """The elements from `at` on, and where the end tag behind them begins. Raises: Unfilterable."""
    children: list[Element] = []
    while True:
        start = _space(text, at).end()  # type: ignore[union-attr]  # may be empty, so there is one
        if text[start : start + 2] == b"</":
            return tuple(children), start
        child = _element(text, at, depth)
        children.append(child)
        at = child.end


def _content(text: bytes, at: int) -> int:
    """Where the text at `at`, CDATA sections included, meets a tag. Raises: Unfilterable."""
    while True:
        end = _text(text, at).end()  # type: ignore[union-attr]  # may be empty, so there is one
        plain = text[at:end]
        if b"]]>" in plain:  # XML 1.0 2.4
            raise Unfilterable("a text holds the end of a CDATA section")
        _characters(plain)
        if text[end : end + 1] != b"<":
            raise Unfilterable("a text has a character or reference that XML does not have")
        if text[end : end + 9] != b"<![CDATA[":
            return end
        at = text.find(b"]]>", end) + 3
        if at == 2 or _forbidden(text, end, at):
            raise Unfilterable("a CDATA section has no end or a character that XML does not have")


def _characters(text: bytes) -> None:
    """Refuses references to what is no character: XML 1.0 sections 2.2 and 4.1."""
    for found in _references(text):
        code = int(found[1] or found[2], 10 if found[1] else 16)
        if not (
            code in (9, 10, 13)
            or 0x20 <= code <= 0xD7FF
            or 0xE000 <= code <= 0xFFFD
            or 0x10000 <= code <= MAX_REFERENCE
        ):
            raise Unfilterable("a text has a character or reference that XML does not have")


def _attributes(text: bytes, at: int) -> tuple[dict[bytes, bytes], int]:
    """The attributes from `at` on, with their quoted values, and where they end. Raises: Unfilterable."""
    attributes: dict[bytes, bytes] = {}
    while (found := _attribute(text, at)) is not None:
        if found[1] in attributes:  # XML 1.0 3.1
            raise Unfilterable("a tag has an attribute twice")
        _characters(found[2])
        attributes[found[1]] = found[2][1:-1]
        at = found.end()
    return attributes, at


def _all_known(attributes: dict[bytes, bytes]) -> bool:
    return all(value in _known.get(name, ()) for name, value in attributes.items())


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise Unfilterable("the body is not UTF-8") from None


_NAMED = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}


def _label(text: bytes, member: Element) -> str | None:
    """The text of an element that names a value; None for an empty one, or one with children or CDATA."""
    value = text[member.content : member.close]
    if member.children or not value or b"<" in value:
        return None
    return re.sub(rb"&([^;]*);", _resolved, value).decode(errors="replace")


def _resolved(found: re.Match[bytes]) -> bytes:
    name = found[1]
    if name[:1] != b"#":
        return _NAMED[name]
    return chr(int(name[2:], 16) if name[1:2] == b"x" else int(name[1:])).encode()
