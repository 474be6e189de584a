"""Writes that wait for the end of a turn of the loop. Real sockets, both event loops."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

from gateway.outbox import Outbox
from tests.upstream import both_loops


@asynccontextmanager
async def a_pair():
    """A transport, and the socket at its other end, which does not block."""
    near, far = socket.socketpair()
    far.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
    try:
        yield transport, far
    finally:
        transport.abort()
        far.close()


def came(far: socket.socket) -> bytes:
    try:
        return far.recv(100)
    except BlockingIOError:
        return b""


@both_loops
async def test_what_one_turn_brings_forth_goes_out_in_order_at_its_end():
    outbox = Outbox()
    async with a_pair() as (one, its_end), a_pair() as (two, other_end):
        outbox.put(one, b"a")
        outbox.put(two, b"b")
        outbox.put(one, b"c")
        assert (came(its_end), came(other_end), outbox.turn) == (b"", b"", 0)
        await asyncio.sleep(0)
        assert (came(its_end), came(other_end), outbox.turn) == (b"ac", b"b", 1)
        outbox.put(two, b"d")
        await asyncio.sleep(0)
        assert (came(its_end), came(other_end), outbox.turn) == (b"", b"d", 2)


@both_loops
async def test_it_goes_out_before_whatever_was_called_for_behind_it():
    outbox, seen = Outbox(), []
    async with a_pair() as (transport, far):
        outbox.put(transport, b"first")
        asyncio.get_running_loop().call_soon(lambda: seen.append(came(far)))
        await asyncio.sleep(0.01)
        assert seen == [b"first"]


@both_loops
async def test_who_is_about_to_close_need_not_wait():
    outbox = Outbox()
    async with a_pair() as (transport, far):
        outbox.put(transport, b"last words")
        outbox.flush()
        transport.close()
        assert came(far) == b"last words"
        await asyncio.sleep(0.01)
        assert came(far) == b""


@both_loops
async def test_one_transport_that_was_closed_keeps_nothing_from_the_others():
    outbox = Outbox()
    async with a_pair() as (gone, its_end), a_pair() as (there, other_end):
        gone.abort()
        await asyncio.sleep(0.01)
        outbox.put(gone, b"to nobody")
        outbox.put(there, b"to somebody")
        await asyncio.sleep(0.01)
        assert (came(its_end), came(other_end)) == (b"", b"to somebody")
