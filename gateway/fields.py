"""Which fields of a Network Integration reply never pass, or not to everybody; and a look for them in plain bytes.

secret   credentials of the vendor's: `api_key` of a RingPool, `oauth_refresh_token` of users, advertisers and
         affiliates, the `token` of a login. To nobody, whatever the policies say.
pii      what tells who a user of the platform is: names, e-mail addresses, phone numbers. Where policy reveals pii.
link     addresses at the vendor's hosts, and of recordings and prompts wherever these lie: whoever holds one goes
         past the gateway. One into the vendor's `/api/` is rewritten to the gateway, any other withheld.

Names are compared in lower case; their words may be joined by any `_` and `-`, or by nothing. A name is secret when
it holds a secret's name: there is no documented one that does and is not.

`Look` finds in plain bytes whether there is anything to do at all, without parsing: it may be wrong in one
direction only. A body in which it finds nothing is passed as it is, well-formed or not: nothing of it would be withheld
from whoever reads it as JSON in UTF-8. Python has no way to look for forty words at once in less than ten times what
copying costs, and this is done to every reply; hence ahocorasick_rs, which reads some bytes at a time.

Sources: vendor pages Networks, Advertisers, Affiliates, RingPools, Advertiser Users, Tag Revisions; traps 2, 3 and 17
of the notes on the vendor's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from gateway import target
from gateway.problem import Problem

FieldClass = Literal["secret", "pii", "link"]

VENDOR_HOSTS = ("invoca.net", "ringrevenue.com")
"""And every host under them. The configured upstream is one too."""
LONGEST_START = 1_024
"""Characters from the beginning of a text within which an address has named its host."""
WINDOW = 65_536
"""Bytes looked at together: more would have to be fetched from memory twice."""

JOINED = "[_-]*"
_SECRET = re.compile(f"api{JOINED}key|token|password|secret", re.ASCII | re.IGNORECASE).search
_PERSONAL = re.compile(
    f"email|first{JOINED}name|last{JOINED}name|contact{JOINED}phone|^{JOINED}author{JOINED}$",
    re.ASCII | re.IGNORECASE,
).search
_OF_A_USER = re.compile(
    f"phone|^{JOINED}(?:(?:user|full){JOINED})?name{JOINED}$", re.ASCII | re.IGNORECASE
).search
_USERS = re.compile(f"{JOINED}users?{JOINED}", re.ASCII | re.IGNORECASE).fullmatch
_LINK = re.compile(
    f"{JOINED}(?:object{JOINED}url|prompt{JOINED}url|recording(?:{JOINED}download)?(?:{JOINED}url)?){JOINED}",
    re.ASCII | re.IGNORECASE,
).fullmatch
_ADDRESS = re.compile(r"[\0- ]{0,64}(?:[a-z][a-z0-9+.-]{0,15}:)?[/\\]{2}", re.ASCII | re.IGNORECASE).match


def spellings(first: str, second: str) -> list[str]:
    """Of two joined words: texts of which every spelling holds one. None is short: short ones are slow to look for."""
    joined = [first + mark + second for mark in ("", "_", "-")]
    return joined + [first + one + other for one in "_-" for other in "_-"]


WORDS = ["token", "password", "secret", *spellings("api", "key")]
LINKS = ["recording", *spellings("object", "url"), *spellings("prompt", "url")]
PERSONAL = ["email", "author", "user"] + [
    spelling
    for words in (("first", "name"), ("last", "name"), ("contact", "phone"))
    for spelling in spellings(*words)
]
OF_USERS = ["name", "phone"]
# How JSON can hide a letter, a digit, or one of `-._`; not the others, that Rails writes so in every second text (`&`).
ESCAPES = ["\\u002d", "\\u002e", *(f"\\u00{digit}" for digit in "34567")]


def field_class(name: str) -> FieldClass | None:
    """The class of the member of this name, wherever it stands."""
    if _SECRET(name):
        return "secret"
    if _PERSONAL(name):
        return "pii"
    return "link" if _LINK(name) else None


def of_a_user(name: str) -> bool:
    """Whether a member of this name within a user tells who that is, though elsewhere it would not."""
    return _OF_A_USER(name) is not None


def holds_users(name: str) -> bool:
    """Whether the member of this name is a user, or a list of them."""
    return _USERS(name) is not None


def is_address(text: str) -> bool:
    """Whether a text is one whole address: it begins as one that names its host."""
    return _ADDRESS(text) is not None


class Hosts:
    """The vendor's hosts, and where their addresses lead instead."""

    def __init__(self, upstream: str, public: str) -> None:
        """`upstream` and `public` are the URLs of the configuration."""
        self.public = public.rstrip("/")
        host = (urlsplit(upstream).hostname or "").lower()
        self.names = (*VENDOR_HOSTS, host) if host else VENDOR_HOSTS
        self._ours = urlsplit(public).netloc.lower()
        under = "|".join(map(re.escape, VENDOR_HOSTS))
        self._at = re.compile(
            r"[\0- ]{0,64}(?:[a-z][a-z0-9+.-]{0,15}:)?[/\\]{2}(?:[^/\\?#@]{0,200}@)?"
            rf"((?:(?:[a-z0-9_-]{{1,63}}\.){{0,8}}(?:{under})|{re.escape(host)})\.?(?::[0-9]*)?)([/\\?#].*|[\0- ]*)",
            re.ASCII | re.IGNORECASE | re.DOTALL,
        ).fullmatch

    def led(self, text: str) -> str | None:
        """A text as it may pass: as it is, or its address rewritten to the gateway; None for what may not pass.

        Only a text that is an address, whole: what a prompt or the script of a tag says is not for us to change.
        """
        found = self._at(text)
        if found is None or found[1].lower() == self._ours:
            return text
        return self.at_gateway(found[2].strip())

    def at_gateway(self, path: str) -> str | None:
        """The gateway's address for a path and query under the vendor's `/api/`; None for any other, and for one
        that the gateway would refuse to read."""
        if not path.startswith("/api/"):
            return None
        try:
            return self.public + target.judge(path, "").raw
        except Problem:
            return None


