"""The tokens we issue: minted, verified, recognised in text. Pure over keys and times that are passed in.

A token is a JWT access token (RFC 9068) signed with Ed25519 (RFC 8037) by PyJWT. What is accepted is exactly
what `mint` writes, byte for byte: nothing a token says about itself chooses a key, an algorithm or a reading.
Whether a token lives is not decided here: the store says so, and `Claims.expired` says what the clock says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from gateway.problem import Problem

ALGORITHM = "EdDSA"
TYPE = "at+jwt"  # RFC 9068 section 2.1

PREFIX = "eyJhbGciOiJFZERTQSIsImtpZCI6Iml2Zy"
"""How every token begins: `{"alg":"EdDSA","kid":"ivg-` in base64url, for secret scanners to look for."""

MAX_TOKEN_CHARS = 2048
MAX_TIME = 253_402_300_799  # 9999-12-31T23:59:59Z: the last second everybody's calendar can write
REFUSED = "The token is not one this gateway issued"

_CLAIMS = ("iss", "aud", "sub", "client_id", "iat", "exp", "jti", "scope")
_B64 = "[A-Za-z0-9_-]"
HEADER_CHARS = 79  # every kid has 20 characters, so every header has as many
_HEADER = f"{PREFIX}{_B64}{{{HEADER_CHARS - len(PREFIX)}}}"
# A signature is 64 bytes, so 86 characters whose last has four spare bits; only zeros there are canonical.
FORM = re.compile(rf"{_HEADER}\.{_B64}{{1,1800}}\.{_B64}{{85}}[AQgw]", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_JTI = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]", re.ASCII)
_X = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)
_SCOPE = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*", re.ASCII)  # RFC 6749 section 3.3

# In text a dot may have been percent-encoded, even repeatedly. The quantifiers are possessive and the classes
# disjoint from the separator, so that both searches are linear in the text.
_DOT = r"(?:\.|%(?:25)*+2[Ee])"
_CANDIDATE = re.compile(rf"{_HEADER}{_DOT}{_B64}{{1,1800}}+{_DOT}{_B64}{{86}}", re.ASCII)
_TRACE = re.compile(rf"{PREFIX}{_B64}*+(?:{_DOT}{_B64}*+){{0,2}}", re.ASCII)
_ANY_DOT = re.compile(_DOT)


# --- keys


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key. Its `kid` is derived from it (`ivg-` and 96 bits of its RFC 7638 thumbprint)."""

    key: Ed25519PublicKey

    @property
    def kid(self) -> str:
        jwk = OKPAlgorithm.to_jwk(self.key, as_dict=True)
        thumbprint = json.dumps({name: jwk[name] for name in ("crv", "kty", "x")}, separators=(",", ":"))
        return "ivg-" + _b64(hashlib.sha256(thumbprint.encode()).digest()[:12])

    @property
    def header(self) -> str:
        """The first part of every token signed with this key."""
        # The order of the members is what makes PREFIX true.
        return _b64(_compact({"alg": ALGORITHM, "kid": self.kid, "typ": TYPE}))

    def to_jwk(self) -> dict[str, str]:
        """RFC 7517 section 4, RFC 8037 section 2; no private part."""
        jwk = OKPAlgorithm.to_jwk(self.key, as_dict=True)
        named = {name: str(jwk[name]) for name in ("kty", "crv", "x")}
        return named | {"kid": self.kid, "alg": ALGORITHM, "use": "sig"}

    def to_pem(self) -> bytes:
        return self.key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 private key. Printing one never prints the key."""

    key: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key.public_key())

    @property
    def kid(self) -> str:
        return self.public.kid

    def to_pem(self) -> bytes:
        """PKCS #8 without a passphrase: where it lies is what guards it (`store/keys.py`)."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def generate_key() -> SigningKey:
    """A new signing key from the operating system's randomness."""
    return SigningKey(Ed25519PrivateKey.generate())


