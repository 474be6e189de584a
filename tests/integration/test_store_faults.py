"""The SQLite store when things go wrong: locks, full and broken disks, cancelled and killed writers.

Whatever happens, the store says "store-unavailable" or the truth, and what it acknowledged is there afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway import config
from gateway.model import Account
from gateway.problem import Problem
from gateway.store import Store, Which, open_store
from gateway.store.decode import TOKEN
from gateway.store.migrations import STEPS
from gateway.store.sqlite import SqliteStore
from gateway.store.statements import FIND, FIND_EARLIER, STATE, chosen_tokens, index_of, tokens_page
from gateway.tokens import jti_digest, new_jti
from gateway.tomlfile import ConfigError

NETWORK = Account("network", "33", "33")
NOW = 1_800_000_000
ROOT = Path(__file__).parents[2]
BUSY_S = 0.3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.sqlite3"


OPENED: list[SqliteStore] = []


async def opened(path: Path, busy_timeout_s: float = BUSY_S) -> SqliteStore:
    store = await open_store(config.Store(path=str(path), busy_timeout_s=busy_timeout_s), lambda: NOW)
    assert isinstance(store, SqliteStore)
    OPENED.append(store)
    return store


@pytest.fixture(autouse=True)
async def _every_store_is_closed() -> AsyncIterator[None]:
    yield
    while OPENED:  # a failed test must not leave a thread that keeps the run from ending
        await OPENED.pop().close()


@pytest.fixture
async def store(path: Path) -> SqliteStore:
    return await opened(path)


async def a_jti(store: Store, **changes: Any) -> str:
    """The `jti` of a new token of a new owner."""
    jti = new_jti()
    owner = await store.add_user(f"{jti}@example.com", NETWORK, "super")
    values: dict[str, Any] = {
        "description": "reports",
        "scopes": ["transactions:read"],
        "expires_at": NOW + 9,
    }
    await store.create_token(jti_digest=jti_digest(jti), owner_id=owner.id, **(values | changes))
    return jti


async def assert_unavailable(act: Any) -> None:
    with pytest.raises(Problem) as caught:
        await act
    assert (caught.value.kind, caught.value.status, caught.value.detail) == ("store-unavailable", 503, "")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another writer in the middle of its transaction."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def by_hand(path: Path, sql: str, values: tuple[Any, ...] = ()) -> None:
    """A change by a hand that is not ours, checks off."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA ignore_check_constraints = ON")
    db.execute(sql, values)
    db.commit()
    db.close()


def overwrite(path: Path, at: int, content: bytes) -> None:
    """Damage to a file that nobody has open."""
    path.touch()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


