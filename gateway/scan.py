"""Looks for tokens of ours where none belongs: files, folders, archives, logs, and all that a git repository holds.

`finder.py` says what looks like one; here it is verified against the published keys, so that nothing else is ever
reported. Streams are read piece by piece, whatever their size. What could not be looked at is said, because
silence would read as clean. Nothing here keeps a token longer than it takes to verify it.

A repository is asked through `git` for every object it has, each once, reachable or not: no commit is checked out,
nothing of the repository's is run.
"""

from __future__ import annotations

import gzip
import http.client
import os
import ssl
import stat
import struct
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from gateway.config import is_loopback
from gateway.finder import Finder, Hit
from gateway.tokens import Claims, Known, PublicKeys, jti_digest, read_jwks, recognise, scrub

PIECE = 262_144
IN_MEMORY = 8_388_608
MAX_DEPTH = 3
"""How deep archives are opened within archives."""
MAX_UNPACKED = 17_179_869_184
"""Bytes that one file may unpack to, in all: a small archive can be made to say more than a disk holds."""
MAX_JWKS = 1_048_576
FETCH_TIMEOUT_S = 10.0
_REMEMBERED = 1_024

MAX_DIRECTORY = 67_108_864  # bytes of a zip's list of members: it is read whole

_OPENED = {b"\x1f\x8b": "gz", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}
_CLOSED = (
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
)  # bz2 xz zst 7z rar
_HEAD = 6
_BROKEN = (
    OSError,
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
)
"""What the readers of damaged, encrypted or unknown archives raise."""


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A token of ours, and where it lies. Of the token it holds what names it, nothing that could be used.

    `name` is a path, in an archive `archive!/member`, in a repository the path in it. `commit` is where git first
    had it. `expires_at` is UTC seconds.
    """

    name: str
    line: int
    token_id: str
    expires_at: int
    digest: bytes = field(repr=False)
    commit: str | None = None


class NoRepository(Exception):
    """A folder without one, or without `git`."""


@dataclass
class Scanner:
    """Verifies with these keys. `unread` gathers what could not be looked at, `notes` what else is worth saying."""

    keys: Known
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    max_unpacked: int = MAX_UNPACKED
    _known: dict[str, Claims | None] = field(default_factory=dict, repr=False)
    _left: int = 0

    # --- files and folders

    def path(self, path: str) -> Iterator[Finding]:
        """A file, or all the files below a folder. Links in a folder are not followed, nor devices read."""
        try:
            if stat.S_ISDIR(os.stat(path).st_mode):
                yield from self._folder(path)
            else:
                yield from self._file(path)
        except OSError as error:
            self._not_read(path, error)

    def _folder(self, folder: str) -> Iterator[Finding]:
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            try:
                with os.scandir(here) as listed:
                    entries = sorted(listed, key=lambda entry: entry.name)
            except OSError as error:
                self._not_read(here, error)
                continue
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            # Objects of git's are compressed: `history` reads them.
            waiting += [path for path in reversed(below) if not path.endswith("/.git/objects")]
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    try:
                        yield from self._file(entry.path, os.O_NOFOLLOW)
                    except OSError as error:
                        self._not_read(entry.path, error)

    def _file(self, path: str, flags: int = 0) -> Iterator[Finding]:
        """Raises: OSError."""
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags), "rb", buffering=0) as file:
            yield from self.stream(file, path, seekable=stat.S_ISREG(os.fstat(file.fileno()).st_mode))

    # --- streams

    def stream(self, stream: Readable, name: str, *, seekable: bool = False) -> Iterator[Finding]:
        """A stream from its beginning, an archive with what is in it. Raises: OSError of the stream's."""
        self._left = self.max_unpacked
        yield from self._any(stream, name, 0, seekable)

    def _any(self, stream: Readable, name: str, depth: int, seekable: bool = False) -> Iterator[Finding]:
        head = _first(stream)
        kind = next((kind for magic, kind in _OPENED.items() if head.startswith(magic)), None)
        if kind is None or depth >= MAX_DEPTH:
            if kind is not None:
                self.unread.append(f"{scrub(name)}: an archive within {MAX_DEPTH} archives is not opened")
            elif head.startswith(_CLOSED):
                self.notes.append(f"{scrub(name)}: is compressed in a way that is not opened, read as it is")
            yield from self._plain(_Rejoined(head, stream), name)
        elif seekable:
            yield from self._archive(stream, name, kind, depth)
        else:
            with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
                for piece in _pieces(_Rejoined(head, stream)):
                    file.write(piece)
                yield from self._archive(file, name, kind, depth)

    def _archive(self, file: Any, name: str, kind: str, depth: int) -> Iterator[Finding]:
        """What is packed in a file; then the file's own bytes, for what lies beside that."""
        within = set()
        try:
            for member, opening in _members(file, kind):
                inner = f"{name}!/{member}" if member else name
                try:
                    with opening() as content:
                        for finding in self._any(_Bounded(self, content), inner, depth + 1):
                            within.add(finding.digest)
                            yield finding
                except _BROKEN as error:
                    self._not_unpacked(inner, error)
        except _TooMuch as error:
            self.unread.append(f"{scrub(name)}: {error}, the rest of it is not read")
        except _BROKEN as error:
            self._not_unpacked(name, error)
        file.seek(0)
        for finding in self._plain(file, name):
            if finding.digest not in within:
                yield finding

    def _not_unpacked(self, name: str, error: Exception) -> None:
        why = (
            "encrypted" if type(error) is RuntimeError else f"damaged: {type(error).__name__}"
        )  # as zipfile says it
        self.notes.append(f"{scrub(name)}: cannot be unpacked ({why}), read as it is")

    def _plain(self, stream: Readable, name: str) -> Iterator[Finding]:
        finder = Finder()
        try:
            for piece in _pieces(stream):
                yield from self._judged(finder.feed(piece), name)
        except Exception:  # what came before the stream broke was read
            yield from self._judged(finder.close(), name)
            raise
        yield from self._judged(finder.close(), name)

    def _judged(self, hits: list[Hit], name: str) -> Iterator[Finding]:
        for hit in hits:
            claims = self._claims(hit.text)
            if claims is not None:
                yield Finding(name, hit.line, claims.token_id, claims.expires_at, jti_digest(claims.jti))

    def _claims(self, text: str) -> Claims | None:
        """What a token says, its signature checked once for many places."""
        if text not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[text] = recognise(self.keys, text)
        return self._known[text]

    def _not_read(self, name: str, error: OSError) -> None:
        self.unread.append(f"{scrub(name)}: cannot be read ({error.strerror or type(error).__name__})")

    # --- git

    def staged(self, folder: str, paths: tuple[str, ...] = ()) -> Iterator[Finding]:
        """What the next commit in this folder's repository would add or change. Raises: NoRepository."""
        environment = dict(os.environ)  # a hook's own: it says which index is meant
        wanted = ("diff", "--cached", "--raw", "--no-abbrev", "--no-renames", "--no-ext-diff", "--diff-filter=ACMT",
                  "-z", "--", *paths)  # fmt: skip
        fields = _git(folder, environment, *wanted).split(b"\0")
        changed = [
            (line.split(b" ")[3].decode(), _name(path))
            for line, path in zip(fields[::2], fields[1::2], strict=False)
            if line.split(b" ")[1] != b"160000"  # a submodule's commit is in another repository
        ]
        with _objects(folder, environment, [sha for sha, _ in changed]) as objects:
            for (_, path), (_, _, content) in zip(changed, objects, strict=False):
                yield from self.stream(content, path)

    def history(self, folder: str) -> Iterator[Finding]:
        """Every object of this folder's repository: contents and messages, of every branch, stash and tag, and of
        what none of them leads to any more. Raises: NoRepository."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        _git(folder, environment, "rev-parse", "--git-dir")
        found: dict[str, list[Finding]] = {}
        with _objects(folder, environment, None) as objects:
            for sha, kind, content in objects:
                if kind == "tree":  # names, each shorter than any token
                    continue
                for finding in self.stream(content, f"{kind} {sha[:12]}"):
                    if kind in ("commit", "tag"):
                        yield replace(finding, name=f"{kind} object", commit=sha)
                    else:
                        found.setdefault(sha, []).append(finding)
        places = _introduced(folder, environment, set(found)) if found else {}
        for sha, findings in found.items():
            for finding in findings:
                whole, mark, member = finding.name.partition("!/")
                commit, path = places.get(sha, (None, f"{whole} (in no commit)"))
                yield replace(finding, name=path + mark + member, commit=commit)


# --- streams


class _Rejoined:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        head, self._head = self._head, b""
        return head or self._rest.read(size)


class _TooMuch(Exception):
    """An archive holds more than may be read of it."""


class _Bounded:
    """What an archive unpacks to, as long as the whole file it lies in has not unpacked to too much."""

    def __init__(self, scanner: Scanner, stream: Readable) -> None:
        self._scanner = scanner
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        piece = self._stream.read(size)
        self._scanner._left -= len(piece)
        if self._scanner._left < 0:
            raise _TooMuch(f"unpacks to more than {self._scanner.max_unpacked} bytes")
        return piece


class _Part:
    """The next `length` bytes of git's output, and no more. Raises: NoRepository when it ends before that."""

    def __init__(self, stream: Readable, length: int) -> None:
        self._stream = stream
        self._length = length

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._length if size < 0 else min(size, self._length)
        piece = self._stream.read(wanted)
        if wanted and not piece:
            raise NoRepository("git cat-file failed: an object ends early")
        self._length -= len(piece)
        return piece


