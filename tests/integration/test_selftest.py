"""The short way is taken only where it fits, and its absence is told."""

from __future__ import annotations

import logging

import pytest
from aiohttp.web_protocol import RequestHandler

from gateway import selftest
from gateway.selftest import what_moved
from gateway.wire import Handler


async def test_the_installed_aiohttp_fits():
    assert await what_moved() is None


async def test_a_private_part_that_moved_is_named(monkeypatch):
    monkeypatch.setattr(selftest, "LEANED_ON", (*selftest.LEANED_ON, "_gone"))
    assert "_gone" in str(await what_moved())


@pytest.mark.parametrize(
    "broken",
    [
        lambda monkeypatch: monkeypatch.setattr(Handler, "_ours_to_read", lambda self: False),
        lambda monkeypatch: monkeypatch.setattr(Handler, "_wake", lambda self: None),
        lambda monkeypatch: monkeypatch.setattr(Handler, "data_received", lambda self, data: 1 / 0),
        lambda monkeypatch: monkeypatch.setattr(Handler, "exchanged", lambda self, close: None),
        lambda monkeypatch: monkeypatch.setattr(selftest._Lean, "repeat", lambda self, *_: None),
    ],
    ids=["not offered", "not woken", "raises", "not over", "not repeated"],
)
async def test_a_connection_that_behaves_otherwise_is_noticed(monkeypatch, broken):
    broken(monkeypatch)
    assert await what_moved() is not None


async def test_where_it_does_not_fit_everything_takes_the_general_way_and_an_alarm_says_so(
    monkeypatch, start, upstream, caplog
):
    monkeypatch.setattr(selftest, "LEANED_ON", ("_gone",))
    with caplog.at_level(logging.ERROR):
        gateway = await start(upstream.port)
    assert "fast-path-off" in caplog.text
    assert gateway.gateway.lean is None
    for _ in range(3):
        assert (await gateway.get("/api/2022-08-01/33/advertisers.json", "network")).status == 200


def test_aiohttp_still_has_the_class_that_is_extended():
    assert issubclass(Handler, RequestHandler)
