"""Rows of SQLite into the store's rows, as strictly as they were written.

A row that another hand has touched is not read kindly: it is Unreadable, and the store cannot answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, TypeVar

from gateway.model import ACCOUNT_KINDS, ROLES, SCOPES, Account
from gateway.store.people import SessionRow
from gateway.store.rows import CredentialRow, Kept, TokenRow, UseRow, UserRow
from gateway.store.tally import DAY_S, HOUR_S, Tally

T = TypeVar("T")
Row = tuple[Any, ...]

TOKEN = """t.id, t.owner_id, t.description, t.scopes, t.created_at, t.expires_at, t.paused_at, t.exposed_at,
    t.rotate_by, t.deleted_at, t.deleted_by, t.delete_reason, t.made_by, t.outlives_maker, t.bootstrap,
    t.accounts, t.networks, t.not_before, t.paused_by, t.rotated_at, t.earlier_until,
    t.personal_records_per_day"""
TOKEN_COLUMNS = TOKEN.count(",") + 1
USER = "u.id, u.email, a.kind, a.id, a.network, u.role, u.administrator, u.active, u.created_at"
USERS = "users AS u JOIN accounts AS a ON a.kind = u.account_kind AND a.id = u.account_id"


class Unreadable(Exception):
    """A row that this code did not write, or not like this. Never shown: it may be anybody's text."""


def first(parse: Callable[[Row], T]) -> Callable[[list[Row]], T | None]:
    """A reader of one row or none, from a reader of one row."""
    return lambda rows: parse(rows[0]) if rows else None


def token_row(row: Row) -> TokenRow:
    """The columns of TOKEN. Raises: Unreadable."""
    (
        token_id, owner_id, description, scopes, created_at, expires_at, paused_at, exposed_at, rotate_by,
        deleted_at, deleted_by, delete_reason, made_by, outlives_maker, bootstrap, accounts, networks,
        not_before, paused_by, rotated_at, earlier_until, personal_records_per_day,
    ) = row  # fmt: skip
    return TokenRow(
        id=_text(token_id),
        owner_id=_text(owner_id),
        description=_text(description),
        scopes=_scopes(_text(scopes)),
        created_at=_whole(created_at),
        expires_at=_whole(expires_at),
        paused_at=_perhaps(_whole, paused_at),
        exposed_at=_perhaps(_whole, exposed_at),
        rotate_by=_perhaps(_whole, rotate_by),
        deleted_at=_perhaps(_whole, deleted_at),
        deleted_by=_perhaps(_text, deleted_by),
        delete_reason=_perhaps(_text, delete_reason),
        made_by=_perhaps(_text, made_by),
        outlives_maker=_flag(outlives_maker),
        bootstrap=_flag(bootstrap),
        accounts=_list(accounts),
        networks=_networks(_list(networks)),
        not_before=_perhaps(_whole, not_before),
        paused_by=_perhaps(_text, paused_by),
        rotated_at=_perhaps(_whole, rotated_at),
        earlier_until=_perhaps(_whole, earlier_until),
        personal_records_per_day=_perhaps(_whole, personal_records_per_day),
    )


def user_row(row: Row) -> UserRow:
    """The columns of USER. Raises: Unreadable."""
    user_id, email, kind, account_id, network, role, administrator, active, created_at = row
    if role not in ROLES:
        raise Unreadable
    return UserRow(
        id=_text(user_id),
        email=_text(email),
        account=account_row((kind, account_id, network)),
        role=role,
        administrator=_flag(administrator),
        active=_flag(active),
        created_at=_whole(created_at),
    )


def session_row(row: Row) -> SessionRow:
    """Id, user, created, seen, end. Raises: Unreadable."""
    session_id, user_id, created_at, seen_at, ends_at = row
    return SessionRow(_text(session_id), _text(user_id), _whole(created_at), _whole(seen_at), _whole(ends_at))


def account_row(row: Row) -> Account:
    """Kind, id, network. Raises: Unreadable."""
    kind, account_id, network = row
    if kind not in ACCOUNT_KINDS or (kind == "network" and network != account_id):
        raise Unreadable
    return Account(kind, _text(account_id), _text(network))


def count_and_time(rows: list[Row]) -> tuple[int, int | None]:
    """The one row of a count and the latest of some times. Raises: Unreadable."""
    count, latest = rows[0]
    return _whole(count), None if latest is None else _whole(latest)


def texts(rows: list[Row]) -> tuple[str, ...]:
    """Rows of one text each. Raises: Unreadable."""
    return tuple(_text(text) for (text,) in rows)


def credential_row(row: Row) -> CredentialRow:
    """Account, when it was set, the sealed bytes. Raises: Unreadable."""
    account, set_at, sealed = row
    if type(sealed) is not bytes:
        raise Unreadable
    return CredentialRow(_text(account), _whole(set_at), sealed)


def use_row(row: Row, now: int) -> tuple[str, UseRow]:
    """A token's id and its last use, from the columns of `uses`. Raises: Unreadable."""
    token_id, at, network, operation, earlier_at, hours, days = row
    return _text(token_id), UseRow(
        at=_whole(at),
        network=_text(network),
        operation=_text(operation),
        earlier_at=_perhaps(_whole, earlier_at),
        in_24h=tally(hours).total(now // HOUR_S),
        in_30d=tally(days).total(now // DAY_S),
    )


def kept_row(row: Row) -> tuple[bytes, int, Kept]:
    """The binding, the end, and the rest of a row of `answers`. Raises: Unreadable."""
    binding, until, token_id, issued_at, expires_at, sealed = row
    if type(binding) is not bytes or not isinstance(sealed, bytes | None):
        raise Unreadable
    return binding, _whole(until), Kept(_text(token_id), _whole(issued_at), _whole(expires_at), sealed)


def tally(packed: object) -> Tally:
    try:
        return Tally.unpack(packed)
    except ValueError:
        raise Unreadable from None


def number(rows: list[Row]) -> int:
    """The one number of a one-row answer. Raises: Unreadable."""
    if not rows:
        raise Unreadable
    return _whole(rows[0][0])


def _perhaps(read: Callable[[object], T], value: object) -> T | None:
    return None if value is None else read(value)


def _text(value: object) -> str:
    if type(value) is not str:
        raise Unreadable
    return value


def _whole(value: object) -> int:
    if type(value) is not int:
        raise Unreadable
    return value


def _scopes(text: str) -> tuple[str, ...]:
    scopes = tuple(text.split(" "))
    if not all(scope in SCOPES for scope in scopes):
        raise Unreadable
    return scopes


def _networks(items: tuple[str, ...] | None) -> tuple[str, ...] | None:
    try:
        for item in items or ():
            ip_network(item)
    except ValueError:
        raise Unreadable from None
    return items


def _flag(value: object) -> bool:
    if type(value) is not int or value not in (0, 1):
        raise Unreadable
    return value == 1


def _list(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    try:
        items = json.loads(_text(value))
    except (ValueError, RecursionError):
        raise Unreadable from None
    if not isinstance(items, list):
        raise Unreadable
    return tuple(map(_text, items))
