"""An answer that may be lost, kept so that only who asked can have it again: sealed under their Idempotency-Key.

Everything is derived from the key itself (HKDF), together with whose request it was: where the answer is found, the
proof that the body is the same, and the AES-GCM key that opens the `jti`. The store has none of it to read.
Pure, but for the nonce.
Sources: RFC 5869, NIST SP 800-38D, draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.problem import Problem

KEPT_S = 60
NONCE_BYTES = 12
# What can be guessed opens what it seals: a UUID has 36 characters, and 16 random ones are the least.
_KEY = re.compile(r'("?)([A-Za-z0-9._~:/+=-]{16,255})\1', re.ASCII)


@dataclass(frozen=True, slots=True)
class Once:
    """One request that may be sent again. Printing it prints no key."""

    lookup: bytes
    binding: bytes
    _secret: bytes = field(repr=False)

    def seal(self, text: str) -> bytes:
        """A text of ASCII as only this request can read it: another nonce, and so other bytes, each time."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self._secret).encrypt(nonce, text.encode("ascii"), self.lookup + self.binding)

    def open(self, sealed: bytes) -> str:
        """The text that was sealed. Raises: ValueError for bytes that this request did not seal."""
        try:
            plain = AESGCM(self._secret).decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self.lookup + self.binding
            )
            return plain.decode("ascii")
        except (InvalidTag, ValueError):
            raise ValueError("is not what was sealed") from None


def once(keys: Sequence[str], *, whose: Sequence[str], body: bytes) -> Once | None:
    """The request behind an `Idempotency-Key`, from the header's values; None when there is none.

    `whose`: who asks for what, such as owner, token and path. Raises: Problem "invalid-input".
    """
    if not keys:
        return None
    found = _KEY.fullmatch(keys[0]) if len(keys) == 1 else None
    if found is None:
        raise Problem(
            "invalid-input",
            "Idempotency-Key has to be one value of 16 to 255 letters, digits and -._~:/+= that nobody can guess,"
            " such as a UUID.",
            member="Idempotency-Key",
        )
    key = found[2].encode("ascii")
    # Lengths in front, so that no two lists of names are one text.
    context = b"".join(b"%d:%b" % (len(name.encode()), name.encode()) for name in whose)
    lookup, secret, binder = (_derived(key, label + context) for label in (b"lookup ", b"seal ", b"bind "))
    return Once(lookup, hmac.digest(binder, body, "sha256"), secret)


def _derived(key: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"invoca-gateway once " + info).derive(key)
