"""A network with very many tokens: what its administrator waits for, and what counting last uses costs everybody.

One gateway in this process, asked over a real socket of loopback, so that every figure has the whole of a request
in it. Half of the tokens are history; a hundredth of all is paused, exposed, or deleted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import ClientSession

from bench.processes import write_json
from bench.report import number, percentile, say, table
from bench.steps import settings, timed
from gateway import config
from gateway.app import Gateway, bind, build
from gateway.credentials import Credentials
from gateway.lastuse import BATCH, LastUse
from gateway.model import Account, AuditEvent, Owner, Principal
from gateway.store import new_token_id, new_user_id, open_store
from gateway.store.tally import DAYS, HOURS, Tally

NETWORK = Account("network", "33", "33")
DAY_S = 86_400
API = "/admin/api/tokens"
MANY_USES = 5_000


def fill(path: Path, tokens: int, users: int) -> None:
    """Rows as the store writes them, by plain SQL: what is timed is their number."""
    now = int(time.time())
    db, beside = sqlite3.connect(path), sqlite3.connect(f"{path}-uses")
    owners = [new_user_id() for _ in range(users)]
    db.executemany(
        "INSERT INTO users (id, email, account_kind, account_id, role, administrator, active, created_at) "
        "VALUES (?, ?, 'network', '33', 'member', 0, 1, ?)",
        [(owner, f"{owner}@example.com".lower(), now) for owner in owners],
    )
    hours, days = Tally.none(HOURS).pack(), Tally.none(DAYS).pack()
    for n in range(tokens):
        token_id, rare = new_token_id(), n % 100
        db.execute(
            "INSERT INTO tokens (id, jti_digest, owner_id, network, description, folded, scopes, created_at, "
            "expires_at, paused_at, exposed_at, rotate_by, deleted_at, deleted_by, delete_reason, "
            "outlives_maker, bootstrap) "
            "VALUES (?, ?, ?, '33', ?, ?, 'transactions:read', ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
            (
                token_id, os.urandom(32), owners[n % users], f"token {n}", f"token {n}", now - 2 * DAY_S,
                now - DAY_S if n % 2 else now + DAY_S, now if rare == 10 else None,
                now if rare == 20 else None, now + DAY_S if rare == 20 else None,
                *((now, "somebody", "") if rare == 30 else (None, None, None)),
            ),
        )  # fmt: skip
        beside.execute(
            "INSERT INTO uses VALUES (?, ?, '192.0.2.0/24', 'advertisers_list', NULL, ?, ?)",
            (token_id, now, hours, days),
        )
    for each in (db, beside):
        each.commit()
        each.close()


class Site:
    """A gateway over a filled store, and a session of an administrator of the network."""

    def __init__(self, gateway: Gateway, session: ClientSession, url: str, owner: str, token: str) -> None:
        self.gateway, self.session, self.url, self.owner = gateway, session, url, owner
        self.fields = {"Authorization": f"Bearer {token}"}

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async with (
            self.session.request(
                method, self.url + path, headers=self.fields, json={} if body is None else body
            )
            if method != "GET"
            else self.session.get(self.url + path, headers=self.fields) as answer
        ):
            text = await answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
            return await answer.json() if text else None


async def opened(folder: Path, tokens: int, users: int) -> Site:
    listening = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    made = replace(settings(folder), public_url=url, limits=config.Limits(requests_per_minute=0))
    store = await open_store(made.store, time.time)
    owner = await store.add_user("administrator@example.com", NETWORK, "super", administrator=True)
    await store.close()
    fill(Path(made.store.path), tokens, users)
    gateway = await build(made, credentials=Credentials({}, lend_network=False))
    _, text = await gateway.issuer.create(
        owner_id=owner.id,
        description="of the measurement",
        scopes=("transactions:read", "tokens:manage"),
        expires_at=int(time.time()) + DAY_S,
    )
    await gateway.start(listening)
    return Site(gateway, ClientSession(), url, owner.id, text)


async def times_of(call: Callable[[int], Awaitable[object]], count: int) -> list[float]:
    """Milliseconds of each of so many calls, one after the other, in order."""
    found = []
    for n in range(count):
        began = time.perf_counter()
        await call(n)
        found.append((time.perf_counter() - began) * 1e3)
    return sorted(found)


def row(name: str, times: Sequence[float]) -> list[str]:
    return [name, number(statistics.median(times)), number(percentile(times, 99)), number(times[-1])]


async def lists(site: Site, count: int) -> list[list[str]]:
    """Every way to ask for a page; the last is the one furthest from the start of the list."""
    ways = {"newest, 200 rows": "?limit=200", "of one owner": f"?owner={site.owner}"}
    ways |= {f"{state}, 200 rows": f"?state={state}&limit=200" for state in ("active", "paused", "exposed")}
    ways |= {f"{state}, 200 rows": f"?state={state}&limit=200" for state in ("expired", "deleted")}
    deep = await site.gateway.store.list_tokens(network="33", limit=500, now=time.time())
    for _ in range(60):
        if deep.next is None:
            break
        deep = await site.gateway.store.list_tokens(network="33", limit=500, after=deep.next, now=time.time())
    ways["after 30,000 others"] = f"?limit=200&after={deep.rows[-1].id}"
    found = []
    for name, query in ways.items():
        found.append(
            row("list: " + name, await times_of(lambda _, query=query: site.ask("GET", API + query), count))
        )
    return found


async def acts(site: Site, count: int) -> list[list[str]]:
    made: list[str] = []

    async def create(n: int) -> None:
        made.append(
            (await site.ask("POST", API, {"description": f"measured {n} {time.monotonic_ns()}"}))["id"]
        )

    async def each(n: int, act: str) -> None:
        await site.ask("POST", f"{API}/{made[n]}/{act}")

    found = [row("create", await times_of(create, count))]
    for act in ("rotate", "pause", "resume"):
        found.append(row(act, await times_of(lambda n, act=act: each(n, act), count)))
    found.append(row("delete", await times_of(lambda n: site.ask("DELETE", f"{API}/{made[n]}"), count)))
    found.append(
        row(
            "pause 500 at once",
            await times_of(lambda _: site.ask("POST", API + "/pause", {"everything": True}), 5),
        )
    )
    return found


def event_of(token_id: str) -> AuditEvent:
    event = AuditEvent("", time.time(), "proxy", "GET", "192.0.2.7")
    event.principal = Principal(token_id, Owner("usr_x", NETWORK, "super", False), frozenset(), 2)
    return event


async def flushes(site: Site, count: int) -> list[list[str]]:
    """Creating and listing in quiet, and beside turns of last uses that follow each other without a pause."""

    async def create(n: int) -> None:
        await site.ask("POST", API, {"description": f"beside {n} {time.monotonic_ns()}"})

    async def show(_: int) -> None:
        await site.ask("GET", "/gateway/token")

    found = [
        row("create, in quiet", await times_of(create, count)),
        row("request, in quiet", await times_of(show, count)),
    ]
    ids: list[str] = []
    after: str | None = None
    while len(ids) < MANY_USES:
        page = await site.gateway.store.list_tokens(network="33", limit=500, after=after, now=time.time())
        ids += [each.id for each in page.rows]
        after = page.next
        if after is None:
            break
    uses = LastUse(site.gateway.store)
    turns: list[float] = []

    events = [event_of(token_id) for token_id in ids]

    async def tell() -> None:
        while True:
            for event in events:
                uses.see(event)
            await asyncio.sleep(0)
            began = time.perf_counter()
            await uses.flush()
            turns.append((time.perf_counter() - began) * 1e3)

    task = asyncio.create_task(tell())
    found.append(row("create, beside flushes", await times_of(create, count)))
    found.append(row("request, beside flushes", await times_of(show, count)))
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        found.append(row(f"a flush of {len(ids):,} tokens, {BATCH} at a time", sorted(turns)))
    return found


def seen() -> list[str]:
    """What a request pays for being counted, in µs."""
    event = event_of("tok_x")
    uses = LastUse(None)  # type: ignore[arg-type]  # nothing is told here
    _, best, median = timed("", lambda: uses.see(event))
    _, nothing, _ = timed("", lambda: None)
    return ["counting a use, µs", number(best - nothing), number(median - nothing), ""]


async def run(options: argparse.Namespace) -> dict[str, list[list[str]]]:
    with tempfile.TemporaryDirectory() as folder:
        site = await opened(Path(folder), options.tokens, options.users)
        try:
            found = {"lists": await lists(site, options.count), "acts": await acts(site, options.count)}
            found["flushes"] = await flushes(site, 10 * options.count)
        finally:
            await site.session.close()
            await site.gateway.stop()
    return found | {"seen": [seen()]}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    it = argparse.ArgumentParser(prog="python -m bench.tokens", description=__doc__)
    it.add_argument("--tokens", type=int, default=100_000)
    it.add_argument("--users", type=int, default=10_000)
    it.add_argument("--count", type=int, default=100, help="requests of each kind")
    it.add_argument("--json", metavar="FILE")
    return it.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    found = uvloop.run(run(options))
    say(
        f"{options.tokens:,} tokens of {options.users:,} users; milliseconds for each request unless it says otherwise"
    )
    for part, head in (
        ("lists", "page"),
        ("acts", "act"),
        ("flushes", "beside last uses"),
        ("seen", "each request"),
    ):
        say()
        say(table([head, "median", "p99", "worst"], found[part]))
    if options.json:
        write_json(options.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
