"""An upstream of fixed answers, for where nginx is missing: `python -m bench.static PORT TOKEN`.

It answers 418 to anything that does not carry exactly the upstream credential, so that a gateway which does not
put it in place of the client's token cannot score.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import cast

from bench.bodies import SMALL, WRONG_CREDENTIAL, all_bodies


def answers(bodies: Mapping[str, bytes]) -> dict[bytes, bytes]:
    """Whole answers, head and body, by path."""
    return {path.encode(): answer("200 OK", body) for path, body in bodies.items()}


def answer(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Static(asyncio.Protocol):
    """One connection. Requests have no body: what follows a head is the next one."""

    def __init__(self, token: str, prepared: Mapping[bytes, bytes]) -> None:
        self._line = b"\r\nauthorization: " + token.encode() + b"\r\n"
        self._prepared = prepared
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by class

    def data_received(self, data: bytes) -> None:
        *heads, self._held = (self._held + data).split(b"\r\n\r\n")
        for head in heads:
            self._transport.write(reply(head + b"\r\n", self._line, self._prepared))


def reply(head: bytes, line: bytes, prepared: Mapping[bytes, bytes]) -> bytes:
    """The answer to one request head (with its last line end). `line` is the credential's, name in lower case."""
    low = head.lower()
    at = low.find(b"\r\nauthorization:")
    if (
        low.count(b"\r\nauthorization:") != 1
        or head[at : at + 16].lower() + head[at + 16 : at + len(line)] != line
    ):
        return answer("418 I'm a teapot", WRONG_CREDENTIAL)
    path = head.split(b" ", 2)[1].partition(b"?")[0]
    return prepared.get(path) or prepared[SMALL.encode()]


async def serve(port: int, token: str) -> None:
    prepared = answers(all_bodies())
    server = await asyncio.get_running_loop().create_server(
        lambda: Static(token, prepared), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("token")
    options = parser.parse_args()
    import uvloop

    uvloop.run(serve(options.port, options.token))


if __name__ == "__main__":
    main()
