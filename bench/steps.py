"""What each step of a request costs, with the gateway's real functions, and how it grows with tokens, policies
and open connections. Times are µs of one core unless they say otherwise: best and median of several repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import uvloop

from bench.bodies import MEDIUM, SIZES, SMALL, advertisers
from bench.processes import (
    Children,
    Tools,
    allow_files,
    cpu_s,
    ending_on_signals,
    memory_mb,
    two_cpus,
    write_json,
)
from bench.report import note, number, percentile, say, table
from bench.systems import Starter
from gateway import config, headers, target, tokens
from gateway.app import Gateway, build
from gateway.authenticate import Authenticator, as_principal
from gateway.compile import compile
from gateway.connection import UpstreamRequest
from gateway.credentials import Credentials
from gateway.load import load_catalogue, load_policies
from gateway.model import Account, AuditEvent, Call, Decision, Moment, Owner, Principal
from gateway.policy import PolicySet, relation
from gateway.proof import prove
from gateway.ratelimit import RateLimit
from gateway.reply import Headers, Parser
from gateway.shield import Shield
from gateway.store import Store, new_token_id, new_user_id, open_store
from gateway.store.keys import LiveKeys
from gateway.table import Table
from gateway.verdicts import Verdict, Verdicts

URL = "http://127.0.0.1:1"
NETWORK = Account("network", "33", "33")
SCOPES = ("transactions:read", "network:read")
REPEATS, REPEAT_S = 7, 0.05
DAY_S = 86_400
FIRST_USES = 300
Row = tuple[str, float, float]
Rows = list[list[str]]


def timed(name: str, call: Callable[[], object], repeats: int = REPEATS) -> Row:
    """Best and median µs of one call."""
    call()
    began = time.perf_counter()
    call()
    once = max(time.perf_counter() - began, 1e-7)
    count = max(1, int(REPEAT_S / once))
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(count):
            call()
        found.append((time.perf_counter() - began) / count * 1e6)
    return name, min(found), statistics.median(found)


async def timed_async(
    name: str, call: Callable[[int], Awaitable[object]], count: int, repeats: int = 3
) -> Row:
    """Best and median µs of one awaited call, which is given its number."""
    found = []
    for repeat in range(repeats):
        began = time.perf_counter()
        for n in range(repeat * count, (repeat + 1) * count):
            await call(n)
        found.append((time.perf_counter() - began) / count * 1e6)
    return name, min(found), statistics.median(found)


def settings(folder: Path) -> config.Config:
    return config.Config(
        public_url=URL,
        upstream=config.Upstream(url="http://127.0.0.1:2", lend_network_credential=True),
        store=config.Store(path=str(folder / "gateway.sqlite3"), keys=str(folder / "keys")),
        record=config.Record(path=str(folder / "records.jsonl")),
    )


# --- the steps of one request


class Deaf:
    """A sink for an answer that nobody wants."""

    def on_whole(self, status: int, headers: Headers, length: int | None, body: bytes) -> None: ...
    def on_head(self, status: int, headers: Headers, length: int | None) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_done(self) -> None: ...
    def on_error(self, problem: object, again: bool) -> None: ...


async def steps(folder: Path) -> list[Row]:
    """Every step by itself, on a gateway that was built as always and serves nobody."""
    gateway = await build(settings(folder), credentials=Credentials({NETWORK.key: "x" * 40}, True))
    try:
        user = await gateway.store.add_user("bench@example.com", NETWORK, "super")
        row, text = await gateway.issuer.create(
            owner_id=user.id, description="of the bench", scopes=SCOPES, expires_at=int(time.time()) + DAY_S
        )
        return await _steps(gateway, as_principal(row, user), text)
    finally:
        await gateway.stop()


async def _steps(gateway: Gateway, principal: Principal, text: str) -> list[Row]:
    keyring, catalogue = gateway.issuer.keyring, load_catalogue()
    policies = load_policies(settings(Path()), catalogue)
    authorization = f"Bearer {text}"
    raw = (
        (b"Host", b"127.0.0.1:8080"), (b"User-Agent", b"an-app/1.0 (of the bench)"), (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"gzip, deflate"), (b"Connection", b"keep-alive"),
        (b"Authorization", authorization.encode()),
    )  # fmt: skip
    claims = tokens.verify(keyring, text, issuer=URL, audience=URL)
    wanted = target.judge(SMALL, "")
    call = catalogue.identify("GET", wanted)
    owner, operation = principal.owner, call.operation
    related = relation(owner, operation, call.account_id, None)
    moment = Moment(time.time(), "127.0.0.1")
    decision = policies.decide(principal, operation, related, moment)
    assert decision.allowed, "the request of the bench is denied: its steps would be those of a refusal"
    sent = headers.to_upstream(raw, credential="x" * 40, form="json", has_body=False)
    request = UpstreamRequest("GET", wanted.raw, sent, b"", True, principal.token_id)
    event = AuditEvent("0" * 24, time.time(), "proxy", "GET", "127.0.0.1")
    event.principal, event.call, event.decision, event.status = principal, call, decision, 200
    body = advertisers(1200)
    wire = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Tue, 24 Nov 2026 06:00:00 GMT\r\n" + (
        b"Content-Type: application/json\r\nContent-Length: 1200\r\nConnection: keep-alive\r\n\r\n" + body
    )
    came = ((b"content-type", b"application/json"), (b"date", b"Tue, 24 Nov 2026 06:00:00 GMT"))
    gateway.verdicts.remember(authorization, Verdict(claims, principal, gateway.store.epoch()))
    await gateway.verdicts.check()
    # As it comes from a socket: a new text every time, whose hash is not known yet.
    rows = [timed("verdict, remembered", lambda: gateway.verdicts.principal("Bearer " + text))]
    assert gateway.verdicts.principal(authorization) is principal, "the verdict was not remembered all along"
    parser, sink = Parser(), Deaf()

    def read_reply() -> None:
        parser.expect(sink, False)
        assert parser.feed(wire)

    owners = iter(_strangers())
    return [
        timed(
            "verify a token (not remembered)", lambda: tokens.verify(keyring, text, issuer=URL, audience=URL)
        ),
        *rows,
        timed("judge the head", lambda: headers.judge("GET", (1, 1), raw)),
        timed("judge the target", lambda: target.judge(SMALL, "127.0.0.1:8080")),
        timed("identify the operation", lambda: catalogue.identify("GET", wanted)),
        timed("decide", lambda: policies.decide(principal, operation, related, moment)),
        timed(
            "decide, for an owner not seen yet",
            lambda: policies.owner_may(next(owners), operation, related, moment),
        ),
        timed("what may be seen", lambda: policies.visible(principal, related, moment)),
        timed(
            "upstream headers",
            lambda: headers.to_upstream(raw, credential="x" * 40, form="json", has_body=False),
        ),
        timed("upstream head, encoded and checked", lambda: gateway.upstream.encode(request)),
        timed("read the reply, 1.2 kB", read_reply),
        timed("client headers", lambda: headers.to_client(came)),
        *_protecting(call, came),
        timed("record, written", lambda: gateway.recorder.record(event)),
    ]


def _protecting(call: Call, came: Headers) -> Iterator[Row]:
    """What it costs to look through a Network Integration reply, and to leave something out of it."""
    guard = Shield(URL, URL).guard(call, frozenset({"public"}))
    assert guard is not None, "the request of the bench is not one of the Network Integration API"
    small, medium = advertisers(SIZES[SMALL]), advertisers(SIZES[MEDIUM])
    yield timed("look at the reply's head", lambda: guard.fields(came))
    yield timed("look through the reply, 1.2 kB", lambda: guard.clean(small))
    yield timed("look through the reply, 64 kB", lambda: guard.clean(medium))
    with_secrets = medium.replace(b'"approval_status"', b'"oauth_refresh_token": "x", "approval_status"')

    def strip() -> None:
        opened = guard.open()
        assert opened.feed(with_secrets) + opened.close()

    yield timed(f"leave secrets out of it, {len(with_secrets) // 1024} kB", strip)


def _strangers() -> Iterator[Owner]:
    n = 0
    while True:
        n += 1
        yield Owner(f"usr_{n}", NETWORK, "super", False)


# --- growth: tokens


def fill(path: Path, count: int, owner_id: str, digests: Sequence[tuple[str, bytes]]) -> None:
    """Insert `count` tokens, those of `digests` among them, the plain way: the store's own is for one at a time."""
    now = int(time.time())
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -200000")
        strangers = [new_user_id() for _ in range(max(1, min(count // 100, 20_000)))]
        database.executemany(
            "INSERT INTO users (id, email, account_kind, account_id, role, administrator, active, created_at) "
            "VALUES (?, ?, 'network', '33', 'member', 0, 1, ?)",
            ((user, f"{user.lower()}@example.com", now) for user in strangers),
        )
        rest = max(0, count - len(digests))
        mine = ((token_id, digest, owner_id) for token_id, digest in digests)
        others = ((new_token_id(), os.urandom(32), strangers[n % len(strangers)]) for n in range(rest))
        for rows in (mine, others):
            database.executemany(
                "INSERT INTO tokens (id, jti_digest, owner_id, network, description, folded, scopes, created_at, "
                "expires_at, outlives_maker, bootstrap) VALUES (?, ?, ?, '33', ?, ?, 'transactions:read', ?, ?, 0, 0)",
                (
                    (i, digest, owner, f"bench {i}", f"bench {i}".lower(), now, now + DAY_S)
                    for i, digest, owner in rows
                ),
            )
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        database.close()


async def store_of(folder: Path, count: int) -> list[str]:
    """One row of the table: a store with so many tokens."""
    made = settings(folder)
    keys = LiveKeys(made.store.keys)
    keyring = keys.ring
    store = await open_store(made.store, time.time)
    user = await store.add_user("bench@example.com", NETWORK, "super")
    await store.close()
    uses = min(FIRST_USES, count)
    known = [(new_token_id(), tokens.new_jti()) for _ in range(uses)]
    fill(Path(made.store.path), count, user.id, [(i, tokens.jti_digest(jti)) for i, jti in known])
    now = int(time.time())
    texts = [
        tokens.mint(keyring, issuer=URL, audience=URL, owner_id=user.id, token_id=token_id, jti=jti,
                    issued_at=now, expires_at=now + DAY_S, scopes=("transactions:read",))
        for token_id, jti in known
    ]  # fmt: skip
    opened = []
    for _ in range(5):
        began = time.perf_counter()
        store = await open_store(made.store, time.time)
        opened.append((time.perf_counter() - began) * 1e3)
        await store.close()
    store = await open_store(made.store, time.time)
    try:
        return [f"{count:,}", f"{os.stat(made.store.path).st_size / 1e6:,.1f}", number(statistics.median(opened)),
                *(number(value) for value in await _in_store(store, keys, known, texts, user.id))]  # fmt: skip
    finally:
        await store.close()


async def _in_store(
    store: Store,
    keys: LiveKeys,
    known: Sequence[tuple[str, str]],
    texts: Sequence[str],
    owner_id: str,
) -> list[float]:
    """Medians: find what is there, find what is not, the first use of a token, a page of a list, a new token."""
    digests = [tokens.jti_digest(jti) for _, jti in known]
    verdicts = Verdicts(store, time.time, 4096)
    await verdicts.check()
    limit = RateLimit("authentication", 0, time.monotonic)
    authenticator = Authenticator(store, keys, URL, time.time, limit, verdicts)
    each = max(1, len(texts) // 3)
    find = await timed_async("find", lambda n: store.find(digests[n % len(digests)]), 300)
    miss = await timed_async("miss", lambda n: store.find(tokens.jti_digest(str(n))), 300)
    first = await timed_async(
        "first", lambda n: authenticator.principal(f"Bearer {texts[n]}", "127.0.0.1"), each
    )
    page = await timed_async("page", lambda n: store.list_tokens(network="33", limit=100, now=time.time()), 5)

    async def create(n: int) -> object:
        return await store.create_token(
            jti_digest=os.urandom(32), owner_id=owner_id, description=f"bench made {n}", scopes=SCOPES,
            expires_at=int(time.time()) + DAY_S,
        )  # fmt: skip

    made = await timed_async("create", create, 10)
    return [find[2], miss[2], first[2], page[2], made[2]]


async def stores(folder: Path, counts: Sequence[int]) -> Rows:
    rows = []
    for count in counts:
        note(f"a store of {count:,} tokens …")
        place = folder / f"store-{count}"
        place.mkdir()
        rows.append(await store_of(place, count))
    return rows


# --- growth: policies


def extra_policies(count: int) -> str:
    """So many policies that are well-formed, are looked at for every request, and match nobody."""
    one = (
        '@id("bench-{n}")\n@source("bench")\n@reason("Nobody is meant")\n'
        'forbid (principal, action == Action::"call", resource)\n'
        'when {{ principal.id == "bench-{n}" && resource.effect == "read" && context.relation == "own" }};\n'
    )
    return "\n".join(one.format(n=n) for n in range(count))


def policy_sets(folder: Path, counts: Sequence[int]) -> Rows:
    """A row for the shipped set, and for each count that is larger."""
    catalogue = load_catalogue()
    operations = catalogue.variants()
    call = catalogue.identify("GET", target.judge(SMALL, ""))
    shipped = len(PolicySet.load(operations=operations).policies)
    moment = Moment(time.time(), "127.0.0.1")
    rows = []
    for count in [shipped, *(count for count in counts if count > shipped)]:
        note(f"{count} policies …")
        local = folder / f"policies-{count}"
        local.mkdir()
        (local / "bench.cedar").write_text(extra_policies(count - shipped))
        began = time.perf_counter()
        policies = PolicySet.load(local=local if count > shipped else None, operations=operations)
        loaded = time.perf_counter()
        made = compile(policies, operations)
        compiled = time.perf_counter()
        broken = prove(made, policies.invariants)
        proven = time.perf_counter()
        packed = made.pack()
        unpacking = time.perf_counter()
        made = Table.unpack(packed)
        unpacked = time.perf_counter()
        assert len(policies.policies) == count
        assert not broken
        owners = iter(_strangers())
        owner = next(owners)

        def stranger(made: Table = made, owners: Iterator[Owner] = owners) -> Decision:
            return made.owner_may(next(owners), call.operation, "own", moment)

        def known(made: Table = made, owner: Owner = owner) -> Decision:
            return made.owner_may(owner, call.operation, "own", moment)

        assert known().allowed
        again, first = timed("known", known), timed("stranger", stranger)
        times = (loaded - began, compiled - loaded, proven - compiled, unpacked - unpacking)
        rows.append([str(count), *(number(t * 1e3) for t in times), number(first[2]), number(again[2])])
    return rows


# --- growth: open connections


def connections(children: Children, folder: Path, counts: Sequence[int], tools: Tools, requests: int) -> Rows:
    """The cost of a request with so many connections open, asked over each of them in turn."""
    gateway_cpus, load_cpus = two_cpus()
    rows = []
    for count in counts:
        note(f"{count} open connections …")
        place = folder / f"connections-{count}"
        place.mkdir()
        starter = Starter(children, tools, place, gateway_cpus, load_cpus)
        starter.upstream()
        system = starter.gateway()
        assert system.child is not None
        place_of = ("127.0.0.1", int(system.url.rpartition(":")[2]))
        fields = "".join(f"{k}: {v}\r\n" for k, v in system.fields["good"].items())
        wire = f"GET {SMALL} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n".encode()
        with contextlib.ExitStack() as stack:
            opened = []
            for _ in range(count):
                opened.append(stack.enter_context(contextlib.closing(socket.create_connection(place_of, 20))))
                ask(opened[-1], wire)  # at once: a connection that says nothing is cut
            for n in range(200):
                ask(opened[n % count], wire)
            spent, latencies = cpu_s(system.child.pid), []
            for n in range(requests):
                began = time.perf_counter()
                ask(opened[n % count], wire)
                latencies.append((time.perf_counter() - began) * 1e6)
            spent = cpu_s(system.child.pid) - spent
            latencies.sort()
            rows.append([f"{count:,}", number(spent * 1e6 / requests), number(percentile(latencies, 50)),
                         number(percentile(latencies, 99)), number(memory_mb(system.child.pid))])  # fmt: skip
        children.stop_all()
    return rows


def ask(sock: socket.socket, wire: bytes) -> None:
    """One request and its whole answer. Raises: RuntimeError for anything but a 200."""
    sock.sendall(wire)
    got = b""
    while b"\r\n\r\n" not in got:
        piece = sock.recv(65_536)
        if not piece:
            raise RuntimeError("the gateway closed a connection")
        got += piece
    head, _, rest = got.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the gateway answered {head[:60]!r}")
    left = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))[15:])
    left -= len(rest)
    while left > 0:
        left -= len(sock.recv(65_536))


# --- the command


def counts(text: str) -> list[int]:
    """`10,10000` as numbers."""
    found = [int(part) for part in text.split(",") if part]
    if any(count < 1 for count in found):
        raise argparse.ArgumentTypeError("every count has to be above 0")
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.steps", description=__doc__)
    parser.add_argument(
        "--only", default="steps,tokens,policies,connections", help="which; default: %(default)s"
    )
    parser.add_argument("--tokens", type=counts, default=counts("10,10000,1000000"), metavar="N,N")
    parser.add_argument("--policies", type=counts, default=counts("20,200"), metavar="N,N")
    parser.add_argument("--connections", type=counts, default=counts("1,1000"), metavar="N,N")
    parser.add_argument("--requests", type=int, default=3000, help="for each count of connections")
    parser.add_argument("--tools", type=Path, metavar="DIR", help="look for nginx here before PATH")
    parser.add_argument("--json", metavar="FILE", help="write the tables here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    only = options.only.split(",")
    tables: dict[str, tuple[list[str], Rows]] = {}
    allow_files(2 * max(options.connections, default=1) + 512)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_on_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        if "steps" in only:
            rows = [[name, number(best), number(middle)] for name, best, middle in uvloop.run(steps(folder))]
            tables["Steps of one request, µs"] = (["step", "best", "median"], rows)
        if "policies" in only:
            head = [
                "policies",
                "load, ms",
                "compile, ms",
                "prove the invariants, ms",
                "hand over, ms",
                "decide for a stranger, µs",
                "decide, µs",
            ]
            tables["Policy sets"] = (head, policy_sets(folder, options.policies))
        if "tokens" in only:
            head = ["tokens", "file, MB", "open, ms", "find, µs", "find nothing, µs", "first use, µs",
                    "page of 100, µs", "new token, µs"]  # fmt: skip
            tables["The store"] = (head, uvloop.run(stores(folder, options.tokens)))
        if "connections" in only:
            children = stack.enter_context(Children(folder))
            tools = Tools(options.tools)
            head = ["open", "CPU µs/request", "p50 µs", "p99 µs", "memory, MB"]
            rows = connections(children, folder, options.connections, tools, options.requests)
            tables["Open connections, one request at a time over each in turn"] = (head, rows)
    for title, (head, rows) in tables.items():
        say(f"\n{title}\n")
        say(table(head, rows))
    if options.json:
        write_json(
            options.json, {title: {"head": head, "rows": rows} for title, (head, rows) in tables.items()}
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
