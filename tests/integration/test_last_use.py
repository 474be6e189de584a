"""Last uses: counted in memory, told in turns, shown to who may see the token, and in nobody's way."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from gateway import config
from gateway.config import Listen
from gateway.exchange import rfc3339
from gateway.lastuse import BATCH, LastUse
from gateway.model import Account, AuditEvent, Owner, Principal
from gateway.store import Use, open_store
from gateway.tomlfile import ConfigError

API = "/admin/api/tokens"
NI = "/api/2022-08-01/33/advertisers.json"
NOW = 1_800_000_000


async def shown(gateway, token_id):
    await gateway.gateway.uses.flush()
    return (await gateway.get(f"{API}/{token_id}", "network_admin")).json


def last(document):
    return [
        document[name] for name in ("last_used_at", "last_used_from", "last_used_for", "uses_24h", "uses_30d")
    ]


@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_token_shows_when_from_where_and_for_what_it_was_last_used(start, upstream, clock, fast_path):
    listen = Listen(fast_path=fast_path, trusted_proxies=("127.0.0.1/32",))
    gateway = await start(upstream.port, listen=listen)
    made = await gateway.create(scopes=["network:read"])
    assert last(await shown(gateway, made["id"])) == [None, None, None, 0, 0]
    for client in ("192.0.2.1", "2001:db8:1:2::3"):
        clock.advance(60)
        for _ in range(3):
            assert (await gateway.get(NI, made["token"], headers={"X-Forwarded-For": client})).status == 200
    used_at = rfc3339(int(clock()))
    assert last(await shown(gateway, made["id"])) == [used_at, "2001:db8:1::/48", "advertisers_list", 6, 6]
    clock.advance(25 * 3600)
    await gateway.get("/gateway/token", made["token"])
    row = await shown(gateway, made["id"])
    assert last(row)[2:] == ["token.self", 1, 7]
    listed = (await gateway.get(API, "network_admin")).json["tokens"][0]
    assert last(listed) == last(row)


async def test_a_refusal_by_policy_is_a_use_and_a_refused_token_is_none(gateway, clock):
    made = await gateway.create()
    assert (await gateway.get(NI, made["token"])).status == 403
    assert last(await shown(gateway, made["id"]))[2:] == ["advertisers_list", 1, 1]
    await gateway.request("POST", f"{API}/{made['id']}/pause", "network_admin")
    assert (await gateway.get(NI, made["token"])).status == 401
    assert last(await shown(gateway, made["id"]))[2:] == ["advertisers_list", 1, 1]


async def test_whether_the_old_secret_is_still_used_shows(gateway, clock):
    made = await gateway.create(scopes=["network:read"])
    await gateway.get(NI, made["token"])
    assert (await shown(gateway, made["id"]))["old_secret_used_at"] is None
    await gateway.request("POST", f"{API}/{made['id']}/rotate", "network_admin", json={"overlap": 3600})
    clock.advance(9)
    await gateway.get(NI, made["token"])
    assert (await shown(gateway, made["id"]))["old_secret_used_at"] == rfc3339(int(clock()))


async def test_what_was_counted_is_told_in_turns(start, upstream, monkeypatch, clock):
    monkeypatch.setattr("gateway.lastuse.TURN_S", 0.05)
    gateway = await start(upstream.port)
    made = await gateway.create()
    await gateway.get("/gateway/token", made["token"])
    for _ in range(100):
        await asyncio.sleep(0.02)
        found = await gateway.gateway.store.uses([made["id"]], now=clock())
        if found:
            break
    assert found[made["id"]].in_24h == 1


# --- the counting itself


def seen(token_id, at=NOW, earlier=False):
    event = AuditEvent("", at, "proxy", "GET", "192.0.2.7")
    event.principal = Principal(
        token_id,
        Owner("usr_1", Account("network", "33", "33"), "super", False),
        frozenset(),
        NOW,
        earlier=earlier,
    )
    return event


@pytest.fixture
async def store(tmp_path):
    opened = await open_store(
        config.Store(path=str(tmp_path / "gateway.sqlite3"), busy_timeout_s=0.2), lambda: NOW
    )
    yield opened
    await opened.close()


async def counts(store, *ids):
    return [row.in_24h if (row := (await store.uses(ids, now=NOW)).get(each)) else 0 for each in ids]


async def test_an_exchange_without_a_token_counts_for_nobody(store):
    uses = LastUse(store)
    uses.see(AuditEvent("", NOW))
    await uses.flush()
    assert not uses._seen


async def test_many_tokens_go_in_batches_and_none_is_lost(store):
    uses = LastUse(store)
    ids = [f"tok_{n}" for n in range(3 * BATCH + 1)]
    for _ in range(2):
        for token_id in ids:
            uses.see(seen(token_id))
    await uses.flush()
    assert sum(await counts(store, *ids)) == 2 * len(ids)


async def test_workers_add_up(store, tmp_path):
    other = await open_store(config.Store(path=str(tmp_path / "gateway.sqlite3")), lambda: NOW)
    workers = [LastUse(each) for each in (store, other)]
    for _ in range(5):
        for worker in workers:
            worker.see(seen("tok_1"))
        await asyncio.gather(*(worker.flush() for worker in workers))
    await other.close()
    assert await counts(store, "tok_1") == [10]


async def test_what_a_locked_file_does_not_take_is_told_later_and_once(store, tmp_path):
    uses = LastUse(store)
    lock = sqlite3.connect(tmp_path / "gateway.sqlite3-uses", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    uses.see(seen("tok_1"))
    for _ in range(2):
        uses.see(seen("tok_2"))
        await uses.flush()
    lock.execute("ROLLBACK")
    lock.close()
    assert await counts(store, "tok_1", "tok_2") == [0, 0]
    uses.see(seen("tok_1"))
    await uses.flush()
    assert await counts(store, "tok_1", "tok_2") == [2, 2]


async def test_a_turn_whose_answer_was_lost_is_told_again_and_counted_once(store):
    uses = LastUse(store)
    for turn in range(30):
        uses.see(seen("tok_1"))
        telling = asyncio.create_task(uses.flush())
        for _ in range(turn):
            await asyncio.sleep(0)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
    await uses.flush()
    assert await counts(store, "tok_1") == [30]


async def test_a_file_of_uses_in_the_way_of_nobody(store, tmp_path):
    """Who writes tokens does not wait for who counts, nor who counts for who writes tokens."""
    user = await store.add_user("ada@example.com", Account("network", "33", "33"), "super")
    for name in ("gateway.sqlite3-uses", "gateway.sqlite3"):
        lock = sqlite3.connect(tmp_path / name, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        if name.endswith("uses"):
            await store.set_user(user.id, role="observer")
        else:
            await store.add_uses([Use("tok_1", 1, NOW, "n", "o")], source="s", number=1)
        lock.execute("ROLLBACK")
        lock.close()
    assert await counts(store, "tok_1") == [1]


async def test_uses_that_cannot_be_read_fail_no_list(store, tmp_path, caplog):
    await store.add_uses([Use("tok_1", 1, NOW, "n", "o")], source="s", number=1)
    db = sqlite3.connect(tmp_path / "gateway.sqlite3-uses")
    db.execute("UPDATE uses SET hours = x'00'")
    db.commit()
    db.close()
    assert await store.uses(["tok_1"], now=NOW) == {}
    assert "store-unavailable operation=uses" in caplog.text


def path_of(tmp_path: Path) -> Path:
    return tmp_path / "gateway.sqlite3-uses"


async def test_the_file_of_uses_is_private_and_made_anew_when_it_is_gone(store, tmp_path):
    await store.close()
    assert stat.S_IMODE(path_of(tmp_path).stat().st_mode) == 0o600
    for file in tmp_path.glob("*-uses*"):
        os.unlink(file)
    again = await open_store(config.Store(path=str(tmp_path / "gateway.sqlite3")), lambda: NOW)
    assert await counts(again, "tok_1") == [0]
    await again.close()


@pytest.mark.parametrize("content", [b"no database" * 400, None])
async def test_a_file_of_uses_that_is_none_is_named_at_the_start(store, tmp_path, content):
    await store.close()
    if content is None:
        db = sqlite3.connect(path_of(tmp_path))
        db.execute("PRAGMA user_version = 77")
        db.close()
    else:
        path_of(tmp_path).write_bytes(content)
    with pytest.raises(ConfigError, match=r"store\.path: has a file of last uses .* remove .*-uses"):
        await open_store(config.Store(path=str(tmp_path / "gateway.sqlite3")), lambda: NOW)
