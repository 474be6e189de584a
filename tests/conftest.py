"""A real gateway on a real socket, in front of a real upstream. Only time is ours to turn."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, DummyCookieJar, web
from argon2 import PasswordHasher
from yarl import URL

from gateway import sandbox
from gateway.app import Gateway, bind, build
from gateway.config import Config, Limits, Record, Store, Upstream, Versions
from gateway.credentials import Credentials
from gateway.demo import ADVERTISER, EVERY_NETWORK, NETWORK, OTHER_ADVERTISER, PEOPLE, READ
from gateway.load import load_catalogue, load_policies
from gateway.model import Account, Operation
from gateway.operation import Catalogue
from gateway.table import Table
from tests.left import (
    LEFT,
    left_behind,
    pytest_configure,
    pytest_runtest_makereport,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)

# argon2id as it is meant to be takes a tenth of a second and 64 MiB; the tests of that ask for it.
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
UPSTREAM_TOKEN = "upstream-credential-of-network-33"


_compiled: dict[tuple[Operation, ...], bytes] = {}
_catalogues: dict[Versions, Catalogue] = {}


@pytest.fixture(autouse=True)
def one_process_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a gateway does once in its process would be done for every test here.

    The shipped policies are compiled once: a fifth of a second for each gateway otherwise. Each has a table of its
    own, as a worker gets it from its keeper. The catalogue never changes once it is made, and is shared.
    """

    def load(config: Config, catalogue: Catalogue) -> Table:
        if config.policies.local is not None:
            return load_policies(config, catalogue)
        operations = tuple(catalogue.variants())
        if operations not in _compiled:
            _compiled[operations] = load_policies(config, catalogue).pack()
        return Table.unpack(_compiled[operations])

    def catalogue(config: Config) -> Catalogue:
        if config.versions not in _catalogues:
            _catalogues[config.versions] = load_catalogue(config)
        return _catalogues[config.versions]

    monkeypatch.setattr("gateway.load.load_policies", load)
    monkeypatch.setattr("gateway.app.load_catalogue", catalogue)


class Clock:
    """The time, which stands still until it is turned."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The kind of the problem, or an empty string when it is none."""
        return (
            self.json["type"].rsplit(":", 1)[1]
            if "problem+json" in self.headers.get("Content-Type", "")
            else ""
        )


