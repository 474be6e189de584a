"""Upstream credentials at rest: sealed with AES-256-GCM under a key that is not in the database.

A sealed credential is good for the one account it was sealed for: put into another account's row it does not open.
The key is 32 random bytes, in hexadecimal or base64, in an environment variable or in a file that nobody else may
read. A key that could be guessed is refused, because then the database alone would be enough.

Sources: NIST SP 800-38D (GCM, 96 random bits of nonce); RFC 5116 section 2.1 (associated data).
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import secrets
import stat
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.config import Secret, is_credential

KEY_BYTES = 32
NONCE_BYTES = 12
MAX_KEY_FILE = 4_096
MAKE_ONE = "make one with: (umask 077; openssl rand -hex 32 > FILE)"
_PURPOSE = "invoca-gateway upstream credential 1\n"
_HEX = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{43}=?", re.ASCII)


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A key to seal with. Printing one never prints the key."""

    key: bytes = field(repr=False)

    def seal(self, account: str, credential: str) -> bytes:
        """A credential as only this key can read it, and only as this account's."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self.key).encrypt(nonce, credential.encode("ascii"), _bound_to(account))

    def open(self, account: str, sealed: bytes) -> str:
        """The credential that was sealed for an account. Raises: ValueError, whatever is wrong."""
        nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            credential = AESGCM(self.key).decrypt(nonce, text, _bound_to(account)).decode("ascii")
        except (InvalidTag, ValueError):
            raise ValueError("was not sealed with this key for this account") from None
        if not is_credential(credential):
            raise ValueError("is no credential")
        return credential


def read_key(place: Secret) -> SealingKey:
    """The key at a place. Raises: LookupError that names the place, and says why the key there is refused."""
    where = f"environment variable {place.env}" if place.env is not None else f"file {place.file}"
    try:
        text = os.environ.get(place.env, "") if place.env is not None else _from_file(str(place.file))
        return SealingKey(parse_key(text))
    except OSError as error:
        raise LookupError(f"{where} cannot be read: {error.strerror}; {MAKE_ONE}") from None
    except ValueError as error:
        raise LookupError(f"{where} {error}; {MAKE_ONE}") from None


def parse_key(text: str) -> bytes:
    """32 bytes from their hexadecimal or base64. Raises: ValueError, never with the text."""
    text = text.strip()
    if not text:
        raise ValueError("is empty or not set")
    if _HEX.fullmatch(text):
        key = bytes.fromhex(text)
    elif _BASE64.fullmatch(text):
        key = base64.b64decode(text.rstrip("=") + "=", altchars=b"-_")
    else:
        raise ValueError("is not a key of 32 bytes in hexadecimal or base64")
    if _weak(key):
        raise ValueError("is a weak key: it is not random")
    return key


def _weak(key: bytes) -> bool:
    """Whether a person, a pattern or a counter made these bytes: chance does it once in 10**10 keys or less."""
    steps = {(after - before) % 256 for before, after in itertools.pairwise(key)}
    return len(set(key)) < 16 or len(steps) < 15 or all(0x20 <= byte <= 0x7E for byte in key)


def _from_file(path: str) -> str:
    """Raises: OSError; ValueError for a file that others could read or have made."""
    with open(path, "rb") as file:
        # Asked of the open file, so that what was judged is what is read.
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is not a file")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ValueError(
                "can be read by group or others: chmod 0600, and replace it if somebody may have"
            )
        if found.st_uid not in (0, os.geteuid()):
            raise ValueError("belongs to another user")
        return file.read(MAX_KEY_FILE).decode("ascii", "replace")


def _bound_to(account: str) -> bytes:
    return (_PURPOSE + account).encode()
