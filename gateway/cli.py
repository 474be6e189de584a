"""The command line: parse, call one function, print, exit 0 (done), 1 (faults found) or 2 (asked wrongly)."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gateway import __version__, config, keyscli, policycli, scancli, usercli
from gateway.command import ASKED_WRONGLY, DONE, FAULTS
from gateway.command import read as _read
from gateway.command import wrong as _wrong
from gateway.problem import Problem
from gateway.tomlfile import ConfigError, Fault, Lines

if TYPE_CHECKING:
    from gateway.store import Store, TokenRow, UseRow

OPERATOR = "command line"
"""Who acted, where no user did: no id of a user looks like it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "command"):
        parser.print_help()
        return ASKED_WRONGLY
    try:
        return cast(int, options.command(options))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return FAULTS
    except Problem as problem:
        print(f"{problem.kind}: {problem.detail}", file=sys.stderr)
        return FAULTS
    except (OSError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return FAULTS
    except KeyboardInterrupt:
        return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="invoca-gateway", description="A policy enforcement gateway in front of Invoca's APIs."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_demo(commands)
    _add_sandbox(commands)
    _add_serve(commands)
    usercli.add(commands)
    _add_token(commands)
    policycli.add(commands)
    keyscli.add(commands)
    scancli.add(commands)
    return parser


# --- demo, sandbox


def _add_demo(commands: Any) -> None:
    it = commands.add_parser("demo", help="a sandbox upstream, a gateway, and a tour of requests")
    it.add_argument("--port", type=_port, default=0, help="of the gateway; a free one by default")
    it.add_argument(
        "--upstream", help="an upstream to use instead of the sandbox, such as http://127.0.0.1:9000"
    )
    it.add_argument("--upstream-token", help="the credential to send upstream; random by default")
    it.add_argument("--workers", type=int, default=1, help="processes that serve")
    it.add_argument("--data", help="where to keep store, keys and records; a temporary folder by default")
    how = it.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="stop after the tour")
    how.add_argument("--json", action="store_true", help="no tour: one line of JSON when ready, then serve")
    it.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    if options.upstream_token is not None and not all("!" <= c <= "~" for c in options.upstream_token or " "):
        return _wrong("--upstream-token has to be printable ASCII without spaces")
    if not 1 <= options.workers <= 64:
        return _wrong("--workers has to be between 1 and 64")
    upstream = None if options.upstream is None else options.upstream.rstrip("/")
    faults = [] if upstream is None else list(config.Upstream(url=upstream).check())
    if faults:
        return _wrong(f"--upstream: {faults[0][1]}")

    from gateway import demo, serve

    serve.set_up_logging(logging.WARNING)
    serve.run(
        demo.run(
            demo.Options(
                options.port, upstream, options.upstream_token, options.workers, options.data,
                options.once, options.json,
            )
        )
    )  # fmt: skip
    return DONE


def _add_sandbox(commands: Any) -> None:
    it = commands.add_parser("sandbox", help="a stand-in for both Invoca APIs, with made-up data")
    it.add_argument("--host", default="127.0.0.1")
    it.add_argument("--port", type=_port, default=8090)
    it.add_argument("--credential", help="the only token that is accepted; any by default")
    it.set_defaults(command=_sandbox)


def _sandbox(options: argparse.Namespace) -> int:
    if not config.is_loopback(options.host):
        return _wrong("--host: the sandbox is for loopback; it accepts credentials of every kind")

    from gateway import sandbox, serve

    async def stay() -> None:
        runner, port = await sandbox.start(
            sandbox.Sandbox(credential=options.credential), options.host, options.port
        )
        print(f"sandbox: http://{options.host}:{port}/ (networks 33; see /sandbox/journal)", flush=True)
        stopped = asyncio.Event()
        for stop in serve.STOPS:
            asyncio.get_running_loop().add_signal_handler(stop, stopped.set)
        try:
            await stopped.wait()
        finally:
            await runner.cleanup()

    serve.run(stay())
    return DONE


# --- serve, check


def _add_serve(commands: Any) -> None:
    it = commands.add_parser("serve", help="run for real")
    it.add_argument("--config", required=True, metavar="FILE")
    it.set_defaults(command=_serve)
    it = commands.add_parser("check", help="report every fault of a configuration")
    it.add_argument("--config", required=True, metavar="FILE")
    it.set_defaults(command=_check)


def _serve(options: argparse.Namespace) -> int:
    from gateway import serve

    settings = _read(options.config)
    serve.set_up_logging()
    serve.serve(settings, lambda address: print(f"ready: {address}", flush=True))
    return DONE


