"""Tokens of ours in any bytes, however they are spelled there: feed a stream piece by piece, and close it.

Found are tokens that stand there plainly; with any of their characters percent-encoded (also repeatedly), or
escaped as in JSON, in C or in HTML, or as in quoted-printable mail; in UTF-16; in hexadecimal; inside base64, of
either alphabet, at any offset; all of these also where lines are broken in the middle. The prefix has to be spelled in
one way throughout. Not found are tokens inside base64 that is itself encoded again, in lines that carry a mark of
their own (the `> ` of a quoted mail), compressed (`scan.py` opens what is), or cut short.

What is found has the form of a token. Only its signature says whether it is one: `tokens.recognise`.
"""

from __future__ import annotations

import base64
import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.tokens import FORM, HEADER_CHARS, MAX_TOKEN_CHARS, PREFIX

OVERLAP = 65_536
"""Bytes that the longest token takes, in its longest spelling, with its lines broken."""
WINDOW = 1_048_576
_LONGEST = 24_576  # the same without line breaks, and so in characters that are not gaps

_PREFIX = PREFIX.encode()
_WIDE = PREFIX.encode("utf-16-le")
_GAPS = b"\0\t\n\v\f\r "  # NUL too: without it, UTF-16 of a token is the token
_SOLID = re.compile(rb"[^\0\t\n\v\f\r ]+")
# Breaks that are written out, each with as many gaps in its place, so that no position moves. In UTF-16 too.
_NARROW = ((b"=\r\n", b" \r\n"), (b"=\n", b" \n"), (b"\\n", b"  "), (b"\\r", b"  "))
_BREAKS = (
    *_NARROW,
    *((b"\0".join(map(bytes, zip(old))), b"\0".join(map(bytes, zip(new)))) for old, new in _NARROW),
)

# One character, or a run of plain ones. All is bounded: a text of nothing but prefixes must not take long either.
_UNIT = re.compile(
    rb"([A-Za-z0-9_.-]{1,2048})|(?:%(?:25){0,8}+|\\{1,4}+u00|\\{1,4}+x|=)([0-9A-Fa-f]{2})"
    rb"|&#0{0,5}+([0-9]{2,3});|&#[xX]0{0,5}+([0-9A-Fa-f]{2});"
)
_ESCAPED = re.compile(rb"%(?:25){0,8}+65%|\\u0065\\|\\x65\\|=65=|&#0{0,5}+101;&|&#[xX]0{0,5}+65;&")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{1,8192}")
_HEX = re.compile(rb"(?:[0-9A-Fa-f]{2}){1,2048}")


@dataclass(frozen=True, slots=True)
class Hit:
    """A text with a token's form, and where it begins: line (from 1) and byte (from 0). Its repr keeps the secret."""

    text: str = field(repr=False)
    line: int
    offset: int


