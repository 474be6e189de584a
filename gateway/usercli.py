"""`user …`: people, for whoever runs the gateway. What is secret goes to standard output, alone, once.

The operator is bounded by no network and may disable its last administrator. Each act leaves a record in the record
file, as an act through the API does; where records go to standard output, which is for the secret, it is a line
of standard error instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from gateway.command import DONE, read, wrong
from gateway.config import Config
from gateway.model import ACCOUNT_KINDS, ROLES, Account, AccountKind, AuditEvent, Role
from gateway.problem import Problem

if TYPE_CHECKING:
    from gateway.store import Store, UserRow

BY = "command line"


def add(commands: Any) -> None:
    """Add the commands to the parser's."""
    group = commands.add_parser("user", help="people of an account").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _add_add(group)
    it = group.add_parser("list", help="every user, newest first")
    it.add_argument("--config", required=True, metavar="FILE")
    it.add_argument("--network", metavar="ID", help="of this network alone")
    it.add_argument("--json", action="store_true")
    it.set_defaults(command=_list)
    for name, says, command in (
        ("disable", "stop a user: every token and session of theirs is refused from now on", _disable),
        ("enable", "let a user go on, and their tokens", _enable),
        ("reset", "print, this once, a code with which the user sets a new password", _reset),
    ):
        it = group.add_parser(name, help=says)
        it.add_argument("email")
        it.add_argument("--config", required=True, metavar="FILE")
        it.set_defaults(command=command)


def _add_add(group: Any) -> None:
    it = group.add_parser("add", help="add a user, and their account when it is new")
    it.add_argument("email")
    it.add_argument("--config", required=True, metavar="FILE")
    it.add_argument(
        "--account", required=True, metavar="KIND:ID", help="such as network:33 or advertiser:706"
    )
    it.add_argument("--network", metavar="ID", help="the network an advertiser or affiliate belongs to")
    it.add_argument("--role", choices=ROLES, default="super")
    it.add_argument("--administrator", action="store_true")
    it.add_argument(
        "--bootstrap-token", action="store_true",
        help="print, this once, a one-hour token with which the user makes their own, instead of a code",
    )  # fmt: skip
    it.set_defaults(command=_add)


def _add(options: argparse.Namespace) -> int:
    from gateway.signin import new_code
    from gateway.store.keys import LiveKeys

    kind, _, number = options.account.partition(":")
    if kind not in ACCOUNT_KINDS or not number:
        return wrong("--account has to be such as network:33, advertiser:706 or affiliate:808")
    network = number if kind == "network" else options.network
    if not network or (kind == "network" and options.network not in (None, number)):
        return wrong("--network has to name the network that the account belongs to")
    settings = read(options.config)
    account = Account(cast(AccountKind, kind), number, network)
    role = cast(Role, options.role)
    # Keys that cannot be used are found before a user is added who could then get no token.
    keys = LiveKeys(settings.store.keys) if options.bootstrap_token else None

    async def act(store: Store, event: AuditEvent) -> int:
        if keys is None:
            secret, code = new_code("activation", time.time())
            user, _ = await store.people.add(options.email, account, role, options.administrator, code=code)
        else:
            from gateway.issue import Issuer

            issuer = Issuer(store, keys, settings.public_url)
            user, _, secret = await issuer.first(options.email, account, role, options.administrator)
        event.subject = user.id
        _say(user)
        if keys is None:
            _hand_over(settings, secret, "activation")
        else:
            print("bootstrap token, shown this once and valid for one hour:", file=sys.stderr)
            print(secret)
        return DONE

    return _run(settings, "user.add", act)


def _list(options: argparse.Namespace) -> int:
    settings = read(options.config)

    async def act(store: Store, _: AuditEvent) -> int:
        from gateway.store import MAX_PAGE

        after: str | None = None
        while True:
            page = await store.list_users(network=options.network, after=after, limit=MAX_PAGE)
            for row in page.rows:
                facts = {
                    "id": row.id,
                    "email": row.email,
                    "account": row.account.key,
                    "network": row.account.network,
                    "role": row.role,
                    "administrator": row.administrator,
                    "state": "active" if row.active else "disabled",
                }
                print(json.dumps(facts) if options.json else _line(row))
            after = page.next
            if after is None:
                return DONE

    return _run(settings, "user.list", act)


def _disable(options: argparse.Namespace) -> int:
    async def act(store: Store, user: UserRow) -> str:
        await store.people.change(user.id, active=False)
        return "disabled"

    return _on_user(options, "user.disable", act)


def _enable(options: argparse.Namespace) -> int:
    async def act(store: Store, user: UserRow) -> str:
        await store.people.change(user.id, active=True)
        return "enabled"

    return _on_user(options, "user.enable", act)


def _on_user(options: argparse.Namespace, name: str, act: Callable[[Store, UserRow], Awaitable[str]]) -> int:
    settings = read(options.config)

    async def run(store: Store, event: AuditEvent) -> int:
        user = await _user(store, options.email, event)
        done = await act(store, user)
        print(f"{done}: {user.id} {user.email}")
        return DONE

    return _run(settings, name, run)


def _reset(options: argparse.Namespace) -> int:
    from gateway.signin import new_code

    settings = read(options.config)

    async def act(store: Store, event: AuditEvent) -> int:
        user = await _user(store, options.email, event)
        secret, code = new_code("reset", time.time())
        await store.people.give_code(user.id, code)
        _say(user)
        _hand_over(settings, secret, "reset")
        return DONE

    return _run(settings, "user.reset", act)


async def _user(store: Store, email: str, event: AuditEvent) -> UserRow:
    user = await store.user_by_email(email)
    if user is None:
        raise Problem("not-found", f"there is no user {email}")
    event.subject = user.id
    return user


def _say(user: UserRow) -> None:
    print(f"user: {user.id} {user.email} {user.account.key} {user.role}", file=sys.stderr)


def _line(row: UserRow) -> str:
    state = "active" if row.active else "disabled"
    head = "administrator" if row.administrator else "-"
    return f"{row.id}  {state}  {row.account.key}  {row.account.network}  {row.role}  {head}  {row.email}"


def _hand_over(settings: Config, secret: str, what: str) -> None:
    where = f"POST {settings.admin_origin}/admin/api/password"
    print(f"{what} code, shown this once and valid for 24 hours ({where}):", file=sys.stderr)
    print(secret)


def _run(settings: Config, name: str, act: Callable[[Store, AuditEvent], Awaitable[int]]) -> int:
    from gateway.store import open_store

    async def run() -> int:
        store = await open_store(settings.store, time.time)
        try:
            with recorded(settings, name) as event:
                return await act(store, event)
        finally:
            await store.close()

    return asyncio.run(run())


@contextmanager
def recorded(settings: Config, name: str) -> Iterator[AuditEvent]:
    """An event that is recorded when it is over, also when it is refused; nothing is done that cannot be recorded.

    Raises: Problem as it came; OSError, before anything is done.
    """
    from gateway.audit import Recorder

    recorder = None if settings.record.path == "-" else Recorder(settings.record.path, lambda: "", time.time)
    event = AuditEvent(secrets.token_hex(12), time.time(), "command", client=BY)
    event.act = name
    try:
        yield event
    except Problem as problem:
        event.problem, event.outcome = problem.kind, "refused"
        raise
    except BaseException:
        event.outcome = "bug"
        raise
    finally:
        if recorder is None:
            print(f"{name}: {event.subject or '-'} {event.problem or event.outcome}", file=sys.stderr)
        else:
            recorder.record(event)
            recorder.close()