def _first(stream: Readable) -> bytes:
    head = b""
    while len(head) < _HEAD and (piece := stream.read(_HEAD - len(head))):
        head += piece
    return head


def _pieces(stream: Readable) -> Iterator[bytes]:
    while piece := stream.read(PIECE):
        yield piece


Opening = Callable[[], AbstractContextManager[Readable]]


def _members(file: Any, kind: str) -> Iterator[tuple[str, Opening]]:
    """(name, content) of each file in an archive; a name of "" for the one that is compressed alone."""
    file.seek(0)
    if kind == "gz":
        yield "", partial(gzip.GzipFile, fileobj=file, mode="rb")
        return
    if _directory_bytes(file) > MAX_DIRECTORY:
        raise _TooMuch("has too many members")
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, partial(archive.open, info)


def _directory_bytes(file: Any) -> int:
    """How long a zip says that its list of members is (APPNOTE 4.3.14 and 4.3.16); it is never longer than the file."""
    size: int = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 65_557 - 76))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise zipfile.BadZipFile
    said: int = struct.unpack_from("<L", tail, end + 12)[0]
    if tail[max(0, end - 20) : end].startswith(b"PK\x06\x07") and end >= 76:
        said = struct.unpack_from("<Q", tail, end - 76 + 40)[0]
    return min(said, size)


