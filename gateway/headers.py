"""Which headers travel, in which direction; and what makes a request head one that can be read in one way only.

Both directions are allow lists. Upstream, the gateway is the client: almost every header it sends is its own,
and the credential is set last, so that nothing a client writes can remove or replace it.

Sources: RFC 9110 sections 7.6.1 (Connection) and 7.6.3 (Via), RFC 9112 sections 3.2, 6.1 and 6.3, RFC 6750
section 2.1, section 5 of the design.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from gateway.model import Network
from gateway.problem import Problem
from gateway.tokens import PREFIX, REFUSED

Pairs = Sequence[tuple[bytes, bytes]]

NAME = re.compile(rb"[A-Za-z0-9-]+")
HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
LENGTH = re.compile(rb"[0-9]{1,15}")
BEARER = re.compile(r"bearer {1,2}([^ ]+)", re.ASCII | re.IGNORECASE)
CLEAN = re.compile(rb"[\x20-\x7e]*")
PLAIN = re.compile(rb"[\x20-\x7e]{1,256}")
JSON_TYPE = re.compile(r'application/json(?:; ?charset="?utf-8"?)?', re.ASCII | re.IGNORECASE)

ALLOWED_METHODS = ("DELETE", "GET", "POST", "PUT")
KNOWN_METHODS = frozenset({*ALLOWED_METHODS, "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT"})
# A header that occurs twice can be read as the first or the last: for these, that is a difference in meaning.
SINGLE = frozenset(
    {b"authorization", b"host", b"content-length", b"content-type", b"content-encoding", b"transfer-encoding",
     b"expect", b"confirm-removals"}
)  # fmt: skip
NOT_TO_NOMINATE = frozenset({"authorization", "host", "content-length", "content-type"})
OVERRIDES = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
TO_UPSTREAM = frozenset({b"accept-language", b"user-agent"})
TO_CLIENT = {
    b"content-type": b"Content-Type",
    b"content-language": b"Content-Language",
    b"content-disposition": b"Content-Disposition",
}
CONTENT_TYPE = b"content-type"
# What `judge` looks at besides the SINGLE ones.
READ = frozenset({b"connection", b"upgrade", b"x-forwarded-for", b"cookie", b"referer"})
CONNECTION = b"connection"
PREFIX_BYTES = PREFIX.encode()
ACCEPT = {"json": b"application/json", "csv": b"text/csv", "xml": b"application/xml"}
VIA = "1.1 invoca-gateway"


class Head(NamedTuple):
    """What the gateway itself reads of a request head. `length` is None for a chunked body, 0 for none.

    `carried` is what came as Cookie and Referer, where a token may be in it: it is looked for one, and never used.
    `confirms` is `Confirm-Removals`, as it was sent (`replacing.py`).
    """

    host: str
    authorization: str | None
    content_type: str
    length: int | None
    expects_continue: bool
    forwarded_for: tuple[str, ...]
    carried: str = ""
    confirms: str | None = None


# What clients send again and again is judged once. Bounded: one that varies it costs time, not memory.
_names: dict[bytes, bytes] = {}
_hosts: dict[bytes, str] = {}
_KNOWN = 512


def judge(method: str, version: tuple[int, int], raw: Pairs) -> Head:
    """A request head as received, or a Problem for one that could be read in two ways or asks for too much."""
    if version not in ((1, 1), (1, 0)):
        raise Problem("version-not-supported", "HTTP/1.1 is spoken here.")
    if method not in KNOWN_METHODS:
        raise Problem("not-implemented", "The request method is not one this gateway knows.")
    found: dict[bytes, bytes] = {}
    for name, value in raw:
        read = _names.get(name)
        if read is None:
            read = _read_name(name)
        if read:
            if read in found:
                value = _repeated(read, found[read], value)
            found[read] = value
    if method in ("CONNECT", "TRACE"):
        raise Problem("method-not-allowed", headers=(("Allow", ", ".join(ALLOWED_METHODS)),))
    host = _host(version, found.pop(b"host", None))
    authorization = found.pop(b"authorization", None)
    read_out = None if authorization is None else authorization.decode("latin-1")
    if not found:
        return Head(host, read_out, "", 0, False, ())
    return _rest(version, host, read_out, {name: value.decode("latin-1") for name, value in found.items()})


def _read_name(name: bytes) -> bytes:
    """A header name in lower case when something here reads it, else nothing."""
    if NAME.fullmatch(name) is None:
        raise Problem("bad-header", "A header name holds something other than letters, digits and hyphens.")
    low = name.lower()
    if low in OVERRIDES:
        raise Problem("forbidden-parameter", "A header that overrides the method is refused.")
    read = low if low in SINGLE or low in READ else b""
    if len(_names) < _KNOWN and len(name) < 64:
        _names[name] = read
    return read


def _repeated(name: bytes, first: bytes, second: bytes) -> bytes:
    if name in SINGLE:
        kind = "two-credentials" if name == b"authorization" else "bad-header"
        raise Problem(kind, f"The header {name.decode()} is repeated.")
    return first + b"," + second


def _rest(version: tuple[int, int], host: str, authorization: str | None, found: dict[bytes, str]) -> Head:
    """A head with more in it than host and credential."""
    if b"upgrade" in found:
        raise Problem("not-implemented", "No protocol upgrade is offered.")
    if "_" in found.get(b"connection", "") or NOT_TO_NOMINATE & nominated(found.get(b"connection", "")):
        raise Problem("bad-header", "Connection names a header that is not hop-by-hop.")
    forwarded_for = found.get(b"x-forwarded-for")
    return Head(
        host=host,
        authorization=authorization,
        content_type=_content_type(found),
        length=_length(version, found),
        expects_continue=_expectation(version, found.get(b"expect")),
        forwarded_for=() if forwarded_for is None else tuple(forwarded_for.split(",")),
        carried=_carried(found),
        confirms=found.get(b"confirm-removals"),
    )


def _carried(found: dict[bytes, str]) -> str:
    text = "\n".join(found[name] for name in (b"cookie", b"referer") if name in found)
    return text if PREFIX in text or "%" in text else ""


def _host(version: tuple[int, int], host: bytes | None) -> str:
    if host is None:
        if version == (1, 0):
            return ""
        raise Problem("bad-header", "The Host header is missing.")
    known = _hosts.get(host)
    if known is None:
        known = host.decode("latin-1")
        if HOST.fullmatch(known) is None:
            raise Problem("bad-header", "The Host header is not a host.")
        if len(_hosts) < _KNOWN:
            _hosts[host] = known
    return known


def _content_type(found: dict[bytes, str]) -> str:
    if found.get(b"content-encoding", "identity").lower() != "identity":
        raise Problem("unsupported-media-type", "A content coding is not accepted.")
    return found.get(b"content-type", "")


def _length(version: tuple[int, int], found: dict[bytes, str]) -> int | None:
    coding, length = found.get(b"transfer-encoding"), found.get(b"content-length")
    if coding is not None:
        # RFC 9112 6.1: in HTTP/1.0, or beside Content-Length, an attack rather than a choice.
        if version == (1, 0) or length is not None:
            raise Problem("bad-header", "Transfer-Encoding is not acceptable here.")
        if coding.lower() != "chunked":
            raise Problem("not-implemented", "The transfer coding is not chunked.")
        return None
    if length is None:
        return 0
    if LENGTH.fullmatch(length.encode("latin-1")) is None:
        raise Problem("bad-header", "Content-Length is not a number.")
    return int(length)


def _expectation(version: tuple[int, int], expect: str | None) -> bool:
    if expect is None or version == (1, 0):
        return False
    if expect.lower() != "100-continue":
        raise Problem("expectation-failed", "Only 100-continue can be expected.")
    return True


def bearer(authorization: str | None) -> str:
    """The token of an `Authorization: Bearer` header.

    Raises: Problem "no-credential" when there is none, or one of another scheme (RFC 6750 section 3.1).
    """
    if authorization is None:
        raise Problem("no-credential", "Send your token as 'Authorization: Bearer <token>'.")
    found = BEARER.fullmatch(authorization)
    if found is None:
        if authorization.lower().startswith("bearer"):
            raise Problem("invalid-token", REFUSED)
        raise Problem("no-credential", "Only 'Authorization: Bearer <token>' is accepted.")
    return found[1]


def nominated(connection: str) -> set[str]:
    """The header names a Connection header declares hop-by-hop, in lower case (RFC 9110 section 7.6.1)."""
    return {name.strip(" \t").lower() for name in connection.split(",")} - {"", "close", "keep-alive"}


_travels: dict[bytes, bytes] = {}


def to_upstream(raw: Pairs, *, credential: str, form: str, has_body: bool) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of the upstream request, but for Host and framing. `form`: json, csv or xml.

    A header nominated by Connection, or holding anything but printable ASCII or one of our tokens, stays here.
    The vendor takes the bare token, without a scheme ("Manage API Credentials").
    """
    kept: list[tuple[bytes, bytes]] = []
    dropped: set[bytes] = set()
    for name, value in raw:
        travels = _travels.get(name)
        if travels is None:
            travels = _travel(name)
        if not travels:
            continue
        if travels is CONNECTION:
            dropped.update(each.encode() for each in nominated(value.decode("latin-1")))
        elif PLAIN.fullmatch(value) and PREFIX_BYTES not in value:
            kept.append((travels, value))
    if dropped:
        kept = [pair for pair in kept if pair[0] not in dropped]
    return (*kept, *_ours(credential, form, has_body))


