"""What callers give the store, judged before it meets a database: the same for every backend.

Raises Problem "invalid-input", in words for the person who wrote it.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import ip_network

from gateway.model import ACCOUNT_KINDS, ROLES, Account, Network
from gateway.problem import Problem
from gateway.store.rows import MAX_DESCRIPTION_CHARS, MAX_PAGE, MIN_DESCRIPTION_CHARS, folded
from gateway.tokens import MAX_TIME

MAPPED_BITS = 96  # RFC 4291 section 2.5.5.2


def page_limit(limit: int) -> int:
    return max(1, min(limit, MAX_PAGE))


def bindable(text: str) -> str:
    """The text, or one that no row has when SQLite could not take it (a lone surrogate out of JSON)."""
    return text if text.isascii() or not _unclean(text) else ""


def _unclean(text: str) -> bool:
    """Whether there are control characters, line ends or lone surrogates."""
    return any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def check_prose(text: str, name: str, least: int, most: int) -> None:
    if not least <= len(text) <= most or _unclean(text):
        raise Problem("invalid-input", f"The {name} has {least} to {most} characters, in one line")


def clean_description(text: str) -> str:
    text = unicodedata.normalize("NFC", text.strip())
    check_prose(text, "description", MIN_DESCRIPTION_CHARS, MAX_DESCRIPTION_CHARS)
    return text


def clean_email(text: str) -> str:
    address = folded(text)
    if len(address) > 254 or _unclean(address) or not re.fullmatch(r"[^\s@]+@[^\s@]+", address):
        raise Problem("invalid-input", "That is not an e-mail address")
    return address


def check_account(account: Account) -> None:
    for text in (account.id, account.network):
        if not 1 <= len(text) <= 128 or text != text.strip() or _unclean(text):
            raise Problem("invalid-input", "An account id has 1 to 128 characters, in one line")
    if account.kind not in ACCOUNT_KINDS:
        raise Problem("invalid-input", f"An account is one of {', '.join(ACCOUNT_KINDS)}")
    if account.kind == "network" and account.network != account.id:
        raise Problem("invalid-input", "A network belongs to itself")


def check_role(role: str) -> None:
    if role not in ROLES:
        raise Problem("invalid-input", f"A role is one of {', '.join(ROLES)}")


def account_key(key: str) -> str:
    kind, _, account_id = key.partition(":")
    if kind not in ACCOUNT_KINDS or not account_id or len(key) > 160 or _unclean(key):
        raise Problem("invalid-input", "An account is written as network:33")
    return key


def allowed_network(text: str) -> Network:
    """A network that a token may be used from; IPv4-mapped IPv6 is the IPv4 it stands for, as clients are.

    Raises: ValueError, also for one whose address lies inside of it and for one of a single link.
    """
    network = ip_network(text)
    if "%" in text:
        raise ValueError("an address with a zone is one machine's name for it")
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < MAPPED_BITS:
        return network
    return ip_network(f"{mapped}/{network.prefixlen - MAPPED_BITS}")


def cidr(text: str) -> str:
    try:
        return str(allowed_network(text))
    except ValueError:
        raise Problem("invalid-input", "An allowed network is written as 192.0.2.0/24") from None


def when(moment: int) -> int:
    if not 0 <= moment <= MAX_TIME:
        raise ValueError("a time is UTC seconds")
    return int(moment)
