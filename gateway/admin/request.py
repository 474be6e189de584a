"""What a body that asks for a token says, checked against who asks. Pure: no store, no clock of its own.

Every fault is named with its member. Members nobody knows are refused: a misspelt restriction that was silently
ignored would make a wider token than was meant.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

from gateway.config import Tokens
from gateway.model import ACCOUNT_KINDS, DEFAULT_SCOPES, SCOPES, Network, Principal
from gateway.problem import Problem
from gateway.store import (
    MAX_AT_ONCE,
    MAX_DESCRIPTION_CHARS,
    MAX_RECORDS,
    MIN_DESCRIPTION_CHARS,
    TokenRow,
    Which,
    allowed_network,
)
from gateway.target import squashed
from gateway.tokens import scrub

MEMBERS = frozenset(
    {
        "description", "scopes", "expires_in", "expires_at", "not_before", "allowed_networks", "accounts",
        "personal_records_per_day", "outlives_maker",
    }
)  # fmt: skip
RECORDS = "personal_records_per_day"
OVERLAPS_S = (0, 3600, 86_400, 604_800)
OTHERS_NAMES = ("owner", "user", "user_id", "email", "on_behalf_of", "account")
# All that could be meant by one of them, without what spelling can vary (`target.squashed`).
OTHERS = frozenset(
    {
        "owner", "ownerid", "user", "userid", "username", "useremail", "foruser", "email", "emailaddress",
        "onbehalfof", "behalfof", "account", "accountid", "accountkey", "sub", "subject", "actas", "actingas",
        "actinguser", "runas", "sudo", "impersonate", "impersonateuser",
    }
)  # fmt: skip
EVERYWHERE = ("0.0.0.0/0", "::/0")
SELECTORS = ("ids", "owner", "account", "made_by", "everything")
DAY_S = 86_400
# RFC 3339 section 5.6. Python reads more (week dates, no seconds), which other readers take for something else.
MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A token as asked for, within what its maker may hand on."""

    description: str
    scopes: tuple[str, ...]
    expires_at: int
    networks: tuple[str, ...] | None
    accounts: tuple[str, ...] | None
    outlives_maker: bool
    not_before: int | None = None
    personal_records_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Rotation:
    """A new secret as asked for: when it ends, and for how long the old one works beside it."""

    expires_at: int
    overlap_s: int


def refuse_on_behalf(names: Iterable[str]) -> None:
    """Whoever names an owner is refused before anything else is looked at. Raises: Problem "on-behalf-of".

    `names`: of every member of the body, at any depth, and of every parameter, however they are written.
    """
    named = min(OTHERS.intersection(map(squashed, names)), default=None)
    if named is not None:
        raise on_behalf(f"leave {named!r} out")


def refuse_acting_headers(names: Iterable[str]) -> None:
    """Refuse headers by which other systems let somebody act for another. Raises: Problem "on-behalf-of".

    What proxies say of a connection (X-Forwarded-User, X-Remote-User) asks for nothing, and is not read here.
    """
    plain = {squashed(name).removeprefix("x").removeprefix("gateway") for name in names}
    if OTHERS & plain:
        raise on_behalf("send no header that names somebody")


def on_behalf(detail: str) -> Problem:
    return Problem(
        "on-behalf-of",
        f"The owner of a new token is always its caller: {detail}.",
        source="P5: users make their own tokens",
    )


def read(document: dict[str, Any], maker: Principal, settings: Tokens, now: int) -> TokenRequest:
    """The token a body asks for. A bootstrap maker stands for its owner's sign-in and bounds nothing.

    Raises: Problem "on-behalf-of", "invalid-input" naming the member, "beyond-maker".
    """
    refuse_on_behalf(document)
    refuse_unknown(document, MEMBERS)
    outlives = document.get("outlives_maker", False)
    if not isinstance(outlives, bool):
        raise invalid("outlives_maker", "has to be true or false")
    expires_at = _expiry(document, maker, settings, now, settings.default_days * DAY_S)
    return TokenRequest(
        description=_description(document.get("description")),
        scopes=_scopes(document.get("scopes", list(DEFAULT_SCOPES)), maker),
        expires_at=expires_at,
        not_before=_not_before(document.get("not_before"), expires_at),
        networks=_networks(document.get("allowed_networks"), maker),
        accounts=_accounts(document.get("accounts"), maker),
        personal_records_per_day=_records(document.get("personal_records_per_day"), maker),
        outlives_maker=outlives or maker.bootstrap,
    )


