"""A load generator of our own, for where wrk is missing, and where requests are to be paced:
`python -m bench.generator URL --connections 8 --seconds 5 --header 'Name: value'`.

Closed loop: each connection sends its next request when it has the whole answer (and after `--pause-ms`). It
prints one line of JSON. It is one process on one CPU, and does less than wrk would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from bench.report import percentile, say

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked *\r\n", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close *\r\n", re.IGNORECASE)


@dataclass
class Counts:
    """What happened, over all connections. Latencies in µs."""

    requests: int = 0
    bytes: int = 0
    faults: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[int] = field(default_factory=list)


class Client(asyncio.Protocol):
    """One connection, opened again when it is lost."""

    def __init__(self, counts: Counts, wire: Callable[[], bytes], pause_s: float) -> None:
        self._counts = counts
        self._wire = wire
        self._pause_s = pause_s
        self._stopped = False
        self._transport: asyncio.Transport | None = None
        self._reset()

    def _reset(self) -> None:
        self._head = b""
        self._left = -1  # of the body; -1 while in the head, -2 for a chunked one
        self._closes = False
        self._under_way = False

    def stop(self) -> None:
        self._stopped = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by class
        self._send()

    def _send(self) -> None:
        if self._stopped or self._transport is None or self._transport.is_closing():
            return
        self._reset()
        self._under_way = True
        self._began = time.perf_counter()
        self._transport.write(self._wire())

    def data_received(self, data: bytes) -> None:
        self._counts.bytes += len(data)
        if self._left == -1:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._head[: end + 2], self._head[end + 4 :]
            if not self._read_head(head):
                return
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._done()
        else:  # chunked: only the end is looked for
            self._head = (self._head + data)[-5:]
            if self._head.endswith(b"0\r\n\r\n"):
                self._done()

    def _read_head(self, head: bytes) -> bool:
        self._status = int(head[9:12]) if head[:5] == b"HTTP/" and head[9:12].isdigit() else 0
        self._closes = CLOSES.search(head) is not None
        length = LENGTH.search(head)
        if length is not None:
            self._left = int(length[1])
        elif CHUNKED.search(head):
            self._left, self._head = -2, b""
        elif self._status in (204, 304):
            self._left = 0
        else:
            self._counts.faults += 1
            assert self._transport is not None
            self._under_way = False
            self._transport.abort()
            return False
        return True

    def _done(self) -> None:
        counts = self._counts
        counts.requests += 1
        counts.latencies.append(int((time.perf_counter() - self._began) * 1e6))
        counts.statuses[self._status] = counts.statuses.get(self._status, 0) + 1
        self._under_way = False
        if self._closes:
            assert self._transport is not None
            self._transport.abort()
        elif self._pause_s:
            # Not in step with the others: all at once would measure a queue.
            asyncio.get_running_loop().call_later(self._pause_s * random.uniform(0.5, 1.5), self._send)  # noqa: S311
        else:
            self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._under_way and not self._stopped:
            self._counts.faults += 1
            self._under_way = False


async def keep_connected(client: Client, host: str, port: int, end: float, counts: Counts) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < end:
        if client._transport is None:
            try:
                await loop.create_connection(lambda: client, host, port)
            except OSError:
                counts.faults += 1
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.01)


def fresh_forgeries(authorization: str) -> Callable[[], str]:
    """The credential with another wrong signature each time."""
    serial = 0

    def make() -> str:
        nonlocal serial
        serial += 1
        return f"{authorization[:-30]}{serial:010d}{authorization[-20:]}"

    return make


def wire_of(host: str, target: str, fields: dict[str, str], forge: bool) -> Callable[[], bytes]:
    """What makes the bytes of each request."""

    def encode(authorization: str | None) -> bytes:
        sent = fields if authorization is None else fields | {"Authorization": authorization}
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *(f"{k}: {v}" for k, v in sent.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    if forge:
        forged = fresh_forgeries(fields["Authorization"])
        return lambda: encode(forged())
    same = encode(None)
    return lambda: same


async def run(
    url: str,
    fields: dict[str, str],
    connections: int,
    seconds: float,
    pause_s: float = 0.0,
    forge: bool = False,
) -> dict[str, object]:
    """Load one URL and count. Ends when the time is over, whatever is under way."""
    place = urlsplit(url)
    target = place.path + (f"?{place.query}" if place.query else "")
    counts = Counts()
    wire = wire_of(place.netloc, target, fields, forge)
    clients = [Client(counts, wire, pause_s) for _ in range(connections)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(
        *(keep_connected(c, place.hostname or "", place.port or 80, began + seconds, counts) for c in clients)
    )
    elapsed = loop.time() - began
    for client in clients:
        client.stop()
    return summary(counts, elapsed)


def summary(counts: Counts, elapsed_s: float) -> dict[str, object]:
    """Counts as they are printed; latencies in µs."""
    ordered = sorted(counts.latencies)
    return {
        "requests": counts.requests,
        "seconds": elapsed_s,
        "bytes": counts.bytes,
        "faults": counts.faults,
        "statuses": {str(status): n for status, n in sorted(counts.statuses.items())},
        "p50_us": percentile(ordered, 50),
        "p99_us": percentile(ordered, 99),
        "max_us": ordered[-1] if ordered else 0,
    }


def pairs(texts: list[str]) -> dict[str, str]:
    """`Name: value` texts as headers."""
    split = [text.partition(":") for text in texts]
    return {name.strip(): value.strip() for name, _, value in split}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="between an answer and the next request")
    parser.add_argument("--header", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument("--forge", action="store_true", help="spoil the credential anew for each request")
    options = parser.parse_args()
    import uvloop

    found = uvloop.run(
        run(options.url, pairs(options.header), options.connections, options.seconds,
            options.pause_ms / 1000, options.forge)
    )  # fmt: skip
    say(json.dumps(found))


if __name__ == "__main__":
    main()
