"""The five-minute tour: a sandbox upstream, a gateway in front of it, four people with a token each, real requests.

Everything is on loopback and in a temporary folder, and is gone afterwards. The tour speaks to the gateway over
sockets like any app, and reads from the sandbox what arrived there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar
from argon2 import PasswordHasher
from yarl import URL

from gateway.app import bind, build
from gateway.config import Config, Limits, Listen, Record, SignIn, Upstream
from gateway.config import Store as StoreSettings
from gateway.credentials import Credentials
from gateway.inforce import Policies
from gateway.issue import Issuer
from gateway.model import Account, Role
from gateway.serve import STOPS, Workers, prepare
from gateway.store import Store, open_store
from gateway.store.keys import LiveKeys

DAY_S = 86_400
NETWORK = Account("network", "33", "33")
ADVERTISER = Account("advertiser", "706", "33")
AFFILIATE = Account("affiliate", "808", "33")
OTHER_ADVERTISER = Account("advertiser", "707", "33")
READ = ("transactions:read",)
EVERY_NETWORK = (*READ, "network:read", "network:write", "network:destroy", "network:publish")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody of the demo: who they are, and what their token may do at most."""

    name: str
    account: Account
    role: Role
    administrator: bool
    scopes: tuple[str, ...]

    @property
    def email(self) -> str:
        return f"{self.name.replace('_', '-')}@example.com"