class Look:
    """Whether plain bytes can hold anything that is withheld or rewritten. Sure only where it says no."""

    def __init__(self, hosts: Iterable[str], personal: bool, users: bool = False) -> None:
        """`personal`: whether pii is withheld too. `users`: whether everything in the reply is about users."""
        words = [*WORDS, *LINKS, *ESCAPES, *hosts]
        words += (*PERSONAL, *(OF_USERS if users else ())) if personal else ()
        unique = dict.fromkeys(word.lower() for word in words)
        self.longest = max(map(len, unique))
        self._beginnings = frozenset(word[:size].encode() for word in unique for size in range(1, len(word)))
        self._find = BytesAhoCorasick(
            [word.encode() for word in unique], matchkind=MatchKind.LeftmostFirst
        ).find_matches_as_indexes

    def clean(self, data: bytes) -> bool:
        """Whether nothing is found, and nothing unreadable."""
        if len(data) <= WINDOW:  # most answers; each call saved is a tenth of what this costs
            return not self._find(data.lower()) and not self.unreadable(data)
        return self.first(data) < 0 and not self.unreadable(data)

    def first(self, data: bytes) -> int:
        """Where the first of it begins, or -1."""
        if len(data) <= WINDOW:
            found = self._find(data.lower())
            return found[0][1] if found else -1
        for at in range(0, len(data), WINDOW):
            found = self._find(data[at : at + WINDOW + self.longest].lower())
            if found:
                return at + found[0][1]
        return -1

    def all(self, data: bytes) -> list[tuple[int, int, int]]:
        """All of it, as (which, from, to), in order."""
        return self._find(data.lower())

    def begun(self, data: bytes) -> int:
        """How many bytes at the end may be the beginning of what is looked for."""
        end = data[-self.longest + 1 :].lower()
        return next((size for size in range(len(end), 0, -1) if end[-size:] in self._beginnings), 0)

    @staticmethod
    def unreadable(data: bytes) -> bool:
        """Whether there are bytes that UTF-8 text of JSON never has, and by which another reading could hide a
        name: NUL, as of UTF-16, and the beginnings of overlong forms."""
        return b"\0" in data or (not data.isascii() and (b"\xc0" in data or b"\xc1" in data))