def read_rotation(
    document: dict[str, Any], token: TokenRow, maker: Principal, settings: Tokens, now: int
) -> Rotation:
    """The new secret a body asks for; without a word about its end it lives as long as the one before it did.

    Whoever rotates receives the secret: a token gets none by it that it could not have made. Its own it can.
    Raises: Problem "invalid-input" naming the member, "beyond-maker".
    """
    refuse_unknown(document, frozenset({"overlap", "expires_in", "expires_at"}))
    overlap = document.get("overlap", 0)
    if type(overlap) is not int or overlap not in OVERLAPS_S:
        raise invalid("overlap", f"has to be one of {', '.join(map(str, OVERLAPS_S))} seconds")
    if token.bootstrap:  # it stands for a sign-in and bounds nothing, so its hour must not begin again
        raise beyond(
            "overlap", "is for no bootstrap token: it ends with its hour, and makes others until then"
        )
    if not maker.bootstrap and token.id != maker.token_id:
        _refuse_beyond(token, maker)
    return Rotation(
        _expiry(document, maker, settings, now, token.expires_at - token.issued_at), overlap_s=overlap
    )


def _refuse_beyond(token: TokenRow, maker: Principal) -> None:
    if "tokens:manage" in token.scopes or not maker.scopes.issuperset(token.scopes):
        raise beyond("scopes", "of the token are more than the token that asks may hand on")
    if maker.accounts is not None and (
        token.accounts is None or not maker.accounts.issuperset(token.accounts)
    ):
        raise beyond("accounts", "of the token are more than the token that asks reaches")
    if maker.networks is not None:
        allowed = map(ip_network, EVERYWHERE if token.networks is None else token.networks)
        if not all(any(_inside(network, outer) for outer in maker.networks) for network in allowed):
            raise beyond("allowed_networks", "of the token are more than those of the token that asks")
    most, own = maker.personal_records_per_day, token.personal_records_per_day
    if most is not None and (own is None or own > most):
        raise beyond(RECORDS, "of the token are more than those of the token that asks")


def read_selection(document: dict[str, Any], administrator: Principal) -> Which:
    """Which tokens of their network an administrator acts on: exactly one of `ids`, `owner`, `account`, `made_by` and
    `everything`. But for `ids`, the token that asks is spared. Raises: Problem "invalid-input" naming the member.
    """
    named = [name for name in SELECTORS if name in document]
    if len(named) != 1:
        raise Problem("invalid-input", f"Say which tokens by exactly one of {', '.join(SELECTORS)}.")
    (name,) = named
    value = document[name]
    whose = Which(administrator.owner.account.id, spare=administrator.token_id)
    if name == "ids":
        ids = _strings(name, value, MAX_AT_ONCE)
        if not ids:
            raise invalid(name, "must not be empty")
        return replace(whose, ids=tuple(ids))
    if name == "everything":
        if value is not True:
            raise invalid(name, "has to be true")
        return whose
    if not isinstance(value, str) or not value:
        raise invalid(name, "has to be a text")
    if name == "account":
        return replace(whose, account=_account(name, value))
    return replace(whose, owner_id=value) if name == "owner" else replace(whose, made_by=value)


def _account(member: str, key: str) -> tuple[str, str]:
    kind, _, number = key.partition(":")
    if kind not in ACCOUNT_KINDS or not number:
        raise invalid(member, 'holds something that is not an account such as "advertiser:706"')
    return kind, number


def refuse_unknown(names: Iterable[str], known: frozenset[str]) -> None:
    """Refuse a member or parameter nobody knows. It is named when it is a word that may be a misspelt one.

    What is longer could be a piece of a secret, and an answer is no place for one.
    """
    unknown = min(set(names) - known, default=None)
    if unknown is None:
        return
    if unknown.isascii() and unknown.isidentifier() and len(unknown) < 20:
        raise invalid(unknown, f"is not known here (known are {', '.join(sorted(known))})")
    raise Problem("invalid-input", f"Only these are known here: {', '.join(sorted(known))}.")


def invalid(member: str, text: str) -> Problem:
    return Problem("invalid-input", f"{member} {text}.", member=member)


def beyond(member: str, text: str) -> Problem:
    return Problem("beyond-maker", f"{member} {text}.", member=member)


def _description(value: object) -> str:
    if not isinstance(value, str):
        raise invalid("description", "is required: name the app and what it uses the token for")
    text = unicodedata.normalize("NFC", value.strip())
    if not MIN_DESCRIPTION_CHARS <= len(text) <= MAX_DESCRIPTION_CHARS:
        raise invalid(
            "description", f"has to have {MIN_DESCRIPTION_CHARS} to {MAX_DESCRIPTION_CHARS} characters"
        )
    if not text.isprintable():
        raise invalid("description", "holds a character that cannot be shown")
    if scrub(text) != text:  # also one that lacks its last characters: it would be shown to administrators
        raise invalid("description", "holds a token, or a piece of one: delete that token")
    return text