def _travel(name: bytes) -> bytes:
    """A header name as it travels upstream, nothing when it does not, or CONNECTION, which names some that do not."""
    low = name.lower()
    travels = CONNECTION if low == CONNECTION else low if low in TO_UPSTREAM else b""
    if len(_travels) < _KNOWN and len(name) < 64:
        _travels[name] = travels
    return travels


@lru_cache(maxsize=1024)
def _ours(credential: str, form: str, has_body: bool) -> tuple[tuple[bytes, bytes], ...]:
    """The gateway's own headers; the credential last, so that nothing a client writes follows it."""
    made = [(b"accept", ACCEPT[form]), (b"accept-encoding", b"identity"), (b"via", VIA.encode())]
    if has_body:
        made.append((b"content-type", b"application/json"))
    return (*made, (b"authorization", credential.encode("ascii")))


def to_client(reply: Iterable[tuple[bytes, bytes]], status: int = 200) -> list[tuple[bytes, bytes]]:
    """The headers of a reply that may travel on; names arrive in lower case.

    A value that is not printable ASCII stays here. Content without a type gets the one that nothing guesses from.
    """
    kept, typed = [], status == 204
    for name, value in reply:
        if name in TO_CLIENT and CLEAN.fullmatch(value):
            kept.append((TO_CLIENT[name], value))
            typed = typed or name == CONTENT_TYPE
    if not typed:
        kept.append((b"Content-Type", b"application/octet-stream"))
    return kept


def is_json(content_type: str) -> bool:
    """Whether a request's Content-Type is application/json in UTF-8, said or unsaid."""
    return JSON_TYPE.fullmatch(content_type) is not None


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """Who the client is: the peer, or behind trusted proxies the first hop from the right that is not one.

    Raises: Problem "bad-header" when a trusted proxy sends something that is not an address.
    """
    hops = [hop.strip(" \t") for line in forwarded_for for hop in line.split(",")]
    client = peer
    while hops and within(client, trusted):
        client = hops.pop()
        try:
            client = str(ip_address(client))
        except ValueError:
            raise Problem("bad-header", "X-Forwarded-For holds something that is not an address.") from None
    return client


def within(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address lies in one of the networks; an IPv4-mapped IPv6 address counts as the IPv4 one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in networks)
