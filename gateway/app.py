"""build(config): makes every part once and hands each what it needs. The only file that knows all of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network

from aiohttp import web
from argon2 import PasswordHasher

from gateway import admin, wire
from gateway.audit import Recorder
from gateway.authenticate import Authenticator
from gateway.budget import Budgets
from gateway.config import Config, Listen, SideListener
from gateway.config import Upstream as UpstreamSettings
from gateway.credentials import Credentials, LiveCredentials, configured
from gateway.exchange import Exchanges, on_prepare
from gateway.flow import Flow
from gateway.fullset import FullSets
from gateway.inforce import Outcome, Policies
from gateway.issue import Issuer
from gateway.lastuse import LastUse
from gateway.lean import Lean
from gateway.load import load_catalogue, load_sets
from gateway.metrics import Metrics
from gateway.oauth import OAuth
from gateway.ops import Operations
from gateway.passwords import Passwords
from gateway.ratelimit import RateLimit
from gateway.selfservice import SelfService
from gateway.selftest import what_moved
from gateway.shadow import Shadow
from gateway.shield import Shield
from gateway.signin import SignIn
from gateway.store import Store, open_store
from gateway.store.keys import LiveKeys
from gateway.tomlfile import ConfigError, Fault
from gateway.upstream import Upstream
from gateway.verdicts import Verdicts

log = logging.getLogger("gateway.app")


@dataclass
class Gateway:
    """A gateway in this process. `start` serves; `stop` lets what is under way finish, then closes everything."""

    config: Config
    policies: Policies
    store: Store
    issuer: Issuer
    recorder: Recorder
    upstream: Upstream
    verdicts: Verdicts
    exchanges: Exchanges
    metrics: Metrics
    uses: LastUse
    budgets: Budgets
    passwords: Passwords
    lean: Lean | None
    credentials: LiveCredentials | None
    public: web.Application
    side: list[tuple[SideListener, web.Application]]
    _runners: list[web.BaseRunner] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self, listening: socket.socket, reuse_port: bool = False) -> None:
        """Serve on a bound socket, and on the side listeners of the configuration."""
        await self.verdicts.check()  # before the first request, so that what it proves is remembered
        self._tasks.append(asyncio.create_task(self.verdicts.watch()))
        self._tasks.append(asyncio.create_task(self.issuer.keys.watch()))
        self._tasks.append(asyncio.create_task(self.issuer.watch()))
        self._tasks.append(asyncio.create_task(self.uses.watch()))
        if self.credentials is not None:
            self._tasks.append(asyncio.create_task(self.credentials.watch()))
        if self.lean is not None:
            self._tasks.append(asyncio.create_task(self.lean.watch()))
        await self._serve(self.public, listening, load_tls(self.config.listen), self.lean)
        for settings, app in self.side:
            await self._serve(app, bind(settings.host, settings.port or 0, reuse_port), None, None)
        _calm_collector()

    async def _serve(
        self,
        app: web.Application,
        listening: socket.socket,
        tls: ssl.SSLContext | None,
        lean: Lean | None,
    ) -> None:
        runner = wire.Runner(app, self.exchanges, self.config.limits, lean)
        await runner.setup()
        self._runners.append(runner)
        await web.SockSite(runner, listening, ssl_context=tls, backlog=1024).start()

    def holder(self, settings: SideListener) -> web.Application:
        """What serves a surface: an application on a listener of its own where it has one, else the public one."""
        if settings.port is None:
            return self.public
        aside = _application(self.exchanges)
        self.side.append((settings, aside))
        return aside

    def reloaded(self, outcome: Outcome) -> None:
        """A reload of the policies has ended: what readiness and metrics tell of it."""
        self.policies.told(outcome)
        self.metrics.count("policy_reloads", outcome.word)
        if outcome.word != "loaded":
            self.metrics.count("alarms", "policies-not-loaded")

    async def stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.upstream.close()
        await self.uses.flush()
        await self.budgets.close()
        self.passwords.close()
        await self.store.close()
        self.recorder.close()


def _calm_collector() -> None:
    """What was made until now stays: the collector need not walk it again and again (it is most of what there is).

    Requests leave no cycles behind, so it has little to find; it may look less often than Python's default.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def bind(host: str, port: int, reuse_port: bool = False) -> socket.socket:
    """A bound TCP socket. With `reuse_port`, several processes may bind the same port and share its connections."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


def load_tls(listen: Listen) -> ssl.SSLContext | None:
    """The TLS side of the public listener, or None without one. Raises: ConfigError."""
    if not listen.tls_certificate or not listen.tls_key:
        return None
    try:
        return wire.tls_context(listen.tls_certificate, listen.tls_key)
    except OSError as error:  # ssl.SSLError is one; its text says little to whoever wrote the setting
        text = f"certificate and key cannot be used: {type(error).__name__}"
        raise ConfigError([Fault("configuration", 0, "listen.tls_certificate", text)]) from None


def load_credentials(settings: UpstreamSettings) -> None:
    """Whether the credentials can be read from where the configuration says. Raises: ConfigError naming each."""
    faults = configured(settings.credentials).faults
    if faults:
        raise ConfigError(
            [
                Fault("configuration", 0, f"upstream.credentials.{account}", text)
                for account, text in faults.items()
            ]
        )


async def build(
    config: Config,
    clock: Callable[[], float] = time.time,
    credentials: Credentials | None = None,
    policies: Policies | None = None,
    hasher: PasswordHasher | None = None,
) -> Gateway:
    """Every part of a gateway, connected and not yet serving.

    `credentials` stand in for the configured ones, `policies` for a set that would be loaded and compiled here,
    `hasher` for the library's parameters of argon2id.

    Raises: ConfigError, RuntimeError, OSError: reasons not to start.
    """
    wire.require_c_parser()
    catalogue = load_catalogue(config)
    policies = policies or Policies(load_sets(config, catalogue))
    keys = LiveKeys(config.store.keys)
    metrics = Metrics()
    later = asyncio.get_running_loop().call_later
    recorder = Recorder(config.record.path, lambda: policies.table.digest[:16], clock, later)
    store = await open_store(config.store, clock)
    live = None
    if credentials is None:
        live = await _open_credentials(config, store)
        credentials = live.credentials
    limits = config.limits
    verdicts = Verdicts(store, clock, limits.remembered_tokens)
    authenticator = Authenticator(
        store,
        keys,
        config.public_url,
        clock,
        RateLimit("authentication", limits.failed_authentications_per_minute, time.monotonic),
        verdicts,
        tuple(ip_network(cidr) for cidr in config.listen.trusted_proxies),
    )
    uses = LastUse(store)
    exchanges = Exchanges(recorder, authenticator, metrics, config.tokens.exposed_hours, clock, uses)
    upstream = Upstream(config.upstream)
    rate = RateLimit("token", limits.requests_per_minute, time.monotonic)
    budgets = Budgets(store, clock)
    flow = Flow(
        exchanges=exchanges,
        authenticator=authenticator,
        catalogue=catalogue,
        policies=policies,
        store=store,
        credentials=credentials,
        upstream=upstream,
        recorder=recorder,
        rate=rate,
        limits=limits,
        shadow=Shadow(metrics),
        shield=Shield(config.upstream.url, config.public_url),
        full_sets=FullSets(upstream),
        budgets=budgets,
    )
    issuer = Issuer(store, keys, config.public_url, clock)
    passwords = Passwords(hasher)
    gateway = Gateway(
        config=config,
        policies=policies,
        store=store,
        issuer=issuer,
        recorder=recorder,
        upstream=upstream,
        verdicts=verdicts,
        exchanges=exchanges,
        metrics=metrics,
        uses=uses,
        budgets=budgets,
        passwords=passwords,
        lean=await _lean(config, flow, live, metrics),
        credentials=live,
        public=_application(exchanges),
        side=[],
    )
    oauth = OAuth(exchanges, config.public_url, keys, store, authenticator, clock, limits)
    oauth.add_routes(gateway.public.router)
    asking = RateLimit("can", limits.requests_per_minute, time.monotonic)
    SelfService(flow, asking).add_routes(gateway.public.router)
    operations = gateway.holder(config.operations)
    Operations(store, recorder, policies, metrics).add_routes(operations.router)
    sign_in = SignIn(store, passwords, config.sign_in, clock, time.monotonic)
    gateway.holder(config.admin).add_subapp("/admin/", _admin(gateway, flow, sign_in, clock))
    gateway.public.router.add_route("*", "/{path:.*}", flow.handle)
    _gauges(gateway, keys)
    return gateway


async def _open_credentials(config: Config, store: Store) -> LiveCredentials:
    try:
        return await LiveCredentials.open(config, store)
    except BaseException:  # whatever it was, nobody else would close the store
        await store.close()
        raise


def _admin(gateway: Gateway, flow: Flow, sign_in: SignIn, clock: Callable[[], float]) -> web.Application:
    """The admin sub-app."""
    config, store, exchanges = gateway.config, gateway.store, gateway.exchanges
    callers = admin.Callers(flow.authenticator, sign_in, flow.rate, config.admin_origin)
    tokens = admin.TokensApi(exchanges, callers, gateway.issuer, store, config.tokens, config.limits, clock)

    def has_credential(account: str) -> bool:
        return account in flow.credentials.by_account or account in config.upstream.credentials

    people = admin.PeopleApi(exchanges, callers, sign_in, store, config.limits, has_credential, clock)
    return admin.make_app(tokens, people, callers, config.admin_origin)


async def _lean(config: Config, flow: Flow, live: LiveCredentials | None, metrics: Metrics) -> Lean | None:
    """The short way; None when it is turned off, or does not fit the aiohttp that is installed."""
    if not config.listen.fast_path:
        return None
    moved = await what_moved()
    if moved is not None:
        log.error("fast-path-off: this aiohttp does not fit: %s", moved)
        metrics.count("alarms", "fast-path-off")
        return None
    lean = Lean(flow, flow.exchanges)
    flow.policies.when_changed(lean.replan)  # or plans would hold on to what decided them
    if live is not None:
        live.on_change = lean.replan
    return lean


def _application(exchanges: Exchanges) -> web.Application:
    app = web.Application(middlewares=[exchanges.middleware()])
    app.on_response_prepare.append(on_prepare)
    return app


def _gauges(gateway: Gateway, keys: LiveKeys) -> None:
    gauge, live = gateway.metrics.gauge, gateway.credentials
    upstream, recorder, policies = gateway.upstream, gateway.recorder, gateway.policies
    gauge("upstream_connections", "Connections to the upstream.", lambda: upstream.stats().open)
    gauge("upstream_busy", "Connections to the upstream in use.", lambda: upstream.stats().busy)
    gauge("record_failures", "Decision records that could not be written.", lambda: recorder.alarms)
    gauge("policy_alarms", "Policy evaluations that failed and denied.", lambda: policies.alarms)
    gauge("policy_generation", "The policies in force; 0 at the start.", lambda: policies.generation)
    gauge(
        "policies_behind",
        "1 while a newer set of policies did not load.",
        lambda: policies.last.word != "loaded",
    )
    gauge("key_alarms", "Times that the signing keys became unusable.", lambda: keys.alarms)
    if live is not None:
        gauge("credential_alarms", "Upstream credentials that became unusable.", lambda: live.alarms)