def _scopes(value: object, maker: Principal) -> tuple[str, ...]:
    names = _strings("scopes", value)
    if not names:
        raise invalid("scopes", "must not be empty")
    for name in names:
        if name not in SCOPES:
            raise invalid("scopes", f"holds an unknown scope (known are {', '.join(SCOPES)})")
        if maker.bootstrap:
            continue
        if name == "tokens:manage":
            raise beyond("scopes", "of a token made by a token never hold tokens:manage")
        if name not in maker.scopes:
            raise beyond("scopes", f"hold {name}, which the token that makes this one lacks")
    return tuple(scope for scope in SCOPES if scope in names)


def _expiry(document: dict[str, Any], maker: Principal, settings: Tokens, now: int, default_s: int) -> int:
    asked = _asked_expiry(document, now)
    bound = None if maker.bootstrap else maker.expires_at
    longest = settings.longest_days(maker.owner.account.kind)
    if asked is None:
        default = now + min(default_s, longest * DAY_S)
        return default if bound is None else min(default, bound)
    member = "expires_in" if "expires_in" in document else "expires_at"
    if asked <= now:
        raise invalid(member, "lies in the past")
    if asked > now + longest * DAY_S:
        raise invalid(member, f"is beyond the {longest} days that are allowed")
    if bound is not None and asked > bound:
        raise beyond(member, "is beyond the expiry of the token that makes this one")
    return asked


def _asked_expiry(document: dict[str, Any], now: int) -> int | None:
    seconds, moment = document.get("expires_in"), document.get("expires_at")
    if seconds is not None and moment is not None:
        raise invalid("expires_in", "and expires_at exclude each other")
    if seconds is not None:
        if type(seconds) is not int or not 1 <= seconds <= 10_000_000_000:
            raise invalid("expires_in", "has to be a whole number of seconds, at least 1")
        return now + seconds
    return None if moment is None else _moment("expires_at", moment)


def _not_before(value: object, expires_at: int) -> int | None:
    if value is None:
        return None
    moment = _moment("not_before", value)
    if not 0 <= moment < expires_at:
        raise invalid("not_before", "has to come before the token expires")
    return moment


def _moment(member: str, moment: Any) -> int:
    try:
        if MOMENT.fullmatch(moment) is None:
            raise ValueError
        return int(datetime.fromisoformat(moment.upper()).astimezone(UTC).timestamp())
    except (TypeError, ValueError, OverflowError):
        raise invalid(member, "has to be a date and time of RFC 3339 with its offset") from None


def _networks(value: object, maker: Principal) -> tuple[str, ...] | None:
    if value is None:
        return None if maker.networks is None else tuple(map(str, maker.networks))
    wanted = [_network(text) for text in _strings("allowed_networks", value)]
    if not wanted:
        raise invalid("allowed_networks", "must not be empty: leave it out for no limit")
    for network in wanted:
        if maker.networks is not None and not any(_inside(network, outer) for outer in maker.networks):
            raise beyond("allowed_networks", f"hold {network}, from where the making token may not be used")
    return tuple(map(str, wanted))


def _network(text: str) -> Network:
    try:
        return allowed_network(text)
    except ValueError:
        raise invalid(
            "allowed_networks", "holds something that is not a network such as 203.0.113.0/24"
        ) from None


def _inside(inner: Network, outer: Network) -> bool:
    if inner.version != outer.version:
        return False
    return inner.subnet_of(outer)  # type: ignore[arg-type]  # the versions were compared


def _accounts(value: object, maker: Principal) -> tuple[str, ...] | None:
    if value is None:
        return None if maker.accounts is None else tuple(sorted(maker.accounts))
    wanted = _strings("accounts", value)
    if not wanted:
        raise invalid("accounts", "must not be empty: leave it out for all that you may reach")
    for key in wanted:
        _account("accounts", key)
        if maker.accounts is not None and key not in maker.accounts:
            raise beyond("accounts", f"hold {key}, which the token that makes this one does not reach")
    return tuple(sorted(set(wanted)))


def _records(value: object, maker: Principal) -> int | None:
    most = maker.personal_records_per_day
    if value is None:
        return most
    if type(value) is not int or not 1 <= value <= MAX_RECORDS:
        raise invalid(RECORDS, f"has to be a whole number from 1 to {MAX_RECORDS}")
    if most is not None and value > most:
        raise beyond(RECORDS, f"are more than the {most} of the token that makes this one")
    return value


def _strings(member: str, value: object, most: int = 100) -> list[str]:
    if not isinstance(value, list) or len(value) > most or not all(isinstance(item, str) for item in value):
        raise invalid(member, f"has to be a list of at most {most} strings")
    return list(_each(member, value))


def _each(member: str, value: list[str]) -> Iterator[str]:
    seen: set[str] = set()
    for item in value:
        if item in seen:
            raise invalid(member, "holds the same value twice")
        seen.add(item)
        yield item
