"""The upstream's answers, read strictly: bytes in, calls to a sink out. No sockets and no clock.

Where an answer could be read in two ways it is refused, never repaired: what follows on the connection could
otherwise be taken for the answer to somebody else's request. Bodies are counted, de-chunked or read to the end of
the connection; extensions of chunks, trailers, interim answers and the reason phrase are dropped.

Sources: RFC 9112 sections 2.2, 4, 5, 6, 7, 8 and 9.3; RFC 9110 sections 5.5, 7.6.1, 8.6 and 15.2.
"""

from __future__ import annotations

import re
from typing import Protocol

from gateway.problem import Problem

Headers = tuple[tuple[bytes, bytes], ...]

MAX_HEAD = 65_536
"""Bytes of one head, interim ones too, without the empty line."""
MAX_HEADERS = 200
MAX_INTERIM = 8
MAX_LENGTH_DIGITS = 18
"""A Content-Length of more digits is a mistake or an attack, not a body."""
MAX_LINE = 4_096
"""Bytes of a line that is not content: a chunk's size with its extension, or a trailer."""
MAX_OVERHEAD = 16_384
"""Bytes of chunk extensions, beyond what the chunks themselves excuse, and of all trailers, in one answer."""

CRLF = b"\r\n"
HEEDED = frozenset(
    (b"content-type", b"content-language", b"content-disposition", b"content-encoding", b"location")
)
"""Names that a sink is told of: what travels on, and what is judged. Every other is checked and let go: upstreams send
a dozen that nobody here asks for."""

_TEXT = bytes(b for b in range(256) if b == 9 or (b >= 32 and b != 127))
_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LINE_ENDS = tuple(CRLF * n for n in range(MAX_HEADERS + 1))
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_BODYLESS = frozenset((204, 304))
_PLAIN = frozenset((b"close", b"keep-alive", b""))
"""Options of a connection that name no header."""
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[\t ]*;[\t\x20-\x7e\x80-\xff]*)?")
_BARE_LF = re.compile(rb"(?<!\r)\n")


class _Line:
    """What one line of a head says to us, in one of four ways. `options` are those of a Connection header."""

    __slots__ = ("coding", "field", "length", "options")

    def __init__(
        self,
        field: tuple[bytes, bytes] | None = None,
        length: int | None = None,
        options: frozenset[bytes] | None = None,
        coding: bytes | None = None,
    ) -> None:
        self.field = field
        self.length = length
        self.options = options
        self.coding = coding


# What upstreams send again and again is judged once. Bounded: an upstream that varies it costs time, not memory.
_names: dict[bytes, bytes] = {}
_status_lines: dict[bytes, tuple[bool, int]] = {}
_lines: dict[bytes, _Line | None] = {}
"""Whole lines of headers as they were judged; None for one that nobody heeds."""
_line_of = _lines.__getitem__
_MAX_KNOWN = 512

_HEAD, _LENGTH, _CLOSE, _SIZE, _DATA, _DATA_END, _TRAILERS, _ENDED = range(8)


class Invalid(Exception):
    """The upstream's bytes are not an answer. The text is a fixed phrase of ours, never theirs."""


class Cut(Invalid):
    """The connection ended inside an answer (RFC 9112 section 8): what came is incomplete."""