async def test_a_locked_database_refuses_writes_in_time_and_goes_on_reading(
    store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jti = await a_jti(store)
    with locked(path):
        began = time.monotonic()
        await assert_unavailable(store.add_user("ada@example.com", NETWORK, "super"))
        assert BUSY_S <= time.monotonic() - began < BUSY_S + 1
        assert await store.find(jti_digest(jti)) is not None
        await store.ping()
    assert "locked by another writer" in caplog.text
    assert "ada@example.com" not in caplog.text
    await store.add_user("ada@example.com", NETWORK, "super")


async def test_a_read_never_waits_for_a_writer(store: SqliteStore, path: Path) -> None:
    jti = await a_jti(store)
    with locked(path):
        writing = asyncio.create_task(store.add_account(Account("network", "44", "44")))
        for _ in range(20):
            assert await store.find(jti_digest(jti)) is not None
            assert not writing.done()
        await assert_unavailable(writing)


async def test_writers_that_queue_behind_a_lock_are_all_answered_by_their_deadline(
    store: SqliteStore, path: Path
) -> None:
    with locked(path):
        began = time.monotonic()
        acts = [store.add_account(Account("advertiser", str(i), "33")) for i in range(10)]
        results = await asyncio.gather(*acts, return_exceptions=True)
        assert time.monotonic() - began < BUSY_S + 1.5
    assert {getattr(result, "kind", None) for result in results} == {"store-unavailable"}
    await store.add_account(NETWORK)


async def test_a_writer_cancelled_while_it_waits_for_a_lock_leaves_nothing(
    store: SqliteStore, path: Path
) -> None:
    with locked(path):
        task = asyncio.create_task(store.add_account(NETWORK))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await store.add_account(Account("network", "44", "44"))
    assert await store.account("network", "33") is None


async def test_a_read_beyond_its_deadline_is_interrupted_and_the_next_one_answers(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    monkeypatch.setattr(store, "_deadline_s", 0.2)
    await assert_unavailable(store._read("endless", endless, (), list))
    monkeypatch.undo()
    await store.ping()


async def test_a_full_disk_refuses_the_write_wholly_and_goes_on_reading(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    jti = await a_jti(store)
    ((pages,),) = await store._writer.execute_fetchall("PRAGMA page_count")
    await store._writer.execute_fetchall(f"PRAGMA max_page_count = {pages}")
    owner = await store.user_by_email(f"{jti}@example.com")
    assert owner is not None
    values: dict[str, Any] = {"owner_id": owner.id, "scopes": ["transactions:read"], "expires_at": NOW + 9}
    made = 0

    async def fill_up() -> None:
        nonlocal made
        while made < 10_000:
            await store.create_token(jti_digest=jti_digest(new_jti()), description=f"{made:0120}", **values)
            made += 1

    await assert_unavailable(fill_up())
    assert "disk full" in caplog.text
    generation = await store.generation()
    kept = (await store.list_tokens(limit=500, now=NOW)).rows
    assert len(kept) == made + 1
    assert await store.find(jti_digest(jti)) is not None
    await store._writer.execute_fetchall("PRAGMA max_page_count = 1000000")
    assert await store.delete_token(kept[0].id, by=owner.id, at=NOW) is not None
    assert await store.generation() == generation + 1


async def test_a_write_the_system_cuts_short_is_undone(store: SqliteStore, path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    await a_jti(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(f"{path}-wal").st_size + 100, hard))
    try:
        await assert_unavailable(store.add_account(Account("network", "44", "44")))
        assert await store.account("network", "33") == NETWORK
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert await store.account("network", "44") is None
    await store.add_account(Account("network", "44", "44"))


async def test_a_read_only_database_is_refused_at_the_start() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gateway.sqlite3")
        await (await opened(path)).close()
        os.chmod(path, 0o400)
        # The owner of everything may write to anything: be somebody else for a moment.
        os.chmod(folder, 0o755)
        somebody = 65_534 if os.geteuid() == 0 else os.geteuid()
        me = os.geteuid()
        os.chown(path, somebody, -1)
        os.seteuid(somebody)
        try:
            with pytest.raises(ConfigError, match=r"store\.path: (read-only|cannot be opened)"):
                await opened(path)
        finally:
            os.seteuid(me)


@pytest.mark.parametrize("where", ["none/gateway.sqlite3", "."])
async def test_a_path_that_is_no_file_is_refused_at_the_start(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.path: "):
        await opened(tmp_path / where)


async def test_a_file_that_is_no_database_is_refused_at_the_start(path: Path) -> None:
    overwrite(path, 0, b"this is not a database, and never was one" * 200)
    with pytest.raises(ConfigError, match=r"store\.path: not a database"):
        await opened(path)


async def test_a_damaged_database_answers_nothing_it_cannot_read(path: Path) -> None:
    store = await opened(path)
    jti = await a_jti(store)
    await store.close()
    db = sqlite3.connect(path)
    pages = "SELECT rootpage FROM sqlite_schema WHERE rootpage > 0 AND tbl_name <> 'generation'"
    roots = [page for (page,) in db.execute(pages)]
    db.close()
    for page in roots:  # every table and index, but not the schema, nor the number that is read at the start
        overwrite(path, (page - 1) * 4096, b"\xa5" * 4096)
    store = await opened(path)
    await assert_unavailable(store.find(jti_digest(jti)))
    await assert_unavailable(store.add_account(Account("network", "44", "44")))


@pytest.mark.parametrize(
    "change",
    [
        "tokens SET scopes = 'everything'",
        "tokens SET scopes = ''",
        "tokens SET accounts = '[1]'",
        "tokens SET accounts = '{}'",
        "tokens SET accounts = 'null'",
        "tokens SET networks = '[\"anywhere\"]'",
        "tokens SET networks = '[['",
        "tokens SET outlives_maker = 7",
        "users SET role = 'root'",
        "users SET active = 2",
        "users SET administrator = -1",
        "accounts SET kind = 'agency'",
        "accounts SET network = '44'",
        "generation SET one = 2",
    ],
)
async def test_a_row_that_does_not_read_is_no_answer_and_never_a_default(
    store: SqliteStore, path: Path, change: str
) -> None:
    jti = await a_jti(store)
    by_hand(path, f"UPDATE {change}")
    if "generation" in change:
        await assert_unavailable(store.ping())
        await assert_unavailable(store.add_account(Account("network", "44", "44")))
    elif "accounts SET kind" in change:  # the owner's account is gone: there is no such pair any more
        assert await store.find(jti_digest(jti)) is None
    else:
        await assert_unavailable(store.find(jti_digest(jti)))


async def test_a_paused_token_is_live_makes_nothing_and_is_listed_as_paused(
    store: SqliteStore, path: Path
) -> None:
    jti = await a_jti(store)
    by_hand(path, "UPDATE tokens SET paused_at = ?", (NOW,))
    found = await store.find(jti_digest(jti))
    assert found is not None
    assert found[0].state(NOW) == "paused"
    assert (await store.list_tokens(state="paused", network="33", now=NOW)).rows == (found[0],)
    values: dict[str, Any] = {"owner_id": found[1].id, "scopes": ["transactions:read"], "expires_at": NOW + 9}
    with pytest.raises(Problem, match="description-taken"):
        await store.create_token(jti_digest=jti_digest("1"), description="Reports", **values)
    with pytest.raises(Problem, match="invalid-token"):
        await store.create_token(jti_digest=jti_digest("2"), description="new", made_by=found[0].id, **values)


async def test_no_value_is_logged_even_when_everything_is(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = await opened(path)
    jti = await a_jti(store)
    await store.find(jti_digest(jti))
    owner = await store.add_user("ada@example.com", NETWORK, "super")
    values: dict[str, Any] = {"owner_id": owner.id, "scopes": ["transactions:read"], "expires_at": NOW + 9}
    await assert_unavailable(  # SQLite's own words for this name the column of the digest
        store.create_token(jti_digest=jti_digest(jti), description="again", **values)
    )
    await store.close()
    assert "class=IntegrityError" in caplog.text
    assert jti not in caplog.text
    assert repr(jti_digest(jti)) not in caplog.text
    assert "@example.com" not in caplog.text


async def test_what_is_erased_is_overwritten_whatever_sqlite_was_built_with(store: SqliteStore) -> None:
    assert list(await store._writer.execute_fetchall("PRAGMA secure_delete")) == [(1,)]


# --- migrations


RELEASED = (
    "202f22e7b396bf39",
    "b1ccfd62e853d47b",
    "40f5fe826c666fde",
    "d35a9a2178edd0c0",
    "7a6c6ccfd3bf3a12",
)


def test_a_released_step_is_never_edited_only_followed() -> None:
    digests = tuple(hashlib.sha256("\0".join(step).encode()).hexdigest()[:16] for step in STEPS)
    assert digests == RELEASED, (
        "databases out there have the old text: put it back, and add a step at the end"
    )


OPEN = """
import asyncio, sys
from gateway import config
from gateway.store import open_store

async def main():
    store = await open_store(config.Store(path=sys.argv[1], busy_timeout_s=20.0), lambda: 1)
    print(await store.generation(), flush=True)
    await store.close()

asyncio.run(main())
"""


def child(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE)


def test_processes_starting_at_once_migrate_once(path: Path) -> None:
    starting = [child(OPEN, str(path)) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in starting] == [b"1"] * 3
    assert [process.returncode for process in starting] == [0] * 3
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


async def test_stores_opening_at_once_in_one_process_migrate_once(path: Path) -> None:
    stores = await asyncio.gather(*(opened(path, 10.0) for _ in range(8)))
    assert {await store.generation() for store in stores} == {1}
    for store in stores:
        await store.close()


async def test_a_step_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(path)
    jti = await a_jti(store)
    await store.close()
    broken = ("ALTER TABLE tokens ADD COLUMN extra TEXT", "CREATE TABLE tokens (id TEXT)")
    with monkeypatch.context() as patch:
        patch.setattr("gateway.store.migrations.STEPS", (*STEPS, broken))
        with pytest.raises(ConfigError):
            await opened(path)
    store = await opened(path)
    assert await store.find(jti_digest(jti)) is not None
    await store.close()


MIGRATE = """
import asyncio, sys
from gateway import config
from gateway.store import migrations, open_store

LONG = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000000)"
migrations.STEPS = (
    *migrations.STEPS,
    ("ALTER TABLE tokens ADD COLUMN extra TEXT", f"CREATE TABLE long AS {LONG} SELECT i, hex(randomblob(50)) FROM n"),
)
asyncio.run(open_store(config.Store(path=sys.argv[1], busy_timeout_s=20.0), lambda: 1))
"""


def wait_for(name: str, size: int) -> None:
    """Until a file has grown to so many bytes."""
    deadline = time.monotonic() + 30
    while not os.path.exists(name) or os.path.getsize(name) < size:
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_a_migration_that_is_killed_half_way_leaves_the_file_as_it_was(path: Path) -> None:
    store = await opened(path)
    jti = await a_jti(store)
    await store.close()
    for _ in range(2):
        migrating = child(MIGRATE, str(path))
        wait_for(f"{path}-wal", 4_000_000)  # a good part of the step is on the disk
        assert migrating.poll() is None
        migrating.kill()
        migrating.communicate()
        store = await opened(path, 5.0)
        assert await store.find(jti_digest(jti)) is not None
        await store.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
    assert "extra" not in [column[1] for column in db.execute("PRAGMA table_info(tokens)")]
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


async def test_a_database_of_the_first_release_goes_on_with_what_it_holds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jti, values = new_jti(), (NOW, NOW + 9)
    with monkeypatch.context() as patch:
        patch.setattr("gateway.store.migrations.STEPS", STEPS[:1])
        await (await opened(path)).close()
    by_hand(path, "INSERT INTO accounts VALUES ('network', '33', '33')")
    by_hand(
        path,
        "INSERT INTO users VALUES (1, 'usr_1', 'a@example.com', 'network', '33', 'super', 0, 1, NULL, 1)",
    )
    sql = """INSERT INTO tokens (id, jti_digest, owner_id, network, description, folded, scopes, created_at,
                                 expires_at, paused_at, outlives_maker, bootstrap)
             VALUES ('tok_1', ?, 'usr_1', '33', 'reports', 'reports', 'transactions:read', ?, ?, 1, 0, 0)"""
    by_hand(path, sql, (jti_digest(jti), *values))
    store = await opened(path)
    found = await store.find(jti_digest(jti))
    assert found is not None
    assert (found[0].state(NOW), found[0].paused_by, found[0].issued_at) == ("paused", None, NOW)
    row = await store.resume_token("tok_1", by="command line", anybodys=True, at=NOW)
    assert row is not None
    assert row.state(NOW) == "active"
    assert (await store.list_tokens(network="33", state="active", now=NOW)).rows == (row,)


# --- processes that die


WRITE = """
import asyncio, sys
from gateway import config
from gateway.model import Account
from gateway.store import open_store
from gateway.tokens import jti_digest, new_jti

async def main():
    store = await open_store(config.Store(path=sys.argv[1]), lambda: 1_800_000_000)
    owner = await store.user_by_email("ada@example.com") or await store.add_user(
        "ada@example.com", Account("network", "33", "33"), "super"
    )
    while True:
        jti = new_jti()
        made = await store.create_token(
            jti_digest=jti_digest(jti), owner_id=owner.id, description=jti, scopes=["transactions:read"],
            expires_at=1_800_000_009,
        )
        print("created", jti, flush=True)
        await store.delete_token(made.id, by=owner.id, at=1_800_000_001)
        print("deleted", jti, flush=True)

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_nine_at_any_moment(path: Path) -> None:
    chance = random.Random(20_260)
    said: dict[str, str] = {}
    for _ in range(10):
        writer = child(WRITE, str(path))
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        time.sleep(chance.uniform(0, 0.06))  # noqa: ASYNC251 - nothing else runs here
        writer.send_signal(signal.SIGKILL)
        lines += writer.communicate()[0].splitlines()
        for line in lines:
            word, _, jti = line.decode().strip().partition(" ")
            if len(jti) == 22:
                said[jti] = word
        store = await opened(path, 5.0)
        for jti, word in said.items():
            found = await store.find(jti_digest(jti))
            assert found is not None
            # A deletion may have been committed and its acknowledgement lost with the process.
            assert found[0].state(NOW) == "deleted" or word == "created"
        await store.close()
    assert "deleted" in said.values()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


KEYS = """
import json, sys
from gateway.store.keys import load_or_create_keys
print(json.dumps(load_or_create_keys(sys.argv[1]).jwks()))
"""


def test_processes_starting_at_once_create_one_signing_key(tmp_path: Path) -> None:
    starting = [child(KEYS, str(tmp_path / "keys")) for _ in range(3)]
    rings = [json.loads(process.communicate()[0]) for process in starting]
    assert len(rings[0]["keys"]) == 1
    assert rings == [rings[0]] * 3
    assert len(os.listdir(tmp_path / "keys")) == 1


# --- many rows


def fill(path: Path, rows: int) -> None:
    """Tokens of 20 owners in 2 networks, written by hand because only their number matters."""
    db = sqlite3.connect(path)
    for i in range(20):
        network = "33" if i < 10 else "44"
        db.execute("INSERT OR IGNORE INTO accounts VALUES ('network', ?, ?)", (network, network))
        db.execute(
            "INSERT INTO users VALUES (?, ?, ?, 'network', ?, 'super', 0, 1, NULL, 1)",
            (i + 1, f"usr_{i}", f"{i}@example.com", network),
        )
    db.executemany(
        """INSERT INTO tokens (id, jti_digest, owner_id, network, description, folded, scopes, created_at,
                               expires_at, exposed_at, rotate_by, outlives_maker, bootstrap)
           VALUES (?, ?, ?, ?, ?, ?, 'transactions:read', 1, ?, ?, ?, 0, 0)""",
        (
            (
                f"tok_{i}", jti_digest(str(i)), f"usr_{i % 20}", "33" if i % 20 < 10 else "44", f"token {i}",
                f"token {i}", NOW + 9, *((1, NOW + 9) if i % 5_000 == 0 else (None, None)),
            )
            for i in range(rows)
        ),
    )  # fmt: skip
    db.commit()
    db.close()


async def plan(store: SqliteStore, sql: str, values: Any) -> str:
    rows = await store._reader.execute_fetchall("EXPLAIN QUERY PLAN " + sql, values)
    return "; ".join(row[3] for row in rows)


async def test_with_twenty_thousand_tokens_every_question_goes_by_an_index(
    store: SqliteStore, path: Path
) -> None:
    fill(path, 20_000)
    found = await store.find(jti_digest("12345"))
    assert found is not None
    assert (found[0].id, found[1].id) == ("tok_12345", "usr_5")
    page = await store.list_tokens(network="44", limit=3, now=NOW)
    assert [row.id for row in page.rows] == ["tok_19999", "tok_19998", "tok_19997"]
    exposed = await store.list_tokens(network="33", state="exposed", now=NOW)
    assert [row.id for row in exposed.rows] == ["tok_15000", "tok_10000", "tok_5000", "tok_0"]

    values = {"owner": "usr_1", "network": "33", "seq": 9, "limit": 9, "now": NOW}
    hot = await plan(store, FIND, (b"",))
    assert hot.count("SEARCH") == 3
    assert "SCAN" not in hot
    assert "sqlite_autoindex_tokens_2 (jti_digest=?)" in hot
    earlier = await plan(store, FIND_EARLIER, (b"",))
    assert earlier.count("SEARCH") == 3
    assert "tokens_by_earlier (earlier_digest=?)" in earlier
    one, many, older = ["t.owner_id = :owner"], ["t.network = :network"], ["t.seq < :seq"]
    for where, state, index in (
        (one, None, "tokens_by_owner (owner_id=?)"),
        (one + many, "expired", "tokens_by_owner (owner_id=?)"),
        (one + older, None, "tokens_by_owner (owner_id=? AND seq<?)"),
        (many, None, "tokens_by_network (network=?)"),
        (many + older, None, "tokens_by_network (network=? AND seq<?)"),
        (many, "active", "tokens_by_network (network=?)"),
        (many, "expired", "tokens_by_network (network=?)"),
        (many, "exposed", "tokens_exposed (network=?)"),
        (many, "deleted", "tokens_deleted (network=?)"),
        (many + older, "paused", "tokens_paused (network=? AND seq<?)"),
    ):
        way = index_of(one[0] in where, many[0] in where, state)
        asked = await plan(store, tokens_page([*where, *([STATE[state]] if state else [])], way), values)
        assert index in asked
        assert "TEMP B-TREE" not in asked
    everything = await plan(store, tokens_page([], None), values)
    assert "TEMP B-TREE" not in everything
    for which in (
        Which("33"), Which("33", ids=("a", "b")), Which("33", owner_id="u"), Which("33", made_by="t"),
        Which("33", account=("advertiser", "706"), spare="x"),
    ):  # fmt: skip
        sql, bound = chosen_tokens(which)
        assert "SCAN t" not in await plan(store, sql, bound | {"at": NOW})
    one = await plan(store, f"SELECT {TOKEN} FROM tokens AS t WHERE t.id = ?", ("tok_1",))
    assert "sqlite_autoindex_tokens_1 (id=?)" in one


async def test_a_database_whose_generation_cannot_be_read_is_refused_at_the_start(path: Path) -> None:
    await (await opened(path)).close()
    db = sqlite3.connect(path)
    ((page,),) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'generation'")
    db.close()
    overwrite(path, (page - 1) * 4096, b"\xa5" * 4096)
    with pytest.raises(ConfigError):
        await opened(path)