class Finder:
    """Looks through one stream. Holds at most `window` + OVERLAP bytes and the last piece."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._held = bytearray()
        self._line = 1
        self._offset = 0

    def feed(self, piece: bytes) -> list[Hit]:
        """What was found up to here. A token is told once all that could belong to it has come."""
        self._held += piece
        if len(self._held) < self._window + OVERLAP:
            return []
        return self._look(len(self._held) - OVERLAP)

    def close(self) -> list[Hit]:
        """What was found in the rest."""
        return self._look(len(self._held))

    def _look(self, until: int) -> list[Hit]:
        """The hits that begin before `until`, which is then let go."""
        raw = bytes(self._held)
        blank = raw
        for written, gaps in _BREAKS:
            blank = blank.replace(written, gaps)
        dense = blank.translate(None, _GAPS)
        found = sorted(_hits(dense))
        hits = []
        counted = 0
        if found:
            places = _Places(blank)
            for start, text in found:
                at = places.of(start)
                if at < until:
                    self._line += raw.count(b"\n", counted, at)
                    counted = at
                    hits.append(Hit(text, self._line, self._offset + at))
        self._line += raw.count(b"\n", counted, until)
        self._offset += until
        del self._held[:until]
        return hits


class _Places:
    """Where the characters of the dense text stood before its gaps were taken out."""

    def __init__(self, blank: bytes) -> None:
        self._dense: list[int] = []
        self._raw: list[int] = []
        total = 0
        for run in _SOLID.finditer(blank):
            self._dense.append(total)
            self._raw.append(run.start())
            total += run.end() - run.start()

    def of(self, position: int) -> int:
        run = bisect.bisect_right(self._dense, position) - 1
        return self._raw[run] + position - self._dense[run]


def _hits(dense: bytes) -> Iterator[tuple[int, str]]:
    """(position, text) of everything with a token's form in bytes without gaps."""
    for start in _all(dense, _PREFIX):
        yield from _token(start, dense, start)
    for match in _ESCAPED.finditer(dense):
        yield from _token(match.start(), dense, match.start())
    for anchor in (_PREFIX.hex().encode(), _PREFIX.hex().upper().encode()):
        for start in _all(dense, anchor):
            if digits := _HEX.match(dense, start):
                yield from _token(start, bytes.fromhex(digits[0].decode()).translate(None, _GAPS))
    for anchor, missing in _ANCHORS:
        for start in _all(dense, anchor):
            yield from _token(start, _unwrapped(dense, start, missing))


def _all(dense: bytes, anchor: bytes) -> Iterator[int]:
    start = dense.find(anchor)
    while start >= 0:
        yield start
        start = dense.find(anchor, start + 1)


def _token(start: int, spelled: bytes, at: int = 0) -> Iterator[tuple[int, str]]:
    """The token that a spelling begins with, if there is one: where it ends is told by its form."""
    plain, end = bytearray(), at + _LONGEST
    while _may_become_one(plain) and (unit := _UNIT.match(spelled, at, end)):
        run, digits, decimal, entity = unit.groups()
        if run:
            plain += run
        else:
            code = int(decimal) if decimal else int(digits or entity, 16)
            if code > 0x7F:
                break
            plain.append(code)
        at = unit.end()
    token = FORM.match(plain.decode("ascii"))
    if token and len(token[0]) <= MAX_TOKEN_CHARS:
        yield start, token[0]


def _may_become_one(plain: bytearray) -> bool:
    """Whether a token may begin like this and go on, so that reading on is worth it."""
    return (
        len(plain) <= MAX_TOKEN_CHARS
        and plain[: len(_PREFIX)] == _PREFIX[: len(plain)]
        and plain[HEADER_CHARS : HEADER_CHARS + 1] == b"."[: max(0, len(plain) - HEADER_CHARS)]
        and plain.count(b".") <= 2
    )


# --- base64


def _anchors() -> Iterator[tuple[bytes, int]]:
    """How the prefix reads inside base64, at each of the three offsets, and how many characters of its first group
    are missing before that: those hold bits of what stands before the token.

    A token is ASCII, so neither of the two alphabets' last characters, nor padding, can be within it.
    """
    for text in (_PREFIX, _WIDE):
        for offset, missing in ((0, 0), (1, 2), (2, 3)):
            encoded = base64.b64encode(b"\0" * offset + text)
            yield encoded[missing : (offset + len(text)) * 8 // 6], missing


_ANCHORS = tuple(_anchors())


def _unwrapped(dense: bytes, start: int, missing: int) -> bytes:
    """What the base64 from an anchor on says, from the token's first character on, without gaps."""
    run = _BASE64.match(dense, start)
    text = b"A" * missing + (run[0] if run else b"")
    text = text if len(text) % 4 != 1 else text[:-1]  # one character of a group says no byte
    plain = bytearray(base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_"))
    offset = max(0, missing - 1)
    plain[offset] = _PREFIX[0]  # it shared a character with what stood before
    return bytes(plain[offset:]).translate(None, _GAPS)
