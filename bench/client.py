"""A client that trusts nothing: an answer is whole only when its framing says so and every byte has come.

It is used where answers are judged, not where they are timed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


class Broken(Exception):
    """The exchange did not end in a whole answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> str:
        """What the gateway says of its own refusals: the kind of the problem, or nothing."""
        return self.headers.get("gateway-answer", "")


class Client:
    """One connection, made when needed and kept while it can be."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def port(self) -> int:
        """The port that the connection comes from; 0 while there is none."""
        return 0 if self._writer is None else int(self._writer.get_extra_info("sockname")[1])

    async def send(self, wire: bytes) -> None:
        """Write bytes as they are. Raises: Broken."""
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            self._writer.write(wire)
            await self._writer.drain()
        except OSError as error:
            self.close()
            raise Broken(type(error).__name__) from None

    async def answer(self, timeout_s: float) -> Answer:
        """The next answer. Raises: Broken, when it is not whole or does not come in time."""
        assert self._reader is not None
        try:
            async with asyncio.timeout(timeout_s):
                return await self._answer(self._reader)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            self.close()
            raise Broken(type(error).__name__) from None

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        version, status, _ = (first + "  ").split(" ", 2)
        if not version.startswith("HTTP/1."):
            raise ValueError("no HTTP")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self._body(reader, int(status), headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(status), headers, body)

    async def _body(self, reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await chunked(reader)
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))
        self.close()  # an answer that ends with its connection cannot be told from one that was cut
        raise ValueError("an answer without a length")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


async def chunked(reader: asyncio.StreamReader) -> bytes:
    """A chunked body, to its last chunk. Raises: ValueError, EOFError."""
    pieces: list[bytes] = []
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip(), 16)
        data = await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk that does not end")
        if not size:
            return b"".join(pieces)
        pieces.append(data)
