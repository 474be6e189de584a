"""Liveness, readiness and metrics over real sockets, and what happens while something under the gateway is broken."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config import Admin, Record, SideListener, Store

NI = "/api/2022-08-01/33/advertisers.json"


@contextmanager
def no_more_bytes_in(path):
    """No file of this process may grow beyond the size of this one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(path).stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def samples(text):
    return dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))


async def test_a_gateway_that_is_up_is_alive_and_ready(gateway):
    assert (await gateway.get("/healthz")).json == {"status": "ok"}
    answer = await gateway.get("/readyz")
    assert (answer.status, answer.json["status"]) == (200, "ready")
    assert answer.json["checks"] == {"store": "ok", "record": "ok"}
    policies = answer.json["policies"]
    assert (len(policies.pop("digest")), policies) == (16, {"generation": 0})
    assert answer.headers["Gateway-Answer"] == "ok"


async def test_an_upstream_that_is_down_does_not_make_us_unready(start):
    running = await start(9)
    assert (await running.get("/readyz")).status == 200


async def test_a_closed_store_is_not_ready_and_still_alive(gateway):
    await gateway.gateway.store.close()
    answer = await gateway.get("/readyz")
    assert (answer.status, answer.headers["Gateway-Answer"]) == (503, "not-ready")
    assert answer.json["checks"] == {"store": "cannot answer", "record": "ok"}
    assert (await gateway.get("/healthz")).status == 200


async def test_a_store_that_another_writer_locks_still_checks_tokens_and_makes_none(
    start, upstream, tmp_path
):
    settings = Store(path=str(tmp_path / "locked.sqlite3"), keys=str(tmp_path / "keys"), busy_timeout_s=0.1)
    running = await start(upstream.port, store=settings)
    other = sqlite3.connect(settings.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert (await running.get(NI, "network")).status == 200
        assert (await running.get("/readyz")).status == 200
        answer = await running.request(
            "POST", "/admin/api/tokens", "network_admin", json={"description": "abc"}
        )
        assert (answer.status, answer.problem) == (503, "store-unavailable")
    finally:
        other.close()
    await running.create(description="abc")


async def test_a_record_that_cannot_be_written_stops_changes_and_turns_readiness_red(
    gateway, upstream, caplog
):
    path = gateway.gateway.config.record.path
    with no_more_bytes_in(path):
        read = await gateway.get(NI, "network")
        write = await gateway.request(
            "PUT", "/api/2022-08-01/33/advertisers/706.json", "network", json={"name": "x"}
        )
        ready = await gateway.get("/readyz")
    assert read.status == 200
    assert (write.status, write.problem) == (503, "record-unavailable")
    assert [seen.method for seen in upstream.journal] == ["GET"]
    assert (ready.status, ready.json["checks"]) == (503, {"store": "ok", "record": "cannot be written"})
    assert "record-unavailable" in caplog.text


async def test_the_first_record_that_can_be_written_turns_readiness_green(gateway, upstream):
    with no_more_bytes_in(gateway.gateway.config.record.path):
        await gateway.get("/healthz")
        assert (await gateway.get("/readyz")).status == 503
    await gateway.get("/healthz")
    assert (await gateway.get("/readyz")).status == 200
    assert (
        await gateway.request("PUT", "/api/2022-08-01/33/advertisers/706.json", "network", json={"name": "x"})
    ).status == 200
    begun, exchange = gateway.records()[-2:]
    assert (begun["event"], exchange["event"], begun["request_id"]) == (
        "begun",
        "exchange",
        exchange["request_id"],
    )


async def test_a_record_on_a_full_device_never_lets_a_change_through(start, upstream):
    running = await start(upstream.port, record=Record("/dev/full"))
    for method, path, body in (
        ("PUT", "/api/2022-08-01/33/advertisers/706.json", {"name": "x"}),
        ("DELETE", "/api/2022-08-01/33/advertisers/706.json", None),
        ("POST", "/api/2022-08-01/networks/33/js_tags/0054811245/go_live.json", None),
    ):
        answer = await running.request(method, path, "network", **({} if body is None else {"json": body}))
        assert (answer.status, answer.problem) == (503, "record-unavailable")
    assert not upstream.journal


async def test_metrics_count_what_happened(gateway):
    await gateway.get(NI, "network")
    await gateway.get(NI, "advertiser")
    await gateway.get(f"/gateway/token?x={gateway.tokens['affiliate']}")
    answer = await gateway.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(answer.body)
    assert found['invoca_gateway_exchanges_total{surface="proxy",status="200",problem=""}'] == "1"
    assert found['invoca_gateway_exchanges_total{surface="proxy",status="403",problem="denied"}'] == "1"
    assert found["invoca_gateway_exposed_tokens_total"] == "1"
    assert found["invoca_gateway_record_failures"] == "0"
    assert found["invoca_gateway_upstream_busy"] == "0"


async def test_nothing_a_client_writes_becomes_a_label(gateway):
    await gateway.raw(b"BREW /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 1.0)
    await gateway.raw(b"GET /made-up/path HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 1.0)
    await gateway.request("POST", "/oauth/token", data={"grant_type": "made-up"})
    text = (await gateway.get("/metrics")).body.decode()
    assert "BREW" not in text
    assert "made-up" not in text


async def test_an_alarm_is_counted_under_its_name(gateway, monkeypatch):
    def broken(*_):
        raise RuntimeError

    monkeypatch.setattr("gateway.operation.Catalogue.identify", broken)
    assert (await gateway.get(NI, "network")).problem == "internal-error"
    found = samples((await gateway.get("/metrics")).body)
    assert found['invoca_gateway_alarms_total{event="internal-error"}'] == "1"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_operations_are_read_and_nothing_else(gateway, upstream, path):
    assert (await gateway.request("HEAD", path)).status == 200
    answer = await gateway.request("POST", path, "network_admin")
    assert (answer.status, answer.problem, answer.headers["Allow"]) == (
        405,
        "method-not-allowed",
        "GET, HEAD",
    )
    assert not upstream.journal


async def test_a_listener_of_their_own_takes_operations_off_the_public_one(start, upstream):
    running = await start(upstream.port, operations=SideListener(port=0))
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await running.get(path)).status in (401, 404)
    _, side = running.gateway._runners
    aside = replace(running, port=side.addresses[0][1])
    assert (await aside.get("/readyz")).status == 200
    assert (await aside.get("/metrics")).status == 200
    assert (await aside.get(NI, "network")).status == 404


async def test_the_admin_api_may_sit_on_a_listener_of_its_own(start, upstream):
    running = await start(upstream.port, admin=Admin(port=0))
    assert (await running.get("/admin/api/tokens", "network_admin")).status == 404
    aside = replace(running, port=running.gateway._runners[1].addresses[0][1])
    assert (await aside.get("/admin/api/tokens", "network_admin")).status == 200


async def test_every_exchange_here_is_recorded_too(gateway):
    await gateway.get("/readyz")
    record = gateway.records()[-1]
    assert (record["surface"], record["status"], record["outcome"]) == ("operations", 200, "complete")
