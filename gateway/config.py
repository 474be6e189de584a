"""The settings: frozen dataclasses nested as the file is. Every default is the closed one.

Reading them has no effects (`tomlfile.read`); `app.py` has the effects. Names carry their unit. A secret is
never a value in the file: it is named by an environment variable or a file, and read by `Secret.value()`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from gateway import tomlfile
from gateway.model import ACCOUNT_KINDS, AccountKind

Faults = Iterator[tuple[str, str]]
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is: an environment variable or a file. Printing one never prints the secret."""

    env: str | None = None
    file: str | None = None

    def check(self) -> Faults:
        if (self.env is None) == (self.file is None):
            yield "env", "exactly one of env and file is required"

    def value(self) -> str:
        """The secret. Raises: LookupError naming the place, when nothing usable is there."""
        if self.env is not None:
            found = os.environ.get(self.env, "").strip()
            where = f"environment variable {self.env}"
        else:
            where = f"file {self.file}"
            try:
                found = Path(str(self.file)).read_text(encoding="ascii").strip()
            except (OSError, ValueError) as error:
                raise LookupError(f"{where} cannot be read: {type(error).__name__}") from None
        if not is_credential(found):
            raise LookupError(f"{where} is empty or not printable ASCII")
        return found


@dataclass(frozen=True, slots=True)
class Listen:
    """The public listener. `trusted_proxies` are CIDRs whose X-Forwarded-For is believed; default none."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    fast_path: bool = True
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_terminated_by: str | None = None
    trusted_proxies: tuple[str, ...] = ()

    def check(self) -> Faults:
        yield from _port("port", self.port)
        if not 1 <= self.workers <= 256:
            yield "workers", "must be between 1 and 256"
        if (self.tls_certificate is None) != (self.tls_key is None):
            yield "tls_certificate", "tls_certificate and tls_key go together"
        if not is_loopback(self.host) and self.tls_certificate is None and not self.tls_terminated_by:
            yield (
                "host",
                f"{self.host} is not loopback: set tls_certificate and tls_key, "
                'or write tls_terminated_by = "what terminates TLS in front"',
            )
        for cidr in self.trusted_proxies:
            try:
                ip_network(cidr)
            except ValueError:
                yield "trusted_proxies", f"{cidr!r} is not a network such as 10.0.0.0/8"


@dataclass(frozen=True, slots=True)
class SideListener:
    """A listener of its own, for the admin sub-app or for operations; without a port the public one serves."""

    host: str = "127.0.0.1"
    port: int | None = None

    def check(self) -> Faults:
        if self.port is not None:
            yield from _port("port", self.port)
        if not is_loopback(self.host):
            yield "host", "a side listener speaks plain HTTP and stays on loopback"


@dataclass(frozen=True, slots=True)
class Admin(SideListener):
    """The admin sub-app. `origin` is where browsers reach a listener of its own, when not by its own address."""

    origin: str | None = None

    def check(self) -> Faults:
        yield from SideListener.check(self)
        if self.origin is None:
            return
        if self.port is None:
            yield "origin", "is for a listener of its own: set port, or leave it out"
        yield from _origin("origin", self.origin)


@dataclass(frozen=True, slots=True)
class Upstream:
    """The vendor. `credentials` maps an account key (`network:33`) to where its real token is kept."""

    url: str
    credentials: dict[str, Secret] = field(default_factory=dict)
    lend_network_credential: bool = False
    ca_file: str | None = None
    max_connections: int = 256
    max_connections_per_token: int = 64
    idle_timeout_s: float = 20.0
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 30.0
    gap_timeout_s: float = 30.0

    def check(self) -> Faults:
        try:
            parts = urlsplit(self.url)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fine = False
            parts = urlsplit("")
        if not fine or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            yield "url", "expected scheme, host and port alone, such as https://acme.invoca.net"
        elif parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            yield (
                "url",
                "plain http is for an upstream on loopback only: the credential would travel in clear",
            )
        for key in self.credentials:
            kind, _, account = key.partition(":")
            if kind not in ACCOUNT_KINDS or not account:
                yield f"credentials.{key}", 'expected an account such as "network:33"'
        for name in ("max_connections", "max_connections_per_token"):
            if getattr(self, name) < 1:
                yield name, "must be at least 1"
        yield from _positive(
            self, "idle_timeout_s", "connect_timeout_s", "first_byte_timeout_s", "gap_timeout_s"
        )


@dataclass(frozen=True, slots=True)
class Store:
    """Where tokens and people are kept, and where the signing keys lie (outside the database, mode 0600).

    `credential_key` is where the key is that upstream credentials in the store are sealed with.
    """

    path: str = "gateway.sqlite3"
    keys: str = "keys"
    credential_key: Secret | None = None
    busy_timeout_s: float = 5.0

    def check(self) -> Faults:
        yield from _positive(self, "busy_timeout_s")


@dataclass(frozen=True, slots=True)
class Tokens:
    """How long tokens live: the default and the cap; and for how long one still works that was exposed.

    `max_days_of` maps an account kind to a cap of its own.
    """

    default_days: int = 90
    max_days: int = 365
    max_days_of: dict[str, int] = field(default_factory=dict)
    exposed_hours: int = 24

    def check(self) -> Faults:
        yield from _positive(self, "default_days", "max_days", "exposed_hours")
        if self.default_days > self.max_days:
            yield "default_days", f"is beyond max_days ({self.max_days})"
        for kind, days in self.max_days_of.items():
            if kind not in ACCOUNT_KINDS:
                yield f"max_days_of.{kind}", f"expected one of {', '.join(ACCOUNT_KINDS)}"
            if days < 1:
                yield f"max_days_of.{kind}", "must be at least 1"

    def longest_days(self, kind: AccountKind) -> int:
        """How many days a token of such an account may live."""
        return self.max_days_of.get(kind, self.max_days)


@dataclass(frozen=True, slots=True)
class SignIn:
    """How long a session lives, unused and in all; how often a password may be tried in a minute, for one e-mail
    address and from one client network, in each process. 0 is no limit."""

    idle_minutes: int = 30
    longest_hours: int = 12
    attempts_per_minute: int = 10
    attempts_per_minute_of_network: int = 30

    def check(self) -> Faults:
        yield from _positive(self, "idle_minutes", "longest_hours")
        for name in ("attempts_per_minute", "attempts_per_minute_of_network"):
            if getattr(self, name) < 0:
                yield name, "must not be negative"


@dataclass(frozen=True, slots=True)
class Policies:
    """`local` is the operator's folder, laid over the packaged set: it adds, never removes.

    `shadow` is a folder that would be laid over both: it is judged and not enforced.
    `reload_timeout_s`: how long a changed set may take to compile, and then each worker to have it ready.
    """

    local: str | None = None
    shadow: str | None = None
    reload_timeout_s: float = 60.0

    def check(self) -> Faults:
        yield from _positive(self, "reload_timeout_s")


@dataclass(frozen=True, slots=True)
class Record:
    """Where decision records go: a file, appended to, or `-` for standard output."""

    path: str = "records.jsonl"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may cost. 0 requests per minute means no rate limit."""

    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    keep_alive_timeout_s: float = 75.0
    drain_timeout_s: float = 30.0
    max_body_bytes: int = 1_048_576
    max_target_bytes: int = 8_192
    max_header_bytes: int = 8_192
    max_headers: int = 100
    requests_per_minute: int = 600
    failed_authentications_per_minute: int = 120
    remembered_tokens: int = 4_096

    def check(self) -> Faults:
        yield from _positive(
            self, "head_timeout_s", "body_timeout_s", "keep_alive_timeout_s", "drain_timeout_s",
            "max_body_bytes", "max_target_bytes", "max_header_bytes", "max_headers", "remembered_tokens",
        )  # fmt: skip
        for name in ("requests_per_minute", "failed_authentications_per_minute"):
            if getattr(self, name) < 0:
                yield name, "must not be negative"