def signing_key(pem: bytes) -> SigningKey:
    """The private key of a PKCS #8 PEM. Raises: ValueError for anything but an unencrypted Ed25519 key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except Exception:  # the library raises a dozen classes here; none says more to an operator
        raise ValueError("is not an unencrypted PKCS #8 private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("is not an Ed25519 private key")
    return SigningKey(key)


def public_key(pem: bytes) -> PublicKey:
    """The public key of a SubjectPublicKeyInfo PEM. Raises: ValueError for anything but an Ed25519 key."""
    try:
        key = serialization.load_pem_public_key(pem)
    except Exception:  # as above
        raise ValueError("is not a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("is not an Ed25519 public key")
    return PublicKey(key)


class Known(Protocol):
    """The keys that tokens are verified with."""

    def by_header(self, segment: str) -> PublicKey | None:
        """The key whose tokens begin with exactly this header text."""


@dataclass(frozen=True)
class PublicKeys:
    """Public keys alone, as a JWK Set publishes them: enough to recognise a token, never to make one."""

    public_keys: tuple[PublicKey, ...]
    _by_header: dict[str, PublicKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_header", {key.header: key for key in self.public_keys})

    def by_header(self, segment: str) -> PublicKey | None:
        """The key whose tokens begin with exactly this header text."""
        return self._by_header.get(segment)


MAX_JWKS_KEYS = 1_000


def read_jwks(text: str | bytes) -> PublicKeys:
    """The Ed25519 keys of a JWK Set (RFC 7517 section 5); keys of other kinds are left out.

    A key's id is worked out from the key: what the document calls it does not matter.
    Raises: ValueError for what is no JWK Set, or has no such key.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not a JWK Set") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_JWKS_KEYS:
        raise ValueError("is not a JWK Set")
    found: dict[str, PublicKey] = {}
    for jwk in listed:
        if not isinstance(jwk, dict) or (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
            continue
        if not isinstance(jwk.get("x"), str) or not _X.fullmatch(jwk["x"]):
            raise ValueError("has an Ed25519 key whose x is not 32 bytes in base64url")
        key = PublicKey(Ed25519PublicKey.from_public_bytes(_unb64(jwk["x"])))
        found[key.kid] = key
    if not found:
        raise ValueError("has no Ed25519 key")
    return PublicKeys(tuple(found.values()))


@dataclass(frozen=True)
class Keyring:
    """The key that signs now, and the public keys whose tokens are still accepted."""

    current: SigningKey
    retired: tuple[PublicKey, ...] = ()
    _by_header: dict[str, PublicKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_header", {key.header: key for key in self.public_keys})

    @property
    def public_keys(self) -> tuple[PublicKey, ...]:
        """The current key's public half first, then the retired ones."""
        return (self.current.public, *self.retired)

    def by_header(self, segment: str) -> PublicKey | None:
        """The key whose tokens begin with exactly this header text."""
        return self._by_header.get(segment)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """A JWK Set (RFC 7517 section 5): every public key, current first, no private part."""
        return {"keys": [key.to_jwk() for key in self.public_keys]}


# --- minting and verifying


@dataclass(frozen=True, slots=True)
class Claims:
    """What a genuine token says. Times are UTC seconds.

    Genuine is not live: expiry is the caller's to judge, with its own clock and after the store has confirmed
    the `jti`, because only the holder of a once valid token is told that it expired. Call `expired(now)`
    before anything is allowed. Scopes and owner are what was true at minting; the store's row is what counts.
    """

    issuer: str
    audience: str
    owner_id: str
    token_id: str
    issued_at: int
    expires_at: int
    jti: str = field(repr=False)
    scopes: tuple[str, ...]

    def expired(self, now: float) -> bool:
        """Whether the token's time is over. The last second is exclusive (RFC 7519 section 4.1.4), no leeway."""
        return now >= self.expires_at


def mint(
    keyring: Keyring,
    *,
    issuer: str,
    audience: str,
    owner_id: str,
    token_id: str,
    jti: str,
    issued_at: int,
    expires_at: int,
    scopes: Iterable[str],
) -> str:
    """A signed token with the claims of RFC 9068 section 2.2 and `scope`; begins with PREFIX.

    Times are UTC integer seconds. Raises: ValueError for what `verify` would refuse.
    """
    claims = Claims(issuer, audience, owner_id, token_id, issued_at, expires_at, jti, tuple(scopes))
    body = _body(claims)
    # A scope with a space in it would come back as two.
    fault = _fault(body) or ("scope" if any(" " in scope for scope in claims.scopes) else None)
    if fault:
        raise ValueError(f"{fault} is not one a token can carry")
    text = jwt.encode(
        body,
        keyring.current.key,
        algorithm=ALGORITHM,
        headers={"alg": ALGORITHM, "kid": keyring.current.kid, "typ": TYPE},
        sort_headers=True,  # alg, kid, typ: see PublicKey.header
    )
    if len(text) > MAX_TOKEN_CHARS or not FORM.fullmatch(text):
        raise ValueError("the claims are too long for a token")
    return text


def verify(keyring: Known, text: str, *, issuer: str, audience: str) -> Claims:
    """What a token says, once its form, key, type, signature, issuer, audience and claims are proven.

    Expiry is NOT judged: see `Claims`. Raises: Problem "invalid-token", the same for every fault.
    Sources: RFC 9068 section 4, RFC 8725 sections 3.1 to 3.11.
    """
    key = _key_of(keyring, text)
    if key is None:
        raise Problem("invalid-token", REFUSED)
    payload = text.split(".")[1]
    try:
        body = jwt.decode(
            text,
            key.key,
            algorithms=[ALGORITHM],
            issuer=issuer,
            audience=audience,
            # PyJWT would read the machine's clock for these three; exp is judged by the caller's.
            options={
                "require": list(_CLAIMS),
                "strict_aud": True,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
        raise Problem("invalid-token", REFUSED) from None
    if _fault(body) or body["iss"] != issuer or body["aud"] != audience:
        raise Problem("invalid-token", REFUSED)
    # Duplicate members, other orders, spaces, escapes, spare bits: all that is signed and not ours ends here.
    if _b64(_compact({name: body[name] for name in _CLAIMS})) != payload:
        raise Problem("invalid-token", REFUSED)
    return Claims(
        issuer=body["iss"],
        audience=body["aud"],
        owner_id=body["sub"],
        token_id=body["client_id"],
        issued_at=body["iat"],
        expires_at=body["exp"],
        jti=body["jti"],
        scopes=tuple(body["scope"].split(" ")),
    )


def recognise(keyring: Known, text: str) -> Claims | None:
    """What a token of these keys says, whichever origin it was issued for; None for every other text.

    For finding tokens, never for accepting one: `verify` holds it to one issuer and one audience.
    """
    body = None if _key_of(keyring, text) is None else _claimed(text)
    if body is None:
        return None
    try:
        return verify(keyring, text, issuer=body["iss"], audience=body["aud"])
    except Problem:
        return None


def claimed_jti(text: str) -> str | None:
    """The `jti` that a text with the form of a token claims to have. It proves nothing."""
    body = _claimed(text)
    return None if body is None else str(body["jti"])


def _claimed(text: str) -> dict[str, Any] | None:
    try:
        body = json.loads(_unb64(text.split(".")[1]))
    except (ValueError, RecursionError):
        return None
    return None if _fault(body) else body


def well_formed(text: str) -> bool:
    """Whether a text has the form of a token of this gateway, or of another one's."""
    return len(text) <= MAX_TOKEN_CHARS and FORM.fullmatch(text) is not None


def plausible(keyring: Known, text: str) -> bool:
    """Whether a text has the form of a token of ours, so that only its signature can tell. Costs next to nothing."""
    return _key_of(keyring, text) is not None


def _key_of(keyring: Known, text: str) -> PublicKey | None:
    if not isinstance(text, str) or not well_formed(text):
        return None
    # One look-up pins alg, kid and typ, and leaves no room for jku, x5u, jwk or crit (RFC 8725 3.1, 3.10).
    return keyring.by_header(text.partition(".")[0])


def new_jti() -> str:
    """128 random bits in base64url, 22 characters. Goes into the token and nowhere else: see `jti_digest`."""
    return secrets.token_urlsafe(16)


def jti_digest(jti: str) -> bytes:
    """SHA-256 of a `jti`, 32 bytes: the only trace of it that is ever stored. 128 random bits need no salt."""
    return hashlib.sha256(jti.encode()).digest()


def _body(claims: Claims) -> dict[str, Any]:
    return {
        "iss": claims.issuer,
        "aud": claims.audience,
        "sub": claims.owner_id,
        "client_id": claims.token_id,
        "iat": claims.issued_at,
        "exp": claims.expires_at,
        "jti": claims.jti,
        "scope": " ".join(claims.scopes),
    }


def _fault(body: object) -> str | None:
    """The name of the first claim that is not of its exact form, or None."""
    if not isinstance(body, dict):
        return "claims"
    if body.keys() != set(_CLAIMS):
        return "set of claims"
    for name, form in (("sub", _ID), ("client_id", _ID), ("jti", _JTI), ("scope", _SCOPE)):
        if type(body[name]) is not str or not form.fullmatch(body[name]):
            return name
    for name in ("iss", "aud"):
        if type(body[name]) is not str or not body[name].isascii() or not body[name].isprintable():
            return name
    for name in ("iat", "exp"):  # type() and not isinstance(): true is an int to Python
        if type(body[name]) is not int or not 0 <= body[name] <= MAX_TIME:
            return name
    return None if body["iat"] < body["exp"] else "exp"


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    """Raises: ValueError."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- tokens in text


def find_tokens(text: str | bytes) -> list[str]:
    """What looks like tokens of ours in any text, in order, repeats kept; only `verify` says which are.

    Linear in the text; each is at most MAX_TOKEN_CHARS long and at least 170, so their number is bounded by
    the text. A dot written `%2E` counts as a dot; other percent-encoding is the caller's to undo first.
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    found = (_ANY_DOT.sub(".", match) for match in _CANDIDATE.findall(text))
    return [token for token in found if len(token) <= MAX_TOKEN_CHARS]


def scrub(text: str) -> str:
    """The text with `[token]` for everything that begins like a token of ours, truncated ones included."""
    return _TRACE.sub("[token]", text)
