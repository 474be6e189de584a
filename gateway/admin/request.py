"""What a body that asks for a token says, checked against who asks. Pure: no store, no clock of its own.

Every fault is named with its member. Members nobody knows are refused: a misspelt restriction that was silently
ignored would make a wider token than was meant.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

from gateway.config import Tokens
from gateway.model import ACCOUNT_KINDS, DEFAULT_SCOPES, SCOPES, Network, Principal
from gateway.problem import Problem
from gateway.store import MAX_DESCRIPTION_CHARS, MIN_DESCRIPTION_CHARS
from gateway.tokens import scrub

MEMBERS = frozenset(
    {"description", "scopes", "expires_in", "expires_at", "allowed_networks", "accounts", "outlives_maker"}
)
OTHERS_NAMES = ("owner", "user", "user_id", "email", "on_behalf_of", "account")
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


def refuse_on_behalf(document: dict[str, Any]) -> None:
    """Whoever names an owner is refused before anything else is looked at. Raises: Problem "on-behalf-of"."""
    named = next((name for name in OTHERS_NAMES if name in document), None)
    if named is not None:
        raise Problem(
            "on-behalf-of",
            f"The owner of a new token is always its caller; leave {named!r} out.",
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
    return TokenRequest(
        description=_description(document.get("description")),
        scopes=_scopes(document.get("scopes", list(DEFAULT_SCOPES)), maker),
        expires_at=_expiry(document, maker, settings, now),
        networks=_networks(document.get("allowed_networks"), maker),
        accounts=_accounts(document.get("accounts"), maker),
        outlives_maker=outlives or maker.bootstrap,
    )


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


def _expiry(document: dict[str, Any], maker: Principal, settings: Tokens, now: int) -> int:
    asked = _asked_expiry(document, now)
    bound = None if maker.bootstrap else maker.expires_at
    if asked is None:
        default = now + settings.default_days * DAY_S
        return default if bound is None else min(default, bound)
    member = "expires_in" if "expires_in" in document else "expires_at"
    if asked <= now:
        raise invalid(member, "lies in the past")
    if asked > now + settings.max_days * DAY_S:
        raise invalid(member, f"is beyond the {settings.max_days} days that are allowed")
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
    if moment is None:
        return None
    try:
        if MOMENT.fullmatch(moment) is None:
            raise ValueError
        return int(datetime.fromisoformat(moment.upper()).astimezone(UTC).timestamp())
    except (TypeError, ValueError, OverflowError):
        raise invalid("expires_at", "has to be a date and time of RFC 3339 with its offset") from None


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
        return ip_network(text)
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
        kind, _, number = key.partition(":")
        if kind not in ACCOUNT_KINDS or not number:
            raise invalid("accounts", 'holds something that is not an account such as "advertiser:706"')
        if maker.accounts is not None and key not in maker.accounts:
            raise beyond("accounts", f"hold {key}, which the token that makes this one does not reach")
    return tuple(sorted(set(wanted)))


def _strings(member: str, value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > 100 or not all(isinstance(item, str) for item in value):
        raise invalid(member, "has to be a list of at most 100 strings")
    return list(_each(member, value))


def _each(member: str, value: list[str]) -> Iterator[str]:
    seen: set[str] = set()
    for item in value:
        if item in seen:
            raise invalid(member, "holds the same value twice")
        seen.add(item)
        yield item