# --- git


def _git(folder: str, environment: dict[str, str], *words: str) -> bytes:
    """What a short git command prints. Raises: NoRepository when it fails."""
    try:
        done = subprocess.run(_command(folder, *words), capture_output=True, env=environment, check=False)  # noqa: S603
    except OSError:
        raise NoRepository("git cannot be run") from None
    if done.returncode:
        text = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise NoRepository(scrub(text) or f"git {words[0]} failed")
    return done.stdout


def _command(folder: str, *words: str) -> list[str]:
    return ["git", "--no-replace-objects", "--no-pager", "-c", "core.quotePath=false", "-C", folder, *words]


Objects = Iterator[tuple[str, str, Readable]]


@contextmanager
def _objects(folder: str, environment: dict[str, str], names: list[str] | None) -> Iterator[Objects]:
    """(id, type, content) of objects in the order named, or with None of all there are. Read each before the next.

    Raises: NoRepository when git ends before the last of them.
    """
    which = ["--batch-all-objects", "--unordered"] if names is None else []
    with tempfile.TemporaryFile() as asked:
        asked.write("".join(f"{name}\n" for name in names or ()).encode())
        asked.seek(0)
        git = subprocess.Popen(  # noqa: S603
            _command(folder, "cat-file", "--batch", "--buffer", *which),
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        output = git.stdout
        assert output is not None
        try:
            yield _parsed(output)
            output.read(1)
            if git.wait():
                raise NoRepository("git cat-file failed: not every object could be read")
        finally:
            output.close()
            if git.poll() is None:
                git.terminate()
            git.wait()


def _parsed(output: IO[bytes]) -> Objects:
    while head := output.readline(4096):
        words = head.split()
        if len(words) != 3 or not words[2].isdigit():
            raise NoRepository("git cat-file failed: an object is missing")
        content = _Part(output, int(words[2]))
        yield words[0].decode(), words[1].decode(), content
        for _ in _pieces(content):  # what was not read of it
            pass
        output.read(1)


def _introduced(
    folder: str, environment: dict[str, str], wanted: set[str]
) -> dict[str, tuple[str | None, str]]:
    """The first commit that had each of these objects, and the path it had there."""
    git = subprocess.Popen(  # noqa: S603
        _command(folder, "log", "--all", "--reflog", "--reverse", "--topo-order", "--format=%H", "--raw", "-t", "-m",
                 "--root", "--no-abbrev", "--no-renames", "--no-ext-diff", "--no-color"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    assert git.stdout is not None
    places: dict[str, tuple[str | None, str]] = {}
    commit = None
    with git.stdout as lines:
        for line in lines:
            if not line.startswith(b":"):
                commit = line.strip().decode("ascii", "replace") or commit
                continue
            facts, _, path = line.rstrip(b"\n").partition(b"\t")
            sha = facts.split(b" ")[3].decode()
            if sha in wanted:
                places.setdefault(sha, (commit, _name(path)))
    git.wait()
    return places


def _name(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


# --- keys


def keys_from(where: str) -> PublicKeys:
    """The keys of a JWK Set in a file, or at an address: https, or http on this machine.

    Raises: ValueError that says what is wrong with it.
    """
    if where.startswith(("http://", "https://")):
        return read_jwks(_fetched(where))
    try:
        with Path(where).open("rb") as file:
            text = file.read(MAX_JWKS + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if len(text) > MAX_JWKS:
        raise ValueError("is too long for a JWK Set")
    return read_jwks(text)


def _fetched(address: str) -> bytes:
    """One answer of 200, not redirected, from the very place that was named. Raises: ValueError."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not an address") from None
    if parts.scheme != "https" and not is_loopback(host):
        raise ValueError("is not https: keys that anybody could have replaced prove nothing")
    if not host or "@" in parts.netloc:
        raise ValueError("is not an address such as https://gateway.example.com/.well-known/jwks.json")
    made: http.client.HTTPConnection
    if parts.scheme == "https":
        made = http.client.HTTPSConnection(
            host, port, timeout=FETCH_TIMEOUT_S, context=ssl.create_default_context()
        )
    else:
        made = http.client.HTTPConnection(host, port, timeout=FETCH_TIMEOUT_S)
    try:
        with closing(made) as connection:
            connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
            answer = connection.getresponse()
            if answer.status != 200:
                raise ValueError(f"was answered with {answer.status}")
            text = answer.read(MAX_JWKS + 1)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"cannot be fetched ({type(error).__name__})") from None
    if len(text) > MAX_JWKS:
        raise ValueError("is too long for a JWK Set")
    return text
