"""`scan` over real files, archives and git repositories, and as a command: what it finds, where, and what it says."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gateway import scan
from gateway.scan import Finding, NoRepository, Scanner, keys_from
from gateway.tokens import Keyring, PublicKeys, generate_key, mint, new_jti
from tests.processes import ROOT, Programs, Site, ask, create

ORIGIN = "https://gateway.example.com"
RING = Keyring(generate_key())


def a_token(token_id: str = "tok_one", ring: Keyring = RING, expires_at: int = 4_000_000_000) -> str:
    return mint(
        ring, issuer=ORIGIN, audience=ORIGIN, owner_id="usr_owner", token_id=token_id, jti=new_jti(),
        issued_at=1_000, expires_at=expires_at, scopes=["transactions:read"],
    )  # fmt: skip


TOKEN, SECOND = a_token(), a_token("tok_two")


def places(found: Iterator[Finding]) -> list[tuple[str, int, str]]:
    return [(finding.name, finding.line, finding.token_id) for finding in found]


@pytest.fixture
def scanner() -> Scanner:
    return Scanner(RING)


# --- files and folders


def test_a_folder_is_looked_through_in_order_and_each_token_told_with_its_line(scanner, tmp_path):
    (tmp_path / "b" / ".hidden").mkdir(parents=True)
    (tmp_path / "a.log").write_text(f"GET /\nAuthorization: Bearer {TOKEN}\n\n{SECOND}{TOKEN}\n")
    (tmp_path / "b" / ".hidden" / "x.bin").write_bytes(b"\x00\xff" * 999 + TOKEN.encode() + b"\x00")
    (tmp_path / "b" / "clean").write_text("eyJhbGciOiJFZERTQSIsImtpZCI6Iml2Zy\n")
    at = str(tmp_path)
    assert places(scanner.path(at)) == [
        (f"{at}/a.log", 2, "tok_one"),
        (f"{at}/a.log", 4, "tok_two"),
        (f"{at}/a.log", 4, "tok_one"),
        (f"{at}/b/.hidden/x.bin", 1, "tok_one"),
    ]
    assert (scanner.unread, scanner.notes) == ([], [])


def test_links_and_devices_in_a_folder_are_not_followed_and_do_not_hold_it_up(scanner, tmp_path):
    (tmp_path / "elsewhere").write_text(TOKEN)
    below = tmp_path / "below"
    below.mkdir()
    (below / "link").symlink_to(tmp_path / "elsewhere")
    (below / "round").symlink_to(below)
    os.mkfifo(below / "pipe")
    assert (places(scanner.path(str(below))), scanner.unread) == ([], [])
    assert places(scanner.path(str(below / "link"))) == [(str(below / "link"), 1, "tok_one")]


def test_a_file_that_became_a_link_since_it_was_listed_is_not_followed(scanner, tmp_path):
    (tmp_path / "elsewhere").write_text(SECOND)
    below = tmp_path / "below"
    below.mkdir()
    for name in ("a", "b"):
        (below / name).write_text(TOKEN)
    found = scanner.path(str(below))
    assert next(found).token_id == "tok_one"
    (below / "b").unlink()
    (below / "b").symlink_to(tmp_path / "elsewhere")
    assert places(found) == []
    assert scanner.unread == [f"{below}/b: cannot be read (Too many levels of symbolic links)"]


def test_what_cannot_be_read_is_said(scanner, tmp_path):
    assert places(scanner.path(str(tmp_path / "nowhere"))) == []
    assert scanner.unread == [f"{tmp_path}/nowhere: cannot be read (No such file or directory)"]


def test_a_finding_of_no_kind_prints_the_token(scanner, tmp_path):
    (tmp_path / TOKEN[:200]).write_text(TOKEN)
    (found,) = scanner.path(str(tmp_path))
    assert TOKEN.split(".")[2] not in repr(found)
    assert TOKEN not in repr(scanner)


def test_a_token_of_another_key_is_none(tmp_path):
    (tmp_path / "a").write_text(TOKEN)
    assert places(Scanner(PublicKeys((generate_key().public,))).path(str(tmp_path))) == []


def test_a_stream_that_breaks_was_read_up_to_there(scanner):
    class Breaking(io.BytesIO):
        def read(self, size=-1, /):
            piece = super().read(size)
            if not piece:
                raise OSError(5, "Input/output error")
            return piece

    found = scanner.stream(Breaking(f"x\n{TOKEN} ".encode()), "stream")
    assert next(found).line == 2
    with pytest.raises(OSError, match="Input"):
        next(found)


# --- archives


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


INSIDE = f"one\ntwo {TOKEN}\n".encode()
NESTED = zipped({"deep/a.gz": gzip.compress(INSIDE), "b.txt": b"nothing"})


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (gzip.compress(INSIDE), ("", 2)),
        (gzip.compress(b"first\n") + gzip.compress(INSIDE), ("", 3)),
        (zipped({"x/y.txt": INSIDE}), ("!/x/y.txt", 2)),
        (zipped({"y.txt": INSIDE}, zipfile.ZIP_STORED), ("!/y.txt", 2)),
        (NESTED, ("!/deep/a.gz", 2)),
        (gzip.compress(NESTED), ("!/deep/a.gz", 2)),
    ],
    ids=["gz", "two in a gz", "zip", "stored in a zip", "gz in a zip", "gz in a zip in a gz"],
)
def test_archives_are_opened_also_within_each_other(scanner, tmp_path, content, place):
    (tmp_path / "it").write_bytes(content)
    at = str(tmp_path / "it")
    assert places(scanner.path(at)) == [(at + place[0], place[1], "tok_one")]
    assert places(scanner.stream(io.BytesIO(content), "-")) == [("-" + place[0], place[1], "tok_one")]
    assert (scanner.unread, scanner.notes) == ([], [])


def test_what_lies_beside_an_archives_members_is_read_too(scanner):
    content = b"".join([zipped({"y.txt": b"nothing"}), b"\n", TOKEN.encode()])
    assert places(scanner.stream(io.BytesIO(content), "a.zip"))[0][2] == "tok_one"


def test_a_damaged_archive_is_read_as_far_as_it_goes_and_said(scanner):
    content = gzip.compress(INSIDE + os.urandom(500_000))
    assert places(scanner.stream(io.BytesIO(content[:-200_000]), "a.gz")) == [("a.gz", 2, "tok_one")]
    assert scanner.notes == ["a.gz: cannot be unpacked (damaged: EOFError), read as it is"]


def test_a_damaged_member_keeps_nobody_from_the_others(scanner):
    content = bytearray(zipped({"bad": b"A" * 9_999, "good": INSIDE}))
    content[34 + 5] ^= 0xFF
    assert places(scanner.stream(io.BytesIO(bytes(content)), "a.zip")) == [("a.zip!/good", 2, "tok_one")]
    assert scanner.notes[0].startswith("a.zip!/bad: cannot be unpacked")


def test_an_encrypted_member_is_said(scanner):
    content = bytearray(zipped({"locked": INSIDE}))
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    assert places(scanner.stream(io.BytesIO(bytes(content)), "a.zip")) == []
    assert scanner.notes == ["a.zip!/locked: cannot be unpacked (encrypted), read as it is"]


def test_an_archive_that_unpacks_to_too_much_is_left_off_and_counts_as_not_read(scanner):
    scanner.max_unpacked = 1_000_000
    content = zipped({"a": INSIDE, "bomb": bytes(5_000_000), "c": SECOND.encode()})
    assert places(scanner.stream(io.BytesIO(content), "a.zip")) == [("a.zip!/a", 2, "tok_one")]
    assert scanner.unread == ["a.zip: unpacks to more than 1000000 bytes, the rest of it is not read"]


def test_archives_too_deep_in_each_other_are_not_opened_and_count_as_not_read(scanner):
    content = INSIDE
    for _ in range(4):
        content = gzip.compress(content)
    assert places(scanner.stream(io.BytesIO(content), "a.gz")) == []
    assert scanner.unread == ["a.gz: an archive within 3 archives is not opened"]


def test_a_zip_whose_list_of_members_is_too_long_to_hold_is_not_read(scanner, monkeypatch):
    monkeypatch.setattr(scan, "MAX_DIRECTORY", 4_000)
    content = zipped({f"{n}": b"" for n in range(100)})
    assert places(scanner.stream(io.BytesIO(content), "a.zip")) == []
    assert scanner.unread == ["a.zip: has too many members, the rest of it is not read"]


def test_what_is_compressed_in_a_way_that_is_not_opened_is_said(scanner):
    assert places(scanner.stream(io.BytesIO(b"\xfd7zXZ\0 and more"), "a.xz")) == []
    assert scanner.notes == ["a.xz: is compressed in a way that is not opened, read as it is"]


@pytest.mark.parametrize("seed", range(40))
def test_archives_with_broken_bytes_raise_nothing(scanner, seed):
    content = bytearray([gzip.compress(INSIDE), NESTED, gzip.compress(NESTED)][seed % 3])
    for step in range(1 + seed % 5):
        content[(seed * 7_919 + step * 104_729) % len(content)] ^= 1 << (seed % 8)
    list(scanner.stream(io.BytesIO(bytes(content)), "broken"))


def test_a_large_stream_takes_little_memory(scanner):
    class Large:
        left = 400

        def read(self, size=-1, /):
            self.left -= 1
            return b"some words and a line\n" * 10_000 if self.left > 0 else b""

    tracemalloc.start()
    try:
        assert places(scanner.stream(Large(), "-")) == []
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


# --- git


class Repository:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *words: str) -> str:
        who = {
            f"GIT_{role}_{what}": "a@b.example"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | who
        done = subprocess.run(
            ["git", *words], cwd=self.folder, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, message: str = "a change", **files: str) -> str:
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def told(found: Iterator[Finding]) -> set[tuple[str, int, str, str | None]]:
    return {(finding.name, finding.line, finding.token_id, finding.commit) for finding in found}


def test_a_token_that_was_removed_again_is_found_with_the_commit_that_brought_it(scanner, repository):
    repository.commit(clean="x\n")
    brought = repository.commit(settings=f"a\nb\ntoken = {TOKEN}\n")
    repository.commit(settings="a\nb\ntoken = gone\n")
    repository.git("gc", "-q")
    assert places(scanner.path(str(repository.folder))) == []
    assert told(scanner.history(str(repository.folder))) == {("settings", 3, "tok_one", brought)}


def test_every_version_with_a_token_is_told_where_it_first_was(scanner, repository):
    first = repository.commit(a=f"{TOKEN}\n")
    second = repository.commit(a=f"x\n{TOKEN}\n")
    repository.git("mv", "a", "b")
    repository.commit()
    assert told(scanner.history(str(repository.folder))) == {
        ("a", 1, "tok_one", first),
        ("a", 2, "tok_one", second),
    }


def test_messages_tags_stashes_branches_and_what_nothing_leads_to_are_looked_through(scanner, repository):
    repository.commit(a="x")
    said = repository.commit(f"fix\n\nwith {TOKEN}")
    repository.git("tag", "-a", "v1", "-m", f"release\n\n{SECOND}")
    repository.git("checkout", "-q", "-b", "side")
    side = repository.commit(s=f"{TOKEN}")
    repository.git("checkout", "-q", "main")
    (repository.folder / "a").write_text(SECOND)
    repository.git("stash")
    lost = repository.commit(lost=f"{SECOND}\n")
    repository.git("reset", "-q", "--hard", "HEAD~1")
    (repository.folder / "nobodys").write_text(f"no\n{SECOND}")
    repository.git("hash-object", "-w", "nobodys")
    found = told(scanner.history(str(repository.folder)))
    tag = repository.git("rev-parse", "v1")
    assert {
        ("commit object", 8, "tok_one", said),
        ("s", 1, "tok_one", side),
        ("lost", 1, "tok_two", lost),
    } <= found
    assert ("tag object", tag) in {(name, commit) for name, _, _, commit in found}
    assert ("a", 1, "tok_two") in {it[:3] for it in found}  # the stash
    assert [it for it in found if it[0].endswith("(in no commit)") and it[2] == "tok_two" and it[1] == 2]


def test_archives_in_history_are_opened(scanner, repository):
    (repository.folder / "backup.zip").write_bytes(zipped({"inner.txt": INSIDE}))
    commit = repository.commit()
    assert told(scanner.history(str(repository.folder))) == {("backup.zip!/inner.txt", 2, "tok_one", commit)}


def test_a_merge_that_brought_a_token_itself_is_found(scanner, repository):
    repository.commit(a="1")
    repository.git("checkout", "-q", "-b", "side")
    repository.commit(b="2")
    repository.git("checkout", "-q", "main")
    repository.commit(c="3")
    repository.git("merge", "-q", "--no-commit", "--no-ff", "side")
    merge = repository.commit("evil", b=f"2\n{TOKEN}")
    assert told(scanner.history(str(repository.folder))) == {("b", 2, "tok_one", merge)}


def test_a_folder_without_a_repository_is_said(scanner, tmp_path):
    for look in (scanner.history, scanner.staged):
        with pytest.raises(NoRepository):
            list(look(str(tmp_path)))


def test_a_damaged_pack_is_no_silence(scanner, repository):
    repository.commit(a=os.urandom(90_000).hex())
    repository.git("gc", "-q")
    (pack,) = (repository.folder / ".git" / "objects" / "pack").glob("*.pack")
    content = bytearray(pack.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    pack.chmod(0o600)
    pack.write_bytes(content)
    with pytest.raises(NoRepository):
        list(scanner.history(str(repository.folder)))


def test_a_git_that_ends_early_is_no_silence(scanner, repository, tmp_path, monkeypatch):
    repository.commit(a=TOKEN)
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *cat-file*) exit 3;; esac\nexec {shutil.which("git")} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    with pytest.raises(NoRepository, match="not every object could be read"):
        list(scanner.history(str(repository.folder)))


def test_an_object_that_cannot_be_read_is_no_silence(scanner, repository):
    repository.commit(a=TOKEN)
    name = repository.git("rev-parse", "HEAD:a")
    lost = repository.folder / ".git" / "objects" / name[:2] / name[2:]
    lost.chmod(0o600)
    lost.write_bytes(b"damaged")
    with pytest.raises(NoRepository):
        list(scanner.history(str(repository.folder)))


def test_staged_is_what_the_next_commit_would_have_and_nothing_else(scanner, repository):
    repository.commit(old=f"{TOKEN}\n", gone=f"{TOKEN}", kept="x")
    (repository.folder / "new file").write_text(f"\n\n{SECOND}")
    (repository.folder / "kept").write_text("y")
    repository.git("add", "new file", "kept")
    repository.git("rm", "-q", "gone")
    (repository.folder / "new file").write_text("clean again, and not staged")
    (repository.folder / "never staged").write_text(TOKEN)
    assert places(scanner.staged(str(repository.folder))) == [("new file", 3, "tok_two")]
    assert places(scanner.staged(str(repository.folder), ("kept",))) == []


def test_the_first_commit_of_a_repository_can_be_looked_at(scanner, repository):
    (repository.folder / "a").write_text(TOKEN)
    repository.git("add", "a")
    assert places(scanner.staged(str(repository.folder))) == [("a", 1, "tok_one")]


def test_as_a_hook_it_stops_the_commit_and_prints_no_token(repository, tmp_path):
    (tmp_path / "jwks.json").write_text(json.dumps(RING.jwks()))
    hook = repository.folder / ".git" / "hooks" / "pre-commit"
    run = f"PYTHONPATH={ROOT} exec {sys.executable} -m gateway scan --staged --jwks {tmp_path}/jwks.json"
    hook.write_text(f"#!/bin/sh\n{run}\n")
    hook.chmod(0o755)
    repository.commit(a="clean")
    (repository.folder / "a").write_text(TOKEN)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        repository.git("commit", "-q", "-a", "-m", "leak")
    assert refused.value.returncode == 1
    assert "a:1: tok_one unknown" in refused.value.stdout + refused.value.stderr
    assert TOKEN.split(".")[1] not in refused.value.stdout + refused.value.stderr


def test_the_hook_that_is_offered_calls_the_command():
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    assert "entry: invoca-gateway scan --staged" in text
    assert "pass_filenames: false" in text


# --- keys


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("http://gateway.example.com/jwks", "is not https"),
        ("https://user@gateway.example.com/", "is not an address"),
        ("http://[", "is not an address"),
        ("https://", "is not an address"),
        ("/nowhere/at/all", "cannot be read"),
    ],
)
def test_keys_come_from_a_file_or_a_safe_place(where, says):
    with pytest.raises(ValueError, match=says):
        keys_from(where)


class Served(BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, bytes]]

    def do_GET(self) -> None:
        status, body = self.answers[self.path]
        self.send_response(status)
        self.send_header("Location", "/jwks")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_keys_are_fetched_and_neither_redirected_nor_endless(monkeypatch):
    monkeypatch.setattr(scan, "MAX_JWKS", 10_000)
    Served.answers = {
        "/jwks": (200, json.dumps(RING.jwks()).encode()),
        "/moved": (302, b""),
        "/long": (200, b" " * 10_001),
        "/page": (200, b"<html>"),
    }
    server = HTTPServer(("127.0.0.1", 0), Served)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        assert keys_from(url + "/jwks").public_keys == RING.public_keys
        for path, says in (
            ("/moved", "answered with 302"),
            ("/long", "too long"),
            ("/page", "not a JWK Set"),
        ):
            with pytest.raises(ValueError, match=says):
                keys_from(url + path)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(ValueError, match="cannot be fetched"):
        keys_from(url + "/jwks")


# --- the command


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with Programs(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    "words",
    [[], ["."], ["--staged"], ["--staged", "-", "--jwks", "x"], [".", "--jwks", "x", "--config", "y"],
     [".", "--jwks", "x", "--mark"], ["nowhere", "--jwks", "x"], [".", "--jwks", "nowhere"]],
    ids=" ".join,
)  # fmt: skip
def test_what_is_asked_wrongly_is_exit_2(programs, words):
    code, out, err = programs.run("scan", *words)
    assert (code, out) == (2, "")
    assert err.startswith("invoca-gateway: ")


def test_clean_is_0_found_is_1_and_no_repository_is_2(programs, tmp_path):
    (tmp_path / "jwks.json").write_text(json.dumps(RING.jwks()))
    place = tmp_path / "place"
    place.mkdir()
    words = ("scan", str(place), "--jwks", str(tmp_path / "jwks.json"))
    assert programs.run(*words) == (0, "", "nothing found\n")
    old = a_token("tok_old", expires_at=2_000)
    (place / f"a\n{TOKEN[:100]}").write_text(f"{TOKEN} {old}")
    code, out, err = programs.run(*words)
    assert (code, err) == (1, "2 found\n")
    assert out == f"{place}/a\\n[token]:1: tok_one unknown\n{place}/a\\n[token]:1: tok_old expired\n"
    assert programs.run(*words, "--history")[0] == 2


def test_a_state_comes_from_the_store_and_mark_marks(programs, tmp_path):
    site = Site(tmp_path, "http://127.0.0.1:9")
    manager = site.add_administrator(programs)
    gateway = site.serve(programs)
    made = {name: create(site.url, manager, scopes=["tokens:manage"]) for name in ("live", "deleted")}
    assert ask(site.url, f"/admin/api/tokens/{made['deleted']['id']}", manager, method="DELETE").status == 204
    log = tmp_path / "app.log"
    log.write_text("".join(f"{name} {it['token']}\n" for name, it in made.items()))

    def run(*more: str) -> tuple[int, str]:
        code, out, err = programs.run("scan", str(log), *more)
        assert not [it for it in made.values() if it["token"].split(".")[2] in out + err]
        return code, out

    live, deleted = made["live"]["id"], made["deleted"]["id"]
    config = ("--config", str(site.config))
    assert run(*config) == (1, f"{log}:1: {live} live, active\n{log}:2: {deleted} deleted\n")
    assert run("--jwks", f"{site.url}/.well-known/jwks.json")[1].startswith(f"{log}:1: {live} unknown\n")
    code, out = run(*config, "--mark", "--json")
    document = json.loads(out)
    first, second = document["findings"]
    assert (code, document["unread"], document["notes"]) == (1, [], [])
    assert set(first) == {"file", "line", "commit", "token", "state", "expires_at", "marked"}
    assert (first["state"], first["marked"]) == ("exposed", True)
    assert (second["state"], second["marked"]) == ("deleted", False)
    shown = ask(site.url, f"/admin/api/tokens/{live}", manager).json
    assert (shown["state"], shown["rotate_by"] is not None) == ("exposed", True)
    assert run(*config, "--mark") == (1, f"{log}:1: {live} live, exposed\n{log}:2: {deleted} deleted\n")
    assert gateway.stop() == 0


def test_standard_input_is_a_stream_like_any(tmp_path):
    (tmp_path / "jwks.json").write_text(json.dumps(RING.jwks()))
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "scan", "-", "--jwks", str(tmp_path / "jwks.json")],
        input=gzip.compress(INSIDE), capture_output=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, b"-:2: tok_one unknown\n")


def test_a_scan_makes_no_store_and_no_keys(programs, tmp_path):
    site = Site(tmp_path, "http://127.0.0.1:9")
    code, _, err = programs.run("scan", str(ROOT / "LICENSE"), "--config", str(site.config))
    assert code == 1
    assert "keys" in err
    assert sorted(it.name for it in tmp_path.iterdir() if not it.name.startswith("program-")) == [
        "config.toml"
    ]
