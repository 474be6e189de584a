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
from whoever reads it as JSON in UTF-8. Python has no way to look for forty words at once, in any case, in less than ten
times what copying costs, and this is done to every reply; hence ahocorasick_rs, which reads some bytes at a time, and
stringzilla, which makes them small as fast as they are copied (`bytes.lower` took thrice as long as all the rest).

Sources: vendor pages Networks, Advertisers, Affiliates, RingPools, Advertiser Users, Tag Revisions; traps 2, 3 and 17
of the notes on the vendor's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from ahocorasick_rs import BytesAhoCorasick, MatchKind
from stringzilla import translate

from gateway import target
from gateway.filter import Unfilterable
from gateway.problem import Problem

FieldClass = Literal["secret", "pii", "link"]

VENDOR_HOSTS = ("invoca.net", "ringrevenue.com")
"""And every host under them. The configured upstream is one too."""
LONGEST_START = 1_024
"""Characters from the beginning of a text within which an address has named its host."""
WINDOW = 131_072
"""Bytes looked at together: their second copy stays in the processor's cache beside the first."""
NEVER, ELSE = 0, 1
"""What bytes are looked at as: those that UTF-8 text of JSON never has, and by which another reading could hide a name
(NUL, as of UTF-16, and the beginnings of overlong forms); and those that are in no word."""

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
    return [first + second, first + "_" + second, first + "__"]


WORDS = ["token", "password", "secret", *spellings("api", "key")]
LINKS = ["recording", *spellings("object", "url"), *spellings("prompt", "url")]
PERSONAL = [
    "email", "author", "user", *spellings("first", "name"), *spellings("last", "name"),
    *spellings("contact", "phone"),
]  # fmt: skip
OF_USERS = ["name", "phone"]
# How JSON can hide a letter, a digit, or one of `-._`; not the others, that Rails writes so in every second text (`&`).
ESCAPES = ["\\u002d", "\\u002e", "\\u003"]
ALIKE = {b"-": b"_", **dict.fromkeys((b"4", b"5", b"6", b"7"), b"3")}
"""Bytes that are looked at as others, so that there are fewer words: up to 32 are found in half the time."""


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
        table = [bytes((byte,)).lower() for byte in range(256)]
        table = [ALIKE.get(byte, byte) for byte in table]
        folded = dict.fromkeys(b"".join(table[byte] for byte in word.encode()) for word in words)
        # One that holds another is found with it.
        sought = [word for word in folded if not any(other in word for other in folded if other != word)]
        letters = frozenset(b"".join(sought))
        self._table = bytes(
            NEVER if at in b"\0\xc0\xc1" else byte[0] if byte[0] in letters else ELSE
            for at, byte in enumerate(table)
        )
        self.longest = max(map(len, sought))
        self._beginnings = frozenset(word[:size] for word in sought for size in range(1, len(word)))
        self._find = BytesAhoCorasick(sought, matchkind=MatchKind.LeftmostFirst).find_matches_as_indexes

    def clean(self, data: bytes) -> bool:
        """Whether nothing is found, and nothing unreadable."""
        if len(data) <= WINDOW:  # most answers; each call saved is a tenth of what this costs
            folded = translate(data, self._table)
            return not self._find(folded) and NEVER not in folded
        try:
            return self.first(data) < 0
        except Unfilterable:
            return False

    def first(self, data: bytes) -> int:
        """Where the first of it begins, or -1. Raises: Unfilterable for what no JSON in UTF-8 has, up to there."""
        whole = memoryview(data)
        for at in range(0, len(data), WINDOW):
            folded = translate(whole[at : at + WINDOW + self.longest], self._table)
            if NEVER in folded:
                raise Unfilterable("the body is not JSON in UTF-8")
            found = self._find(folded)
            if found:
                return at + found[0][1]
        return -1

    def all(self, data: bytes) -> list[tuple[int, int, int]]:
        """All of it, as (which, from, to), in order."""
        return self._find(translate(data, self._table))

    def begun(self, data: bytes) -> int:
        """How many bytes at the end may be the beginning of what is looked for."""
        end = translate(data[-self.longest + 1 :], self._table)
        return next((size for size in range(len(end), 0, -1) if end[-size:] in self._beginnings), 0)