def _check(options: argparse.Namespace) -> int:
    from gateway import app
    from gateway.load import load_catalogue, load_sets
    from gateway.store.sealing import read_key

    settings = _read(options.config)
    lines = Lines(Path(options.config).read_text(encoding="utf-8"))
    faults: list[Fault] = []

    def add(text: str, *path: str) -> None:
        faults.append(Fault(options.config, lines.of(path), ".".join(path), text))

    tls = {"tls_certificate": settings.listen.tls_certificate, "tls_key": settings.listen.tls_key}
    unreadable = [name for name, file in tls.items() if file is not None and not Path(file).is_file()]
    for name in unreadable:
        add(f"{tls[name]} cannot be read", "listen", name)
    if not unreadable:
        try:
            app.load_tls(settings.listen)
        except ConfigError as error:
            add(error.faults[0].text, "listen", "tls_certificate")
    if settings.upstream.ca_file is not None and not Path(settings.upstream.ca_file).is_file():
        add(f"{settings.upstream.ca_file} cannot be read", "upstream", "ca_file")
    for account, secret in settings.upstream.credentials.items():
        try:
            secret.value()
        except LookupError as error:
            add(str(error.args[0]), "upstream", "credentials", account)
    if settings.store.credential_key is not None:
        try:
            read_key(settings.store.credential_key)
        except LookupError as error:
            add(str(error.args[0]), "store", "credential_key")
    try:
        load_sets(settings, load_catalogue(settings))
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    print(f"{options.config}: no faults")
    return DONE


# --- tokens


def _add_token(commands: Any) -> None:
    group = commands.add_parser("token", help="tokens in the store").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    it = group.add_parser("list", help="every token, newest first, never with a secret")
    it.add_argument("--config", required=True, metavar="FILE")
    it.add_argument("--owner", metavar="EMAIL")
    it.add_argument("--state", choices=("active", "paused", "exposed", "expired", "deleted"))
    it.add_argument("--json", action="store_true")
    it.set_defaults(command=_token_list)
    it = group.add_parser("pause", help="stop a token for a while; every worker refuses it at once")
    it.add_argument("id")
    it.add_argument("--config", required=True, metavar="FILE")
    it.set_defaults(command=_token_pause)
    it = group.add_parser("resume", help="end a pause, whoever began it")
    it.add_argument("id")
    it.add_argument("--config", required=True, metavar="FILE")
    it.set_defaults(command=_token_resume)
    it = group.add_parser(
        "delete", help="end a token for good; every worker refuses it from the next request on"
    )
    it.add_argument("id")
    it.add_argument("--config", required=True, metavar="FILE")
    it.add_argument("--reason", default="")
    it.set_defaults(command=_token_delete)


def _token_list(options: argparse.Namespace) -> int:
    from gateway.exchange import rfc3339
    from gateway.store import MAX_PAGE, open_store

    settings = _read(options.config)

    async def show() -> int:
        store = await open_store(settings.store, time.time)
        try:
            owner = None
            if options.owner is not None:
                user = await store.user_by_email(options.owner)
                if user is None:
                    print(f"there is no user {options.owner}", file=sys.stderr)
                    return FAULTS
                owner = user.id
            after: str | None = None
            while True:
                now = time.time()
                page = await store.list_tokens(
                    owner_id=owner, state=options.state, after=after, limit=MAX_PAGE, now=now
                )
                used = await store.uses([row.id for row in page.rows], now=now)
                for row in page.rows:
                    facts = {
                        "id": row.id,
                        "state": row.state(now),
                        "owner": row.owner_id,
                        "expires_at": rfc3339(row.expires_at),
                        "scopes": " ".join(row.scopes),
                        "last_used": _last_used(used.get(row.id)),
                        "description": row.description,
                    }
                    limits = {"personal_records_per_day": row.personal_records_per_day}
                    print(json.dumps(facts | limits) if options.json else "  ".join(facts.values()))
                after = page.next
                if after is None:
                    return DONE
        finally:
            await store.close()

    return asyncio.run(show())


def _last_used(use: UseRow | None) -> str:
    from gateway.exchange import rfc3339

    if use is None:
        return "never used"
    return f"{rfc3339(use.at)} {use.network} {use.operation} {use.in_24h}/24h {use.in_30d}/30d"


def _token_pause(options: argparse.Namespace) -> int:
    return _on_token(
        options, "pause", "paused", lambda store, at: store.pause_token(options.id, by=OPERATOR, at=at)
    )


def _token_resume(options: argparse.Namespace) -> int:
    return _on_token(
        options,
        "resume",
        "resumed",
        lambda store, at: store.resume_token(options.id, by=OPERATOR, anybodys=True, at=at),
    )


def _token_delete(options: argparse.Namespace) -> int:
    return _on_token(
        options,
        "delete",
        "deleted",
        lambda store, at: store.delete_token(options.id, by=OPERATOR, reason=options.reason, at=at),
    )


def _on_token(
    options: argparse.Namespace,
    act: str,
    done: str,
    do: Callable[[Store, int], Awaitable[TokenRow | None]],
) -> int:
    from gateway.store import open_store

    settings = _read(options.config)

    async def run() -> TokenRow:
        store = await open_store(settings.store, time.time)
        try:
            with usercli.recorded(settings, f"token.{act}") as event:
                if await store.token(options.id) is None:
                    raise Problem("not-found", f"there is no token {options.id}")
                event.subject = options.id
                row = await do(store, int(time.time()))
                assert row is not None  # rows stay
        finally:
            await store.close()
        return row

    row = asyncio.run(run())
    print(f"{done}: {row.id} {row.description}")
    return DONE


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is not a port")
    return number
