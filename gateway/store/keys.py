"""The signing keys on disk, outside the database: neither a stolen key nor a stolen database alone is a token.

In a folder of mode 0700, files of mode 0600 named by key id: `<kid>.pem` is the private key that signs now,
`<kid>.pub.pem` a public key whose tokens are still accepted. Retiring a key keeps its public half alone.
Everybody who reads or writes the folder holds a lock on it, so that nobody sees half a change.

A running process looks at the folder again and again (`LiveKeys`), so a rotation needs no restart.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from gateway.tokens import Keyring, PublicKey, SigningKey, generate_key, public_key, signing_key
from gateway.tomlfile import ConfigError, Fault

log = logging.getLogger("gateway.keys")
WATCH_S = 0.5
_PRIVATE, _PUBLIC, _DRAFT = ".pem", ".pub.pem", ".draft"
K = TypeVar("K", SigningKey, PublicKey)


def load_or_create_keys(path: str) -> Keyring:
    """The keys in a folder; folder and first key are made when missing. Of several at once, one creates.

    Raises: ConfigError naming the file, for anything that is not as this module writes it.
    """
    folder = Path(path)
    with _explained(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            _settle(folder)
            return _load(folder, create=True)


def load_keys(path: str) -> Keyring:
    """The keys in a folder that has some: reads only. Raises: as `load_or_create_keys`."""
    folder = Path(path)
    with _explained(folder), _locked(folder):
        return _load(folder, create=False)


def rotate_keys(path: str) -> Keyring:
    """A new signing key, the one before kept as public only. Running workers see it by themselves.

    Raises: as `load_or_create_keys`.
    """
    folder = Path(path)
    with _explained(folder), _locked(folder):
        _settle(folder)
        before = _load(folder, create=False).current
        # In this order a crash leaves either the old key signing, or a settled retirement and no signing key
        # yet, which `_settle` and `create=True` finish: at no point is a public key lost.
        _write(folder, before.kid + _PUBLIC, before.public.to_pem())
        _settle(folder)
        return _load(folder, create=True)


def drop_key(path: str, kid: str) -> bool:
    """Forget a public key that signs no more: its tokens are not accepted from then on. False when there is no such.

    Raises: as `load_or_create_keys`.
    """
    folder = Path(path)
    with _explained(folder), _locked(folder):
        if kid not in {key.kid for key in _load(folder, create=False).retired}:
            return False
        (folder / (kid + _PUBLIC)).unlink()
        _sync(folder)
        return True


def retired_at(path: str, kid: str) -> float:
    """Since when a key signs no more (UTC seconds). Raises: ConfigError."""
    file = Path(path) / (kid + _PUBLIC)
    with _explained(file):
        return file.stat().st_mtime


class LiveKeys:
    """The keys of a folder as they are now, for a process that goes on running.

    What is loaded is kept as long as the folder cannot be used: `alarms` counts how often that began.
    """

    def __init__(self, path: str) -> None:
        """The folder and its first key are made when missing. Raises: as `load_or_create_keys`."""
        self._path = path
        self.ring = load_or_create_keys(path)
        self._loaded = _names_of(self.ring)
        self.alarms = 0
        self._unusable: frozenset[str] | None = None
        self._loading = asyncio.Lock()

    async def refresh(self, *, again: bool = False) -> None:
        """Load the keys when others are there. A look costs microseconds: do it before a token is judged.

        `again` tries once more what could not be loaded before.
        """
        names = _names(self._path)
        if names == self._loaded or (names == self._unusable and not again):
            return
        async with self._loading:
            names = _names(self._path)
            if names == self._loaded:
                return
            try:
                ring = await asyncio.to_thread(load_keys, self._path)
            except ConfigError as error:
                if names != self._unusable:
                    self.alarms += 1
                    log.error("keys-unusable: the keys from before stay in use: %s", error)
                self._unusable = names
                return
            self._unusable, self._loaded, self.ring = None, _names_of(ring), ring
            log.info("keys-changed: %s signs, %d more are accepted", ring.current.kid, len(ring.retired))

    async def watch(self) -> None:
        """See every half second whether the keys have changed."""
        while True:
            await self.refresh(again=True)
            await asyncio.sleep(WATCH_S)


def _names_of(ring: Keyring) -> frozenset[str]:
    """The files that a folder with just these keys has."""
    return frozenset((ring.current.kid + _PRIVATE, *(key.kid + _PUBLIC for key in ring.retired)))


def _names(path: str) -> frozenset[str]:
    """The files of keys in a folder. Their names tell one state from another: each is its key's id."""
    try:
        return frozenset(name for name in os.listdir(path) if name.endswith(_PRIVATE))
    except OSError:
        return frozenset()


def _load(folder: Path, *, create: bool) -> Keyring:
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        raise _fault(folder, "can be read by group or others: chmod 0700")
    retired = {key.kid: key for key in _retired(folder)}
    current = [key for key in _private(folder) if key.kid not in retired]
    if len(current) > 1:
        raise _fault(folder, f"has {len(current)} signing keys, and one signs: remove the others")
    if not current:
        if not create:
            raise _fault(folder, "has no signing key")
        current = [generate_key()]
        _write(folder, current[0].kid + _PRIVATE, current[0].to_pem())
    return Keyring(current[0], tuple(retired[kid] for kid in sorted(retired)))


def _private(folder: Path) -> Iterator[SigningKey]:
    for file in sorted(folder.glob("*" + _PRIVATE)):
        if file.name.endswith(_PUBLIC):
            continue
        # Asked of the open file, so that what was judged is what is read.
        with file.open("rb") as handle:
            if stat.S_IMODE(os.fstat(handle.fileno()).st_mode) & 0o077:
                raise _fault(
                    file, "is a private key that group or others can read: chmod 0600, or replace it"
                )
            pem = handle.read()
        try:
            key = signing_key(pem)
        except ValueError as error:
            raise _fault(file, str(error)) from None
        yield _named(key, file, _PRIVATE)


def _retired(folder: Path) -> Iterator[PublicKey]:
    for file in sorted(folder.glob("*" + _PUBLIC)):
        try:
            key = public_key(file.read_bytes())
        except ValueError as error:
            raise _fault(file, str(error)) from None
        yield _named(key, file, _PUBLIC)


def _named(key: K, file: Path, ending: str) -> K:
    if file.name != key.kid + ending:
        raise _fault(file, f"holds another key than its name says ({key.kid})")
    return key


def _settle(folder: Path) -> None:
    """Finish what was cut short: a key with a public file beside it no longer signs, a draft is nobody's."""
    for draft in folder.glob(f".*{_PRIVATE}{_DRAFT}"):
        draft.unlink()
    for file in folder.glob("*" + _PUBLIC):
        private = folder / (file.name.removesuffix(_PUBLIC) + _PRIVATE)
        if private.exists():
            private.unlink()
            _sync(folder)


def _write(folder: Path, name: str, content: bytes) -> None:
    """The file, whole and on the disk, or not there at all. Raises: FileExistsError rather than replace one."""
    draft = folder / f".{name}{_DRAFT}"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, folder / name)
    finally:
        draft.unlink()
    _sync(folder)


def _sync(folder: Path) -> None:
    """Make names made or removed in a folder as durable as the files are."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released with the handle, and so with the process
        yield
    finally:
        os.close(handle)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """What the operating system refuses, in the words of a setting that cannot be used."""
    try:
        yield
    except OSError as error:
        raise _fault(Path(error.filename or folder), f"cannot be used: {error.strerror}") from None


def _fault(file: Path, text: str) -> ConfigError:
    return ConfigError([Fault(str(file), 0, "", text)])
