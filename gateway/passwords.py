"""Passwords: argon2id in threads of their own, a few at a time, so that no sign-in stops the loop or fills memory.

Every guess costs the same, also for somebody who does not exist or has set no password: it is held against a hash
of nothing. Sources: RFC 9106, NIST SP 800-63B section 3.1.1 (length, no composition rules, NFKC, a list of the worst).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from gateway.problem import Problem

T = TypeVar("T")

MIN_CHARS, MAX_CHARS = 12, 256
MIN_DIFFERENT = 5
AT_ONCE, WAITING = 2, 16
"""Hashes at one time, of 64 MiB each, and how many wait behind them: about a second."""
WORST = frozenset(
    {
        "123456789012", "1234567890123", "0123456789ab", "1234567890ab", "abcdefghijkl", "qwertyuiopas",
        "qwertyuiop12", "qwertyuiop123", "1qaz2wsx3edc", "passwordpassword", "password1234", "password12345",
        "password123!", "administrator", "administrator1", "changeme1234", "letmein12345", "welcome12345",
        "iloveyou1234", "correcthorsebatterystaple", "correct horse battery staple", "invocagateway",
        "invoca-gateway",
    }
)  # fmt: skip


class Passwords:
    """Hashes and proves passwords. Close it: it owns threads."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._pending = 0
        # Of today's parameters, and of no text: nobody has the password that hashes to random bytes.
        cost = f"m={self._hasher.memory_cost},t={self._hasher.time_cost},p={self._hasher.parallelism}"
        salt, digest = _random(self._hasher.salt_len), _random(self._hasher.hash_len)
        self._nobodys = f"$argon2id$v=19${cost}${salt}${digest}"

    async def hash(self, text: str) -> str:
        """The argon2id hash of a password, in its encoded form. Raises: Problem "overloaded"."""
        return await self._run(lambda: self._hasher.hash(_plain(text)))

    async def proves(self, text: str, kept: str | None) -> bool:
        """Whether a password is the one behind a hash; None is a hash of nothing, and costs the same.

        Raises: Problem "overloaded"; "store-unavailable" when what was kept is no such hash.
        """
        return await self._run(lambda: self._verify(_plain(text), kept or self._nobodys))

    def outdated(self, kept: str) -> bool:
        """Whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(kept)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _verify(self, text: str, kept: str) -> bool:
        try:
            return self._hasher.verify(kept, text)
        except VerifyMismatchError:
            return False
        except (VerificationError, InvalidHashError):
            raise Problem("store-unavailable") from None

    async def _run(self, work: Callable[[], T]) -> T:
        if self._pending >= AT_ONCE + WAITING:
            raise Problem(
                "overloaded", "Too many passwords are being proven.", headers=(("Retry-After", "2"),)
            )
        running = self._threads.submit(work)
        loop = asyncio.get_running_loop()
        self._pending += 1
        # Counted until the thread is done with it: a client that leaves does not stop one that has begun.
        running.add_done_callback(lambda _: _tell(loop, self._done))
        return await asyncio.wrap_future(running)

    def _done(self) -> None:
        self._pending -= 1


def refuse_weak(text: str, email: str) -> None:
    """Refuse a new password that is short, or one of the first that are tried. Raises: Problem "invalid-input"."""
    plain = _plain(text)
    if not MIN_CHARS <= len(plain) <= MAX_CHARS:
        raise _weak(f"has to have {MIN_CHARS} to {MAX_CHARS} characters")
    low = plain.casefold()
    if len(set(low)) < MIN_DIFFERENT or low in WORST or low in (email, email.partition("@")[0]):
        raise _weak("is one of the first that are tried")


def _weak(text: str) -> Problem:
    return Problem("invalid-input", f"password {text}.", member="password")


def _plain(text: str) -> str:
    """However a keyboard composed it."""
    return unicodedata.normalize("NFKC", text)


def _random(length: int) -> str:
    return base64.b64encode(secrets.token_bytes(length)).rstrip(b"=").decode()


def _tell(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(act)
    except RuntimeError:  # the loop is closed, and with it everybody who would ask
        pass