PEOPLE = (
    Person("network_admin", NETWORK, "super", True, (*EVERY_NETWORK, "tokens:manage")),
    Person("network", NETWORK, "super", False, EVERY_NETWORK),
    Person("advertiser", ADVERTISER, "member", False, READ),
    Person("affiliate", AFFILIATE, "member", False, READ),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for. `data` None means a temporary folder."""

    port: int = 0
    upstream: str | None = None
    upstream_token: str | None = None
    workers: int = 1
    data: str | None = None
    once: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo that is up: where everything is, and the tokens, shown this once."""

    url: str
    upstream: str
    upstream_token: str
    tokens: dict[str, str]
    passwords: dict[str, str]
    journal: str | None
    records: Path

    def line(self) -> str:
        """The one line of `--json`."""
        users = {p.name: {"email": p.email, "password": self.passwords[p.name]} for p in PEOPLE}
        return json.dumps(
            {
                "gateway": self.url,
                "admin": self.url + "/admin/",
                "upstream": self.upstream,
                "upstream_token": self.upstream_token,
                "tokens": self.tokens,
                "users": users,
            }
        )


async def run(options: Options) -> None:
    """The tour, or with `json` one line; then serve until interrupted, unless `once`."""
    stopped = asyncio.Event()
    for stop in STOPS:
        asyncio.get_running_loop().add_signal_handler(stop, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        folder = options.data or stack.enter_context(tempfile.TemporaryDirectory(prefix="invoca-gateway-"))
        demo = await stack.enter_async_context(_up(options, Path(folder)))
        if options.json:
            print(demo.line(), flush=True)
        else:
            await tour(demo)
        if not options.once:
            if not options.json:
                print("Serving until interrupted.", flush=True)
            await stopped.wait()


@contextlib.asynccontextmanager
async def _up(options: Options, folder: Path) -> AsyncIterator[Demo]:
    """The sandbox and the gateway, serving."""
    token = options.upstream_token or secrets.token_hex(16)
    async with contextlib.AsyncExitStack() as stack:
        upstream = options.upstream
        if upstream is None:
            upstream = await stack.enter_async_context(_sandbox(token))
        with bind("127.0.0.1", options.port, reuse_port=options.workers > 1) as listening:
            port = listening.getsockname()[1]
            config = _config(f"http://127.0.0.1:{port}", upstream, folder, options.workers)
            sets = await prepare(config)
            tokens, passwords = await _people(config)
            credentials = Credentials({NETWORK.key: token}, lend_network=True)
            if options.workers == 1:
                gateway = await build(config, credentials=credentials, policies=Policies(sets))
                await gateway.start(listening)
                stack.push_async_callback(gateway.stop)
            else:
                await stack.enter_async_context(Workers(config, port, sets, credentials).running())
            journal = None if options.upstream else upstream + "/sandbox/journal"
            yield Demo(
                config.public_url, upstream, token, tokens, passwords, journal, Path(config.record.path)
            )
            await stack.aclose()  # before the port is let go


@contextlib.asynccontextmanager
async def _sandbox(token: str) -> AsyncIterator[str]:
    from gateway import sandbox  # with an upstream of its own a demo does without

    runner, port = await sandbox.start(sandbox.Sandbox(credential=token))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def _config(url: str, upstream: str, folder: Path, workers: int) -> Config:
    return Config(
        public_url=url,
        upstream=Upstream(url=upstream, lend_network_credential=True),
        listen=Listen(workers=workers),
        store=StoreSettings(path=str(folder / "gateway.sqlite3"), keys=str(folder / "keys")),
        record=Record(path=str(folder / "records.jsonl")),
        sign_in=SignIn(attempts_per_minute=0, attempts_per_minute_of_network=0),
        limits=Limits(requests_per_minute=0, failed_authentications_per_minute=0, drain_timeout_s=5.0),
    )


async def _people(config: Config) -> tuple[dict[str, str], dict[str, str]]:
    """Make the accounts, the people and a token each; their tokens and passwords by name."""
    store = await open_store(config.store, time.time)
    try:
        await store.add_account(OTHER_ADVERTISER)
        issuer = Issuer(store, LiveKeys(config.store.keys), config.public_url)
        tokens = {person.name: await _token(store, issuer, person) for person in PEOPLE}
        passwords = {person.name: await _password(store, person) for person in PEOPLE}
    finally:
        await store.close()
    return tokens, passwords


async def _token(store: Store, issuer: Issuer, person: Person) -> str:
    user = await store.user_by_email(person.email) or await store.add_user(
        person.email, person.account, person.role, person.administrator
    )
    _, text = await issuer.create(
        owner_id=user.id,
        description=f"demo {time.strftime('%Y-%m-%d %H:%M:%S')} {secrets.token_hex(2)}",
        scopes=person.scopes,
        expires_at=int(time.time()) + 90 * DAY_S,
    )
    return text


async def _password(store: Store, person: Person) -> str:
    """A fresh password for a user of the demo, kept as argon2id."""
    user = await store.user_by_email(person.email)
    assert user is not None
    text = secrets.token_urlsafe(12)
    await store.set_password(user.id, PasswordHasher().hash(text))
    return text


@dataclass(frozen=True, slots=True)
class Step:
    """One request of the tour. `who` names a token, or is empty for none; `path` is sent as it stands."""

    says: str
    who: str
    method: str
    path: str
    body: dict[str, object] | None = None
    form: dict[str, str] | None = None
    bearer: str | None = None


NI = "/api/2022-08-01/33"
TX = "/api/2020-10-01"
STEPS = (
    Step("A network user lists advertisers.", "network", "GET", f"{NI}/advertisers.json"),
    Step("An advertiser's user tries the same.", "advertiser", "GET", f"{NI}/advertisers.json"),
    Step("Their own transactions are theirs to read.", "advertiser", "GET",
         f"{TX}/advertisers/transactions/706.json?limit=2"),
    Step("Another advertiser's are not.", "advertiser", "GET", f"{TX}/advertisers/transactions/707.json"),
    Step("An affiliate reads theirs, as CSV.", "affiliate", "GET",
         f"{TX}/affiliates/transactions/808.csv?limit=2"),
    Step("Callers' numbers and money are withheld.", "network", "GET",
         f"{TX}/networks/transactions/33.json?limit=1&include_columns=transaction_id,calling_phone_number,revenue"),
    Step("The network reads an advertiser that is stored under it.", "network", "GET",
         f"{TX}/advertisers/transactions/706.json?limit=1"),
    Step("A write, with a body that is judged before it goes.", "network", "POST", f"{NI}/advertisers/demo-1.json",
         {"name": "Demo Dental", "approval_status": "Applied"}),
    Step("A login session for somebody else.", "network_admin", "POST",
         "/api/2014-01-01/33/network/pat%40example.com/create_access_token.json"),
    Step("No token at all.", "", "GET", f"{NI}/advertisers.json"),
    Step("A token that nobody signed.", "", "GET", f"{NI}/advertisers.json",
         bearer="eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290In0."),
    Step("A credential in the query.", "network", "GET", f"{NI}/advertisers.json?oauth%5Ftoken=abc"),
    Step("A refresh token hidden in a body.", "network", "PUT", f"{NI}/advertisers/demo-1.json",
         {"name": "x", "custom_data": [{"OAuth_Refresh_Token": "abc"}]}),
    Step("A path that two parsers read differently.", "advertiser", "GET",
         f"{TX}/advertisers/transactions/../../../2022-08-01/33/advertisers.json"),
    Step("An OAuth refresh grant.", "", "POST", "/oauth/token", form={"grant_type": "refresh_token",
                                                                    "refresh_token": "abc"}),
    Step("A token on somebody else's behalf.", "network_admin", "POST", "/admin/api/tokens",
         {"description": "for the advertiser", "owner": "advertiser@example.com"}),
)  # fmt: skip


async def tour(demo: Demo) -> None:
    """Send the steps, and the life of one token; show each answer, why, and what the upstream saw."""
    print(f"Gateway   {demo.url}\nUpstream  {demo.upstream}\n")
    async with ClientSession(
        cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=30), auto_decompress=False
    ) as session:
        guide = _Guide(demo, session)
        for step in STEPS:
            await guide.take(step)
        await guide.one_token()
        guide.close()


class _Guide:
    """Shows the tour: counts the steps and looks up what the upstream saw of each."""

    def __init__(self, demo: Demo, session: ClientSession) -> None:
        self._demo = demo
        self._session = session
        self._number = 0

    async def take(self, step: Step) -> dict[str, object]:
        self._number += 1
        bearer = step.bearer or self._demo.tokens.get(step.who)
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        before = await self._arrived()
        async with self._session.request(
            step.method,
            URL(self._demo.url + step.path, encoded=True),
            headers=headers,
            json=step.body,
            data=step.form,
            allow_redirects=False,
        ) as answer:
            raw = await answer.read()
            said = answer.headers.get("Gateway-Answer", "")
            request_id = answer.headers.get("Gateway-Request-Id", "")
            withheld = answer.headers.get("Gateway-Withheld")
        document = _object(raw)
        who = step.who.replace("_", " ") or ("forged token" if step.bearer else "no token")
        print(f"{self._number:2}  {step.says}\n    {who}: {step.method} {_short(step.path)}")
        print(f"    → {answer.status} {await self._reason(said, document, request_id)}")
        if withheld is not None:
            print(f"    withheld: {withheld}")
        print(
            f"    upstream saw: {_seen(before, await self._arrived(), bearer, self._demo.upstream_token)}\n"
        )
        return document

    async def one_token(self) -> None:
        """Create a token, use it, delete it, and use it again."""
        made = await self.take(
            Step("A token is made by its owner, and shown this once.", "network_admin", "POST", "/admin/api/tokens",
                 {"description": f"tour {secrets.token_hex(3)}", "expires_in": 600})
        )  # fmt: skip
        self._demo.tokens["new token"] = str(made.get("token", ""))
        use = Step("It works.", "new token", "GET", f"{TX}/networks/transactions/33.json?limit=1")
        await self.take(use)
        path = f"/admin/api/tokens/{made.get('id', '')}"
        await self.take(Step("Its owner deletes it.", "network_admin", "DELETE", path))
        await self.take(Step("The very next request.", use.who, use.method, use.path))
        del self._demo.tokens["new token"]

    def close(self) -> None:
        print("Try it yourself; these tokens end with the demo:\n")
        for name, path in (
            ("network", f"{NI}/advertisers.json"),
            ("advertiser", f"{TX}/advertisers/transactions/706.json?limit=1"),
        ):
            print(f"  # {name}")
            print(f"  curl -H 'Authorization: Bearer {self._demo.tokens[name]}' '{self._demo.url}{path}'\n")

    async def _reason(self, said: str, document: dict[str, object], request_id: str) -> str:
        """Why, in one line: the policies the decision record names, else the problem's detail."""
        if said == "ok":
            return "the gateway's own answer"
        policies = (await self._recorded(request_id)).get("policies")
        by = ""
        # Policies also allowed what was refused for its body or its rate; those they did not decide.
        if said in ("", "denied", "insufficient-scope") and isinstance(policies, list) and policies:
            by = f" by {', '.join(map(str, policies))}"
        if not said:
            return f"allowed{by}, and forwarded"
        return f"{said}{by}\n      {document.get('detail', document.get('error_description', ''))}"

    async def _recorded(self, request_id: str) -> dict[str, object]:
        """The decision record of an exchange; it is written when the last byte of the answer is."""
        for _ in range(50):
            for line in reversed(self._demo.records.read_text().splitlines()):
                record = _object(line.encode())
                if record.get("request_id") == request_id and record.get("event") == "exchange":
                    return record
            await asyncio.sleep(0.01)  # the gateway may run in this very loop
        return {}

    async def _arrived(self) -> list[dict[str, object]] | None:
        if self._demo.journal is None:
            return None
        async with self._session.get(self._demo.journal) as answer:
            journal: list[dict[str, object]] = await answer.json()
        return journal


def _object(raw: bytes) -> dict[str, object]:
    try:
        document = json.loads(raw)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _seen(
    before: list[dict[str, object]] | None,
    after: list[dict[str, object]] | None,
    bearer: str | None,
    upstream_token: str,
) -> str:
    if before is None or after is None:
        return "(not ours to look into)"
    new = after[len(before) :]
    if not new:
        return "nothing"
    text = json.dumps(new)
    credentials = new[-1].get("credentials")
    whose = "the gateway's credential" if upstream_token in text else "no credential of the gateway's"
    ours = "the app's token too" if bearer and bearer in text else "no trace of the app's token"
    channels = ", ".join(str(pair[0]) for pair in credentials) if isinstance(credentials, list) else "none"
    return f"{whose} (channel: {channels}), {ours}"


def _short(path: str) -> str:
    return path if len(path) <= 96 else path[:93] + "…"