@dataclass(frozen=True, slots=True)
class Versions:
    """API versions accepted beside those the vendor prints."""

    transactions: tuple[str, ...] = ()
    network_integration: tuple[str, ...] = ()

    def check(self) -> Faults:
        for name in ("transactions", "network_integration"):
            for version in getattr(self, name):
                if (
                    DATE.fullmatch(version) is None
                ):  # what is no date is never looked for, and a slip must show
                    yield name, f"{version!r} is not a date such as 2022-08-01"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything `serve` needs. `public_url` is the issuer and the audience of every token."""

    public_url: str
    upstream: Upstream
    listen: Listen = Listen()
    admin: Admin = Admin()
    operations: SideListener = SideListener()
    store: Store = Store()
    tokens: Tokens = Tokens()
    sign_in: SignIn = SignIn()
    policies: Policies = Policies()
    record: Record = Record()
    limits: Limits = Limits()
    versions: Versions = Versions()

    def check(self) -> Faults:
        # It goes into every token, and paths are appended to it: one form, and nothing behind the port.
        yield from _origin("public_url", self.public_url)

    @property
    def admin_origin(self) -> str:
        """Where browsers reach the admin sub-app: nothing of it comes from Host."""
        if self.admin.port is None:
            return self.public_url
        host = f"[{self.admin.host}]" if ":" in self.admin.host else self.admin.host
        return self.admin.origin or f"http://{host}:{self.admin.port}"


def read(text: str, name: str, folder: Path | None = None) -> Config:
    """A configuration file's text as settings. Relative paths in it are meant from `folder`, the file's own.

    Raises: ConfigError with every fault.
    """
    config = tomlfile.read(Config, text, name)
    return config if folder is None else _anchored(config, folder)


def _anchored(config: Config, folder: Path) -> Config:
    from dataclasses import replace

    def at(path: str | None) -> str | None:
        return None if path is None else path if path == "-" else str(folder / path)

    sealing = config.store.credential_key
    return replace(
        config,
        listen=replace(
            config.listen,
            tls_certificate=at(config.listen.tls_certificate),
            tls_key=at(config.listen.tls_key),
        ),
        upstream=replace(
            config.upstream,
            ca_file=at(config.upstream.ca_file),
            credentials={k: replace(s, file=at(s.file)) for k, s in config.upstream.credentials.items()},
        ),
        store=replace(
            config.store,
            path=str(at(config.store.path)),
            keys=str(at(config.store.keys)),
            credential_key=None if sealing is None else replace(sealing, file=at(sealing.file)),
        ),
        policies=replace(config.policies, local=at(config.policies.local), shadow=at(config.policies.shadow)),
        record=replace(config.record, path=str(at(config.record.path))),
    )


def is_credential(text: str) -> bool:
    """Whether a text can be an upstream credential: it has to fit a header. Printable ASCII, at most 4096 of it."""
    return 0 < len(text) <= 4_096 and all("!" <= c <= "~" or c == " " for c in text)


def is_loopback(host: str) -> bool:
    """Whether a listener or peer name stays on this machine."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(name: str, url: str) -> Faults:
    """What is wrong with an origin that people or apps use."""
    if ORIGIN.fullmatch(url) is None or not _has_host_and_port(url):
        yield name, "expected the origin apps use, such as https://gateway.example.com"
    elif url.startswith("http:") and not is_loopback(urlsplit(url).hostname or ""):
        yield name, "must be https outside loopback"


def _has_host_and_port(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that hold no address, a port beyond 65535
        return False


def _port(name: str, port: int) -> Faults:
    if not 0 <= port <= 65535:
        yield name, f"{port} is not a port"


def _positive(settings: object, *names: str) -> Faults:
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:  # TOML can write nan, which no comparison stops
            yield name, "must be above 0, and finite"