@dataclass
class Running:
    """A gateway that serves, and what tests want to know of it."""

    gateway: Gateway
    port: int
    clock: Clock
    tokens: dict[str, str]
    session: ClientSession
    owners: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def request(
        self,
        method: str,
        path: str,
        token: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> Answer:
        """Send a request, its path as it stands. `token` names one of the people's, or is a token's text."""
        fields = dict(headers or {})
        if token is not None:
            fields["Authorization"] = "Bearer " + self.tokens.get(token, token)
        async with self.session.request(
            method, URL(self.url + path, encoded=True), headers=fields, allow_redirects=False, **more
        ) as answer:
            got = Answer(answer.status, dict(answer.headers), await answer.read())
        sent = {"document": more.get("json"), "code": fields.get("Idempotency-Key")}
        LEFT.exchanged(sent, got, f"{method} {path}")
        return got

    async def get(self, path: str, token: str | None = None, **more: Any) -> Answer:
        return await self.request("GET", path, token, **more)

    async def raw(self, data: bytes, wait_s: float = 5.0) -> bytes:
        """Send bytes as they are; all that comes back until the gateway closes or is silent for `wait_s`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        received = b""
        try:
            writer.write(data)
            await writer.drain()
            while piece := await asyncio.wait_for(reader.read(65536), wait_s):
                received += piece
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()
        return received

    async def create(self, by: str = "network_admin", **body: Any) -> Any:
        """A token made through the admin API; its document."""
        body.setdefault("description", f"made by a test {len(self.tokens)} {time.monotonic_ns()}")
        answer = await self.request("POST", "/admin/api/tokens", by, json=body)
        assert answer.status == 201, answer.body
        return answer.json

    def records(self) -> list[dict[str, Any]]:
        """The decision records written so far."""
        self.gateway.recorder.flush()
        path = Path(self.gateway.config.record.path)
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def upstream() -> AsyncIterator[sandbox.Sandbox]:
    """The sandbox, serving; `upstream.port` is where. Its journal shows what arrived."""
    made = sandbox.Sandbox(credential=UPSTREAM_TOKEN)
    runner, port = await sandbox.start(made)
    made.port = port  # type: ignore[attr-defined]
    yield made
    await runner.cleanup()


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    """A configuration for tests; changes are given as dataclass fields of `Limits` and `Config`."""

    def make(
        upstream_url: str, public_url: str, limits: dict[str, Any] | None = None, **changes: Any
    ) -> Config:
        made = Config(
            public_url=public_url,
            upstream=Upstream(url=upstream_url, lend_network_credential=True),
            store=Store(path=str(tmp_path / "gateway.sqlite3"), keys=str(tmp_path / "keys")),
            record=Record(path=str(tmp_path / "records.jsonl")),
            limits=Limits(
                **{"requests_per_minute": 0, "failed_authentications_per_minute": 0, "drain_timeout_s": 1.0}
                | (limits or {})
            ),
        )
        return replace(made, **changes)

    return make


Start = Callable[..., Any]


@pytest.fixture
async def start(configure: Callable[..., Config], clock: Clock) -> AsyncIterator[Start]:
    """Start a gateway in front of an upstream on a port of this machine: `await start(port, **changes)`."""
    running: list[Running] = []

    async def up(
        upstream_port: int,
        *,
        credentials: Credentials | None = None,
        hasher: PasswordHasher | None = CHEAP,
        **changes: Any,
    ) -> Running:
        listening = bind("127.0.0.1", 0)
        port = listening.getsockname()[1]
        config = configure(f"http://127.0.0.1:{upstream_port}", f"http://127.0.0.1:{port}", **changes)
        given = credentials or Credentials({NETWORK.key: UPSTREAM_TOKEN}, lend_network=True)
        for account, credential in given.by_account.items():
            LEFT.handed(credential, f"the upstream credential of {account}")
        gateway = await build(config, clock, credentials=given, hasher=hasher)
        made = Running(
            gateway, port, clock, {}, ClientSession(cookie_jar=DummyCookieJar(), auto_decompress=False)
        )
        await gateway.store.add_account(OTHER_ADVERTISER)
        for person in PEOPLE:
            await add_person(
                made, person.name, person.account, person.role, person.administrator, person.scopes
            )
        await gateway.start(listening)
        running.append(made)
        return made

    yield up
    for made in running:
        await made.session.close()
        LEFT.look_now(made.gateway.config.store.path)
        await made.gateway.stop()


@pytest.fixture
async def gateway(start: Start, upstream: sandbox.Sandbox) -> Running:
    """A gateway in front of the sandbox, with the demo's four people and a token each."""
    running: Running = await start(upstream.port)  # type: ignore[attr-defined]
    return running


async def add_person(
    running: Running,
    name: str,
    account: Account,
    role: Any = "super",
    administrator: bool = False,
    scopes: tuple[str, ...] = READ,
) -> str:
    """Add a user with a token of theirs under `name`; the token's id."""
    store, issuer = running.gateway.store, running.gateway.issuer
    user = await store.add_user(f"{name.replace('_', '-')}@example.com", account, role, administrator)
    row, text = await issuer.create(
        owner_id=user.id,
        description=f"{name} of the tests",
        scopes=scopes,
        expires_at=int(running.clock()) + 90 * 86_400,
    )
    LEFT.handed(text, f"the token of {name}")
    running.tokens[name] = text
    running.owners[name] = user.id
    return row.id


__all__ = [
    "ADVERTISER",
    "EVERY_NETWORK",
    "Answer",
    "Clock",
    "Running",
    "add_person",
    "left_behind",
    "pytest_configure",
    "pytest_runtest_makereport",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "web",
]