class Sink(Protocol):
    """Who an answer is told to, synchronously, inside the transport's callback.

    `on_whole`, or `on_head` and then any number of `on_body`; last exactly one of `on_done` and `on_error`. An
    `on_error` may come alone. Headers are the HEEDED ones, in lower case, in order, repeats kept. `length` is
    the declared Content-Length, also where no body follows (HEAD, 304); None when none was declared.
    """

    def on_whole(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:
        """A complete answer that came in one read."""

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        """The head of an answer whose body is still coming."""

    def on_body(self, data: bytes) -> None:
        """The next bytes of the content, never empty."""

    def on_done(self) -> None:
        """The clean end. The connection already serves others or is gone."""

    def on_error(self, problem: Problem, again: bool) -> None:
        """No clean end will come. `again`: the same request may be sent once more (RFC 9110 section 9.2.2)."""


class Parser:
    """Reads one answer after another from one connection. `expect` starts one, `feed` and `eof` carry it on."""

    __slots__ = ("_buffer", "_interim", "_left", "_no_body", "_overhead", "_sink", "_state", "keep")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._sink: Sink | None = None
        self._state = _ENDED
        self._no_body = False
        self._interim = 0
        self._left = 0
        self._overhead = 0
        self.keep = False

    def expect(self, sink: Sink, no_body: bool) -> None:
        """An answer is due, and `sink` hears it. `no_body`: it answers a HEAD (RFC 9112 section 6.3)."""
        self._sink = sink
        self._no_body = no_body
        self._state = _HEAD
        self._interim = 0

    def stop(self) -> None:
        """Nobody is listening any more: nothing is told from here on."""
        self._sink = None
        self._state = _ENDED

    @property
    def in_head(self) -> bool:
        """Whether the final head has not been seen to its end."""
        return self._state == _HEAD

    def feed(self, data: bytes) -> bool:
        """Takes the next bytes, at least one. True at the end of the answer; `keep` then says whether another
        may follow on the connection. Raises: Invalid."""
        state = self._state
        if state == _HEAD:
            return self._feed_head(data)
        if state == _LENGTH:
            return self._feed_length(data)
        if state == _CLOSE:
            self._tell(data)
            return False
        if state == _ENDED:
            raise Invalid("bytes without a request")
        return self._feed_chunks(data)

    def eof(self) -> None:
        """The connection was closed in good order. Raises: Cut unless that is what ends this body."""
        if self._state != _CLOSE:
            raise Cut("closed inside an answer")
        self._state = _ENDED

    def _tell(self, data: bytes) -> None:
        if self._sink is not None and data:
            self._sink.on_body(data)

    # -- the head

    def _feed_head(self, data: bytes) -> bool:
        if self._buffer:
            data = self._joined(data)
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._keep_partial_head(data)
                return False
            if end > MAX_HEAD:
                raise Invalid("head too large")
            if self._head(data, end) >= 200:
                return self._state == _ENDED
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise Invalid("too many interim answers")
            data = data[end + 4 :]
            if not data:
                return False

    def _joined(self, data: bytes) -> bytes:
        """What was kept and `data`; or, while the empty line has not come, just enough to go on waiting."""
        kept = self._buffer
        seen = len(kept)
        kept += data
        if kept.find(b"\r\n\r\n", max(0, seen - 3)) < 0 and len(kept) <= MAX_HEAD:
            # Searched from where the last search ended: a head that comes byte by byte stays linear.
            self._refuse_early(kept, seen)
            return b""
        data = bytes(kept)
        kept.clear()
        return data

    def _keep_partial_head(self, data: bytes) -> None:
        if len(data) > MAX_HEAD:
            raise Invalid("head too large")
        if data:
            self._refuse_early(data, 0)
            self._buffer += data

    def _refuse_early(self, data: bytes | bytearray, seen: int) -> None:
        """What cannot become a head is refused now, not when the time is up. `seen` bytes were judged before."""
        if seen < 7 and not data.startswith(b"HTTP/1."[: len(data)]):
            raise Invalid("not HTTP/1")
        if _BARE_LF.search(data, seen):
            raise Invalid("bare line feed in the head")

    def _head(self, data: bytes, end: int) -> int:
        """Judges and splits the head `data[:end]`, tells a final one together with what is there of its body.

        Returns the status."""
        head = data[:end]
        lines = head.split(CRLF)
        try:
            current, status = _status_lines[lines[0]]
            known = list(filter(None, map(_line_of, lines[1:])))
        except KeyError:
            (current, status), known = _judged(head, lines)
        if len(lines) > MAX_HEADERS + 1:
            raise Invalid("head bytes")
        headers: list[tuple[bytes, bytes]] = []
        length: int | None = None
        chunked = False
        options: frozenset[bytes] | None = None
        for line in known:
            if line.field is not None:
                headers.append(line.field)
            elif line.length is not None:
                if length is not None:
                    # RFC 9112 6.3 (5). Two that agree are refused as well: nobody who means well sends two.
                    raise Invalid("content length")
                length = line.length
            elif line.options is not None:
                options = line.options if options is None else options | line.options
            else:
                if chunked or line.coding != b"chunked" or not current:
                    raise Invalid("transfer coding")
                chunked = True
        if chunked and length is not None:
            raise Invalid("two framings")  # RFC 9112 6.1: an attack, not a choice
        if status < 200:
            # RFC 9110 15.2: interim answers are read past. A switch of protocols was never asked for (7.8).
            if status == 101:
                raise Invalid("switch of protocols")
            return status

        self.keep = current
        if options is not None:
            self.keep = b"close" not in options and (current or b"keep-alive" in options)
            if not options <= _PLAIN:
                headers = [header for header in headers if header[0] not in options]  # RFC 9110 7.6.1
        self._body(status, tuple(headers), length, chunked, data[end + 4 :])
        return status

    def _body(self, status: int, headers: Headers, length: int | None, chunked: bool, rest: bytes) -> None:
        """RFC 9112 section 6.3, in its order, over `rest`: what came behind the head in the same read."""
        sink = self._sink
        if sink is None:
            return
        if self._no_body or status in _BODYLESS:
            if status == 204:
                # RFC 9110 8.6, RFC 9112 6.1: neither belongs here. A body may be on its way: go no further.
                self.keep = self.keep and not length and not chunked
                length = None
            self._end(rest)
            sink.on_whole(status, headers, length, b"")
        elif chunked:
            self._state = _SIZE
            self._overhead = 0
            body = self._chunks(rest)
            if self._state == _ENDED:
                sink.on_whole(status, headers, None, body)
            else:
                sink.on_head(status, headers, None)
                self._tell(body)
        elif length is None:
            self._state = _CLOSE
            self.keep = False
            sink.on_head(status, headers, None)
            self._tell(rest)
        elif len(rest) >= length:
            self._state = _ENDED
            if len(rest) > length:
                self._end(rest)
                rest = rest[:length]
            sink.on_whole(status, headers, length, rest)
        else:
            self._state = _LENGTH
            self._left = length - len(rest)
            sink.on_head(status, headers, length)
            self._tell(rest)

    def _end(self, extra: bytes) -> None:
        self._state = _ENDED
        if extra:
            self.keep = False  # bytes that nobody asked for: this answer stands, the connection does not

    # -- the body

    def _feed_length(self, data: bytes) -> bool:
        left = self._left = self._left - len(data)
        if left > 0:
            self._tell(data)
            return False
        if left:
            self._end(data[left:])
            data = data[:left]
        else:
            self._state = _ENDED
        self._tell(data)
        return True

    def _feed_chunks(self, data: bytes) -> bool:
        body = self._chunks(data)
        ended = self._state == _ENDED
        self._tell(body)
        return ended

    def _chunks(self, data: bytes) -> bytes:
        """The content in `data`, RFC 9112 section 7.1. An unfinished line waits in the buffer, content never."""
        if self._buffer:
            data = bytes(self._buffer) + data
            self._buffer.clear()
        state, left, at, size = self._state, self._left, 0, len(data)
        pieces = []
        while at < size:
            if state == _DATA:
                piece = data[at : at + left]
                pieces.append(piece)
                at += len(piece)
                left -= len(piece)
                if not left:
                    state = _DATA_END
            elif state == _DATA_END:
                mark = data[at : at + 2]
                if mark != CRLF:
                    if mark != b"\r":
                        raise Invalid("end of a chunk")
                    break
                at += 2
                state = _SIZE
            else:
                end = data.find(CRLF, at, at + MAX_LINE + 2)
                if end < 0:
                    if size - at > MAX_LINE + 1 or _BARE_LF.search(data, at):
                        raise Invalid("line between chunks")
                    break
                line = data[at:end]
                at = end + 2
                if state == _SIZE:
                    left = self._chunk_size(line)
                    state = _DATA if left else _TRAILERS
                elif line:
                    self._trailer(line)
                else:
                    self._end(data[at:])
                    return b"".join(pieces)
        self._state, self._left = state, left
        if at < size:
            self._buffer += data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _chunk_size(self, line: bytes) -> int:
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise Invalid("chunk size")
        size = int(found[1], 16)
        # RFC 9112 7.1.1: limit the extensions of the whole answer. Content earns its chunks some overhead.
        self._overhead = max(0, self._overhead + len(line) - 16 - 2 * size)
        if self._overhead > MAX_OVERHEAD:
            raise Invalid("chunk extensions")
        return size

    def _trailer(self, line: bytes) -> None:
        name, colon, value = line.partition(b":")
        self._overhead += len(line)
        if self._overhead > MAX_OVERHEAD:
            raise Invalid("trailers")
        if not colon or not name or name.translate(None, _TOKEN) or value.translate(None, _TEXT):
            raise Invalid("trailer")


def _read_status_line(line: bytes) -> tuple[bool, int]:
    """(HTTP/1.1 rather than 1.0, status). The space before an absent reason may be absent too."""
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise Invalid("status line")
    known = found[1] == b"1", int(found[2])
    if len(_status_lines) < _MAX_KNOWN and len(line) < 64:
        _status_lines[line] = known
    return known


def _judged(head: bytes, lines: list[bytes]) -> tuple[tuple[bool, int], list[_Line]]:
    """The lines of a head, one of which at least was never seen before: status line and headers, as remembered."""
    count = len(lines) - 1
    # One pass for every byte: without text, exactly the line ends are left. A bare CR or LF, a NUL or another
    # control byte leaves something else (RFC 9112 2.2, RFC 9110 5.5).
    if count > MAX_HEADERS or head.translate(None, _TEXT) != _LINE_ENDS[count]:
        raise Invalid("head bytes")
    status_line = _status_lines.get(lines[0]) or _read_status_line(lines[0])
    read = [_lines[line] if line in _lines else _read_line(line) for line in lines[1:]]
    return status_line, [line for line in read if line is not None]


def _read_line(line: bytes) -> _Line | None:
    """One header, remembered when it is short: most come again with the next answer."""
    name, colon, value = line.partition(b":")
    lower = _names.get(name) or _read_name(name)
    if not colon:
        raise Invalid("header without a colon")
    read = _meaning(lower, value.strip(b"\t "))
    if len(line) <= 128:
        if len(_lines) >= _MAX_KNOWN:  # dates and ids never come again: what does will be back at once
            _lines.clear()
        _lines[line] = read
    return read


def _meaning(name: bytes, value: bytes) -> _Line | None:
    """What a header says to us, by its name in lower case; None for one that nobody here heeds."""
    if name == b"content-length":
        if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
            raise Invalid("content length")
        return _Line(length=int(value))
    if name == b"transfer-encoding":
        return _Line(coding=value.lower())
    if name == b"connection":
        return _Line(options=frozenset(option.strip(b"\t ") for option in value.lower().split(b",")))
    return _Line(field=(name, value)) if name in HEEDED else None


def _read_name(name: bytes) -> bytes:
    """A header name in lower case. Refuses an empty one, a space before the colon, and a folded line."""
    if not name or name.translate(None, _TOKEN):
        raise Invalid("header name")
    lower = name.lower()
    if len(_names) < _MAX_KNOWN and len(name) < 64:
        _names[name] = lower
    return lower
