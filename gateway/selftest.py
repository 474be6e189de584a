"""Whether the short way still fits the aiohttp that is installed: asked once, at the start.

`wire.Handler` leans on private parts of aiohttp's connection class, which may move in any release. Here they are
looked for by name, and then driven through an in-memory transport. What does not fit turns the short way off,
loudly; the general way needs none of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from gateway.config import Limits
from gateway.exchange import Exchanges
from gateway.lean import Exchange, Lean
from gateway.wire import Server

LEANED_ON = (
    "_parser", "_messages", "_waiter", "_upgraded", "_message_tail", "_buffer_paused", "_max_msg_queue_size",
    "_payload_parser", "_pause_reading_for_buffer", "_force_close", "_close", "_request_count", "_current_request",
    "_next_keepalive_close_time", "_keepalive_timeout", "_process_keepalive", "_keepalive_handle", "_loop",
    "_request_in_progress",
)  # fmt: skip
GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


async def what_moved() -> str | None:
    """What of aiohttp is not where the short way expects it, in words; None when all is well."""
    missing = [name for name in LEANED_ON if not hasattr(RequestHandler, name)]
    if missing:
        return f"RequestHandler lacks {', '.join(missing)}"
    served: list[str] = []

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        served.append(request.path)
        return web.Response()

    lean, transport = _Lean(), _Transport()
    server = Server(web.Server(serve), cast(Exchanges, None), Limits(), cast(Lean, lean))
    connection = server()
    try:
        connection.connection_made(transport)
        await asyncio.sleep(0)
        connection.data_received(GET % 1)  # taken
        connection.data_received(GET % 2 + GET % 3)  # pipelined behind it: to wait, in order
        await asyncio.sleep(0)
        if (lean.seen, served) != (["/1"], []):
            return "a request was not offered to the short way, or one behind it did not wait"
        cast(Any, connection).exchanged(False)
        await _until(lambda: len(served) == 2)
        waited = list(served)
        connection.data_received(b"POST /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok")
        await _until(lambda: len(served) == 3)
        if (lean.seen, waited, served) != (["/1"], ["/2", "/3"], ["/2", "/3", "/4"]):
            return "requests behind an exchange, or with a body, did not take the general way in order"
        ready = cast(Any, connection)._ours_to_read
        await _until(ready)
        connection.data_received(GET % 5)
        await _until(lambda: len(served) == 4 and ready())
        lean.plans[GET % 5] = "a plan"
        connection.data_received(GET % 5)  # taken without being parsed
        cast(Any, connection).exchanged(False)
        connection.data_received(GET % 6)
        await _until(lambda: len(served) == 5)
        if (lean.seen, served[3:]) != (["/1", "a plan"], ["/5", "/6"]):
            return "a request that was not parsed a second time left the parser out of step"
        # A client that has the answer, and is quicker than aiohttp's own loop is to wait for what comes next.
        transport.then = lambda: _receive_in_two(connection, GET % 8)
        connection.data_received(GET % 7)
        await _until(lambda: len(lean.seen) == 3)
        if (lean.seen[2:], served[5:]) != (["/8"], ["/7"]):
            return "a request right behind an answer was not offered to the short way"
    except Exception as error:
        return f"driving a connection ended in {type(error).__name__}"
    finally:
        connection.connection_lost(None)
    return None


def _receive_in_two(connection: RequestHandler, data: bytes) -> None:
    connection.data_received(data[:9])
    connection.data_received(data[9:])


async def _until(true: Any) -> None:
    for _ in range(100):
        if true():
            return
        await asyncio.sleep(0)


class _Lean:
    """Takes two of the requests and what it knows, and leaves every other."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.plans: dict[bytes, str] = {}

    def take(
        self, client: object, peer: str, message: RawRequestMessage, data: bytes | None
    ) -> Exchange | None:
        if message.path not in ("/1", "/8"):
            return None
        self.seen.append(message.path)
        return cast(Exchange, _Exchange())

    def repeat(self, client: object, peer: str, plan: str) -> Exchange:
        self.seen.append(plan)
        return cast(Exchange, _Exchange())


class _Exchange:
    def left(self) -> None:
        """The connection has gone."""


class _Transport(asyncio.Transport):
    then: Callable[[], None] | None = None
    """What happens once the next bytes are out."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        then, self.then = self.then, None
        if then is not None:
            asyncio.get_running_loop().call_soon(then)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"")

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""

    def abort(self) -> None:
        """Nothing is open."""

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def get_write_buffer_size(self) -> int:
        return 0
