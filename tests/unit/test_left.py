"""The look through what the suite leaves behind: what it finds, what it takes for nothing, and that the run fails."""

from __future__ import annotations

import base64
import gzip
import os
import re
import secrets
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import tokens
from tests.left import Left
from tests.processes import ROOT

SECRET = "Zk3vQ0c1n9uXw2b7RrT5yLmE8aSdFgHjKpOiUqWeNzM"
JTI = tokens.new_jti()
TOKEN = tokens.mint(
    tokens.Keyring(tokens.generate_key(), ()), issuer="https://x.example", audience="https://x.example",
    owner_id="usr_1", token_id="tok_1", jti=JTI, issued_at=1, expires_at=2, scopes=("network:read",),
)  # fmt: skip


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the run itself does not look through."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def faults(folder: Path, *handed: str) -> list[str]:
    left = Left(folder)
    for text in handed:
        left.handed(text, "a secret of this test")
    left.look_below(folder)
    return left.found()


def database(path: Path, value: object) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (a, b)")
        db.execute("INSERT INTO t VALUES ('beside', ?)", (value,))
    db.close()


@pytest.mark.parametrize(
    "value", [SECRET, f"it is {SECRET}!", SECRET.encode(), SECRET[:24], "x" * 9000 + SECRET]
)
def test_a_secret_in_a_database_is_found(place, value):
    database(place / "any.name", value)
    assert faults(place, SECRET) == ["any.name: a secret of this test"]


def test_a_secret_that_was_deleted_from_a_database_is_found(place):
    database(place / "gateway.sqlite3", SECRET)
    with sqlite3.connect(place / "gateway.sqlite3") as db:
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("DELETE FROM t")
    db.close()
    assert faults(place, SECRET)


def test_a_secret_in_a_write_ahead_log_is_found_while_it_is_there(place):
    db = sqlite3.connect(place / "gateway.sqlite3")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE t (a)")
    db.execute("INSERT INTO t VALUES (?)", (SECRET,))
    db.commit()
    left = Left(place)
    left.handed(SECRET, "it")
    left.look_now(str(place / "gateway.sqlite3"))
    db.close()
    assert left.found() == ["gateway.sqlite3-wal: it"]


@pytest.mark.parametrize("name", ["records.jsonl", "records.jsonl.1", "stderr", "gateway-0.stderr"])
def test_a_secret_in_a_record_or_a_log_is_found(place, name):
    (place / name).write_text(f'{{"note": "{SECRET}"}}\n')
    assert faults(place, SECRET) == [f"{name}: a secret of this test"]


def test_a_secret_in_a_packed_record_is_found(place):
    (place / "records.jsonl.1.gz").write_bytes(gzip.compress(SECRET.encode()))
    assert faults(place, SECRET)


@pytest.mark.parametrize(
    "spelled",
    [
        TOKEN.encode(),
        TOKEN.encode("utf-16-le"),
        TOKEN.encode().hex().encode(),
        base64.b64encode(TOKEN.encode()),
    ],
    ids=["plain", "UTF-16", "hexadecimal", "base64"],
)
def test_a_token_is_found_in_every_spelling_though_nobody_said_it_was_handed_out(place, spelled):
    (place / "stderr").write_bytes(b"a line " + spelled + b"\n")
    assert faults(place) == ["stderr: something with the form of a token"]


@pytest.mark.parametrize("text", ["$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA", "-----BEGIN PRIVATE KEY-----"])
def test_a_hash_of_a_password_or_a_key_is_nothing_for_a_record(place, text):
    (place / "records.jsonl").write_text(text)
    assert faults(place) == ["records.jsonl: a hash of a password, or a key"]


def test_of_a_token_its_id_and_its_signature_are_secrets_too():
    left = Left()
    left.handed(TOKEN, "it")
    assert left.handed_out.keys() == {JTI.encode(), TOKEN.rpartition(".")[2][:24].encode()}


def test_what_nobody_handed_out_and_what_no_gateway_wrote_is_nothing(place):
    database(place / "gateway.sqlite3", "tok_" + SECRET)
    (place / "app.txt").write_text(SECRET)
    assert not faults(place, "another secret that is long enough")
    (place / "gateway.sqlite3").unlink()
    assert not faults(place, SECRET)


def test_doors_know_what_is_handed_over_there():
    left = Left()
    left.said(SECRET)
    left.said('{"users": {"a": {"password": "chosen by a demo"}}, "tokens": [{"id": "tok_0123456789ab"}]}')
    left.said(f"created: {SECRET[::-1]}")
    assert [*left.handed_out] == [SECRET[:24].encode(), b"chosen by a demo"]


@pytest.mark.parametrize(
    ("workers", "written"),
    [([], True), (["-p", "xdist", "-n", "1"], True), ([], False)],
    ids=["one process", "xdist", "nothing left"],
)
def test_a_run_that_leaves_a_secret_fails_and_says_where(place, workers, written):
    (place / "pytest.ini").write_text("[pytest]\n")
    what = "secrets.token_urlsafe(16)" if written else "secrets.token_urlsafe(9)"
    (place / "test_it.py").write_text(
        f"import secrets\ndef test_it(tmp_path):\n    (tmp_path / 'stderr').write_text({what})\n"
    )
    run = [sys.executable, "-m", "pytest", "-p", "tests.left", "-p", "no:cacheprovider", "-q", *workers]
    done = subprocess.run(
        [*run, "--rootdir", str(place), "--basetemp", str(place / "left"), str(place / "test_it.py")],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == (1 if written else 0), done.stdout
    assert bool(re.search("SECRETS WERE LEFT BEHIND", done.stdout)) is written
    assert ("stderr: a secret drawn in this process" in done.stdout) is written


def test_what_is_drawn_to_be_secret_here_is_known():
    from tests.left import LEFT

    assert secrets.token_urlsafe(32)[:24].encode() in LEFT.handed_out
    assert secrets.token_urlsafe(12).encode() not in LEFT.handed_out
