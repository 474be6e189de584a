"""An upstream that does what it is asked to, faults included: `GET …?fault=cut&n=17&size=5000`.

The body of an answer follows from `n` and `size`, so that whoever asked knows it to the byte, and an answer that
belongs to another request shows. FAULTS says what may come of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

LATER_S = 0.3


@dataclass(frozen=True, slots=True)
class Expected:
    """What a client may get: the right 200 or not, the problems that may be named, and whether a break is fine."""

    whole: bool
    problems: tuple[str, ...] = ()
    broken: bool = False


FAULTS: dict[str, Expected] = {
    "none": Expected(whole=True),
    "chunked": Expected(whole=True),
    "slow": Expected(whole=True),
    "dribble": Expected(whole=True),
    "closing": Expected(whole=True),
    "hang": Expected(False, ("upstream-timeout",)),
    "stall": Expected(False, ("upstream-timeout",), broken=True),
    "reset": Expected(False, ("upstream-unreachable",)),
    "early": Expected(False, ("upstream-unreachable",)),
    "cut": Expected(False, ("upstream-invalid",), broken=True),
    "cut-chunked": Expected(False, ("upstream-invalid",), broken=True),
    "garbage": Expected(False, ("upstream-invalid",)),
    "half-head": Expected(False, ("upstream-invalid",)),
    "bad-chunk": Expected(False, ("upstream-invalid",), broken=True),
    # What is more than was declared belongs to no answer: the declared part is right, and may also be refused.
    "too-much": Expected(True, ("upstream-invalid",), broken=True),
    "500": Expected(False, ("upstream-failed",)),
    "401": Expected(False, ("upstream-refused-us",)),
    "302": Expected(False, ("upstream-redirect",)),
}
"""Each fault, and what a client may see of it. After the last of them a connection may be unusable or not."""


def body(n: int, size: int) -> bytes:
    """The body of request `n`: JSON text of exactly `size` bytes (40 at least), another one for each `n`."""
    word = hashlib.sha256(str(n).encode()).hexdigest()
    return (f'{{"n": {n}, "text": "' + word * (size // 64 + 1))[: size - 2].encode() + b'"}'


def head(status: str, *fields: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", "Content-Type: application/json", *fields, "", "")).encode()


class Scripted:
    """The server. `wrong` counts requests that did not carry the credential; `served` all of them."""

    def __init__(self, credential: str) -> None:
        self._line = f"authorization: {credential}"
        self._scripts: dict[str, Callable[[asyncio.StreamWriter, bytes], Awaitable[bool | None]]] = {
            "none": _none, "chunked": _chunked, "slow": _slow, "dribble": _dribble, "closing": _closing,
            "hang": _hang, "stall": _stall, "reset": _reset, "early": _early, "cut": _cut,
            "cut-chunked": _cut_chunked, "garbage": _garbage, "half-head": _half_head, "bad-chunk": _bad_chunk,
            "too-much": _too_much, "500": _failed, "401": _refused, "302": _moved,
        }  # fmt: skip
        self.served = 0
        self.wrong = 0
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serves on a free port of loopback, whose URL this is; every connection is ended at the end."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            left = list(self._tasks)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=2)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)  # asyncio itself holds tasks by weak references only
        try:
            while await self._one(reader, writer):
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the gateway left, which is its right
        except asyncio.CancelledError:
            pass  # all of it ends; asyncio's server would report each as a mistake
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One exchange. Whether the connection goes on."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.served += 1
        fields = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines[1:]}
        if fields.get("content-length", "0") != "0":
            await reader.readexactly(int(fields["content-length"]))
        if self._line not in (f"{name}: {value}" for name, value in fields.items()):
            self.wrong += 1
            writer.write(head("418 I'm a teapot", "Content-Length: 0"))
            return True
        asked = {k: v[0] for k, v in parse_qs(urlsplit(lines[0].split(" ")[1]).query).items()}
        content = body(int(asked.get("n", "0")), int(asked.get("size", "100")))
        goes_on = await self._scripts[asked.get("fault", "none")](writer, content)
        if goes_on is None:  # nothing more comes: the gateway has to end it
            await reader.read()
        return bool(goes_on)


def _length(content: bytes) -> str:
    return f"Content-Length: {len(content)}"


async def _none(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(head("200 OK", _length(content)) + content)
    return True


def _chunks(content: bytes, size: int = 1000) -> list[bytes]:
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]


async def _chunked(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(head("200 OK", "Transfer-Encoding: chunked") + b"".join(_chunks(content)) + b"0\r\n\r\n")
    return True


async def _slow(writer: asyncio.StreamWriter, content: bytes) -> bool:
    await asyncio.sleep(LATER_S)
    return await _none(writer, content)


async def _dribble(writer: asyncio.StreamWriter, content: bytes) -> bool:
    whole = head("200 OK", _length(content)) + content
    step = len(whole) // 5 + 1
    for at in range(0, len(whole), step):
        writer.write(whole[at : at + step])
        await writer.drain()
        await asyncio.sleep(LATER_S / 5)
    return True


async def _closing(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(head("200 OK", _length(content), "Connection: close") + content)
    await writer.drain()
    return False


async def _hang(_: asyncio.StreamWriter, __: bytes) -> None:
    return None


async def _stall(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(head("200 OK", _length(content)) + content[: len(content) // 2])
    await writer.drain()


async def _reset(writer: asyncio.StreamWriter, _: bytes) -> bool:
    made: socket.socket | None = writer.get_extra_info("socket")
    if made is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _early(_: asyncio.StreamWriter, __: bytes) -> bool:
    return False


async def _cut(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(head("200 OK", _length(content)) + content[:-1])
    await writer.drain()
    return False


async def _cut_chunked(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(head("200 OK", "Transfer-Encoding: chunked") + b"".join(_chunks(content)))
    await writer.drain()
    return False


async def _garbage(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(b"\x00\xff\x16\x03" + content)
    await writer.drain()
    return False


async def _half_head(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(head("200 OK", _length(content))[:-10])
    await writer.drain()
    return False


async def _bad_chunk(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(head("200 OK", "Transfer-Encoding: chunked") + b"".join(_chunks(content)) + b"zz\r\n\r\n")
    await writer.drain()
    return False


async def _too_much(writer: asyncio.StreamWriter, content: bytes) -> bool:
    more = head("200 OK", "Content-Length: 9") + b"NOT YOURS"
    writer.write(head("200 OK", _length(content)) + content + more)
    return True


async def _failed(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(head("500 Internal Server Error", _length(content)) + content)
    return True


async def _refused(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(head("401 Unauthorized", _length(content)) + content)
    return True


async def _moved(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(head("302 Found", _length(content), "Location: http://127.0.0.1:1/") + content)
    return True
