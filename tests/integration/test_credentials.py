"""Upstream credentials: set and listed without ever being shown, sealed at rest, replaced while a gateway runs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pty
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import cli
from gateway.config import Config, Secret, Store, Upstream
from gateway.credentials import Credentials, LiveCredentials
from gateway.demo import NETWORK
from gateway.store import open_store
from gateway.store.sealing import SealingKey, read_key
from gateway.tokens import PREFIX
from gateway.tomlfile import ConfigError
from tests.processes import NI, ROOT, Programs, Site, ask, create, eventually, recording_upstream

FIRST, SECOND = "first-upstream-credential-0001", "second-upstream-credential-0002"
NOTICED_S = 1.0
NEW_CONNECTIONS = 20


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with Programs(tmp_path) as made:
        yield made


def sealing_key(folder: Path, text: str | None = None, mode: int = 0o600) -> Path:
    file = folder / "credential.key"
    file.write_text(text or secrets.token_hex(32))
    file.chmod(mode)
    return file


class Sealed(Site):
    """A site whose credentials come from the store, but for those that `named` names."""

    def __init__(self, folder: Path, upstream: str, named: str = "", workers: int = 2) -> None:
        super().__init__(
            folder, upstream, listen=f"workers = {workers}", store='credential_key = { file = "credential.key" }'
        )  # fmt: skip
        text = self.config.read_text().replace('"network:33" = { env = "INVOCA_TOKEN_33" }', named)
        self.config.write_text(text)
        self.env = {}

    def credential(self, *words: str, given: str = "") -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patched,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
            code = cli.main(["credential", *words, "--config", str(self.config)])
        return code, out.getvalue(), err.getvalue()


@pytest.fixture
def site(tmp_path: Path) -> Sealed:
    sealing_key(tmp_path)
    return Sealed(tmp_path, "http://127.0.0.1:9")


# --- the commands


def test_a_credential_is_set_listed_replaced_and_deleted_and_never_shown(site):
    assert site.credential("set", "network:33", given=FIRST + "\n") == (0, "set: network:33\n", "")
    code, out, err = site.credential("list")
    assert (code, err) == (0, "")
    assert out.startswith("network:33  store  20")
    assert out.endswith("Z  usable\n")
    assert site.credential("set", "network:33", given=SECOND)[0] == 0
    assert site.credential("delete", "network:33") == (0, "deleted: network:33\n", "")
    assert site.credential("delete", "network:33") == (
        1,
        "",
        "the store keeps no credential for network:33\n",
    )
    assert site.credential("list", "--json") == (0, "", "")


def test_a_credential_is_asked_for_at_a_terminal_without_echo(site):
    ours, theirs = pty.openpty()
    try:
        program = subprocess.Popen(
            [sys.executable, "-m", "gateway", *site.command("credential", "set", "network:33")],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        seen = b""
        while b"Credential of network:33: " not in seen:
            seen += os.read(ours, 1024)
        time.sleep(0.2)  # the prompt is out before the echo is off
        os.write(ours, FIRST.encode() + b"\n")
        while b"set: network:33" not in seen:
            seen += os.read(ours, 1024)
        assert program.wait(10) == 0
        assert FIRST.encode() not in seen
    finally:
        os.close(ours)


def test_a_credential_on_the_command_line_is_refused_and_not_repeated(site):
    code, out, err = site.credential("set", "network:33", FIRST)
    assert (code, out) == (2, "")
    assert "never from the command line" in err
    assert FIRST not in err


@pytest.mark.parametrize("given", ["", "\n", "with\nline", "ünsafe", "x" * 5_000, PREFIX + "x"])
def test_what_can_be_no_upstream_credential_is_refused_and_not_repeated(site, given):
    code, out, err = site.credential("set", "network:33", given=given)
    assert (code, out) == (1, "")
    assert not given.strip() or given not in err


@pytest.mark.parametrize("account", ["33", "planet:33", "network:", "network:3\n3"])
def test_an_account_that_cannot_be_is_exit_2(site, account):
    assert site.credential("set", account, given=FIRST)[0] == 2


def test_an_account_that_the_configuration_names_is_not_set_in_the_store(tmp_path):
    sealing_key(tmp_path)
    site = Sealed(tmp_path, "http://127.0.0.1:9", named='"network:33" = { file = "token" }')
    code, _, err = site.credential("set", "network:33", given=FIRST)
    assert (code, "comes first: remove it there" in err) == (1, True)
    assert "network:33  file" in site.credential("list")[1]


# --- the sealing key


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (None, 0o644, "can be read by group or others: chmod 0600"),
        (None, 0o660, "can be read by group or others: chmod 0600"),
        ("", 0o600, "is empty or not set"),
        ("tooshort", 0o600, "is not a key of 32 bytes"),
        ("00" * 32, 0o600, "is a weak key"),
        (bytes(range(32)).hex(), 0o600, "is a weak key"),
        (b"correct horse battery staple 123".hex(), 0o600, "is a weak key"),
        ("deadbeef" * 8, 0o600, "is a weak key"),
    ],
)  # fmt: skip
def test_a_key_that_is_missing_weak_or_readable_by_others_is_refused(
    site, programs, tmp_path, text, mode, says
):
    file = sealing_key(tmp_path, text or None, mode)
    if text is not None:
        file.write_text(text)
    code, out, err = site.credential("set", "network:33", given=FIRST)
    assert (code, out) == (1, "")
    assert err.startswith(f"store.credential_key: file {file} {says}")
    assert not text or text not in err
    code, _, err = programs.run(*site.command("check"))
    assert code == 1
    assert f"{site.config}:18: store.credential_key: file {file} {says}" in err


def test_without_any_key_nothing_is_set_and_what_is_kept_keeps_the_gateway_from_starting(
    site, programs, tmp_path
):
    site.credential("set", "network:33", given=FIRST)
    text = site.config.read_text()
    site.config.write_text(text.replace('credential_key = { file = "credential.key" }', ""))
    assert site.credential("set", "network:33", given=FIRST)[2].startswith(
        "store.credential_key has to be set"
    )
    code, _, err = programs.run(*site.command("serve"))
    assert code == 1
    assert "upstream.credentials.network:33: store.credential_key is not set" in err
    site.config.write_text(text)
    (tmp_path / "credential.key").unlink()
    assert "cannot be read: No such file" in programs.run(*site.command("serve"))[2]
    sealing_key(tmp_path)
    code, _, err = programs.run(*site.command("serve"))
    assert (code, "Traceback" in err) == (1, False)
    assert "network:33: was not sealed with this key" in err
    assert "was not sealed with this key" in site.credential("list")[1]


def test_a_key_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SEALING", secrets.token_hex(32))
    read_key(Secret(env="SEALING"))
    monkeypatch.setenv("SEALING", "weak")
    with pytest.raises(LookupError, match="environment variable SEALING is not a key"):
        read_key(Secret(env="SEALING"))


def test_a_key_file_of_another_user_or_no_file_is_refused(tmp_path):
    file = sealing_key(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(LookupError, match="cannot be read"):
        read_key(Secret(file=str(tmp_path / "folder")))
    if os.geteuid() == 0:
        os.chown(file, 12_345, -1)
        with pytest.raises(LookupError, match="belongs to another user"):
            read_key(Secret(file=str(file)))


# --- while a gateway runs


def carried(site: Site, upstream, token: str) -> set[bytes]:
    """The credentials that requests on new connections carried."""
    seen = set()
    for _ in range(NEW_CONNECTIONS):
        assert ask(site.url, NI, token).status == 200
        seen |= set(upstream.fields(b"authorization"))
    return seen


def reader(site: Site, programs: Programs) -> str:
    """A token that reads the network, made before the gateway is asked anything."""
    return create(site.url, site.manager, scopes=["network:read"])["token"]


def noticed(site: Site, upstream, token: str, credential: str) -> None:
    """Every worker uses the credential, and none goes back, a second after it was set."""
    time.sleep(NOTICED_S)
    assert carried(site, upstream, token) == {credential.encode()}


def test_a_credential_in_the_store_is_replaced_in_every_worker_within_a_second(programs, tmp_path):
    sealing_key(tmp_path)
    with recording_upstream() as upstream:
        site = Sealed(tmp_path, upstream.url)
        assert site.credential("set", "network:33", given=FIRST)[0] == 0
        site.manager = site.add_administrator(programs)
        gateway = site.serve(programs)
        token = reader(site, programs)
        assert carried(site, upstream, token) == {
            FIRST.encode()
        }  # and so worked out, and kept, by every worker
        for pid in (gateway.pid, *gateway.children()):
            for name in ("cmdline", "environ"):
                assert FIRST.encode() not in (Path("/proc") / str(pid) / name).read_bytes()
        assert site.credential("set", "network:33", given=SECOND)[0] == 0
        noticed(site, upstream, token, SECOND)
        assert site.credential("delete", "network:33")[0] == 0
        time.sleep(NOTICED_S)
        assert {ask(site.url, NI, token).verdict for _ in range(NEW_CONNECTIONS)} == {
            (503, "no-upstream-credential")
        }
        assert gateway.stop() == 0
        assert "credentials-changed: network:33" in gateway.stderr
        shown = gateway.stdout + gateway.stderr
        kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        for credential in (FIRST, SECOND):
            assert credential not in shown
            assert credential.encode() not in kept


def test_a_credential_in_a_file_is_replaced_in_every_worker_within_a_second(programs, tmp_path):
    sealing_key(tmp_path)
    file = tmp_path / "token"
    file.write_text(FIRST)
    with recording_upstream() as upstream:
        site = Sealed(tmp_path, upstream.url, named='"network:33" = { file = "token" }')
        site.manager = site.add_administrator(programs)
        gateway = site.serve(programs)
        token = reader(site, programs)
        assert carried(site, upstream, token) == {FIRST.encode()}
        (tmp_path / "next").write_text(SECOND)
        (tmp_path / "next").rename(file)
        noticed(site, upstream, token, SECOND)
        file.unlink()
        noticed(site, upstream, token, SECOND)  # better than none
        eventually(lambda: "credential-unusable" in gateway.stderr, "an alarm")
        metrics = ask(site.url, "/metrics").body.decode()
        assert "invoca_gateway_credential_alarms 1\n" in metrics
        file.write_text(FIRST)
        noticed(site, upstream, token, FIRST)
        assert gateway.stop() == 0
        assert gateway.stderr.count("credential-unusable") == 2  # once in each of the two workers


# --- what the store keeps


async def kept(tmp_path: Path, key: Path) -> tuple[Config, LiveCredentials]:
    store = await open_store(Store(path=str(tmp_path / "db")), time.time)
    sealing = read_key(Secret(file=str(key)))
    for account, text in (("network:33", FIRST), ("advertiser:706", SECOND)):
        await store.set_credential(account, sealing.seal(account, text), at=1_000)
    config = Config(
        public_url="http://127.0.0.1:1",
        upstream=Upstream(url="http://127.0.0.1:9"),
        store=Store(path=str(tmp_path / "db"), credential_key=Secret(file=str(key))),
    )
    return config, await LiveCredentials.open(config, store)


async def test_a_credential_that_was_moved_to_another_account_opens_for_nobody(tmp_path, caplog):
    _, live = await kept(tmp_path, sealing_key(tmp_path))
    try:
        assert dict(live.credentials.by_account) == {"network:33": FIRST, "advertiser:706": SECOND}
        other = sqlite3.connect(tmp_path / "db")
        other.execute(
            "UPDATE credentials SET sealed = (SELECT sealed FROM credentials WHERE account = 'network:33')"
        )
        other.commit()
        other.close()
        await live.refresh()
        assert dict(live.credentials.by_account) == {"network:33": FIRST, "advertiser:706": SECOND}
        assert live.alarms == 1
        assert "advertiser:706: was not sealed with this key for this account" in caplog.text
        with pytest.raises(ConfigError, match="advertiser:706: was not sealed"):
            await LiveCredentials.open(_with_same(live), live._store)
    finally:
        await live._store.close()


def _with_same(live: LiveCredentials) -> Config:
    return Config(
        public_url="http://127.0.0.1:1",
        upstream=Upstream(url="http://127.0.0.1:9"),
        store=Store(credential_key=live._key),
    )


async def test_a_store_that_cannot_answer_leaves_the_credentials_as_they_were(tmp_path):
    _, live = await kept(tmp_path, sealing_key(tmp_path))
    await live._store.close()
    await live.refresh()
    assert live.credentials.of(NETWORK) == FIRST


async def test_nothing_that_holds_a_credential_prints_it(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    config, live = await kept(tmp_path, sealing_key(tmp_path))
    try:
        rows = await live._store.credentials()
        found = await live._look()
        for shown in (config, live, live.credentials, rows, found, SealingKey(b"k" * 32), caplog.text):
            for secret in (FIRST, SECOND, "kkkk", (tmp_path / "credential.key").read_text()):
                assert secret not in repr(shown)
    finally:
        await live._store.close()


# --- when the vendor refuses ours


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])
async def test_an_upstream_that_refuses_our_credential_is_502_and_an_alarm(start, upstream, caplog, fast):
    from gateway.config import Listen

    gateway = await start(
        upstream.port,
        credentials=Credentials({NETWORK.key: "a-wrong-credential-0003"}, lend_network=True),
        listen=Listen(fast_path=fast),
    )
    for _ in range(3):
        answer = await gateway.get(NI, "network")
        assert (answer.status, answer.problem) == (502, "upstream-refused-us")
        assert "WWW-Authenticate" not in answer.headers
    assert (
        caplog.text.count("upstream-refused-us: the upstream does not accept the credential for network:33")
        == 1
    )
    assert "a-wrong-credential-0003" not in caplog.text + answer.body.decode()
    metrics = (await gateway.get("/metrics")).body.decode()
    assert 'invoca_gateway_alarms_total{event="upstream-refused-us"} 3\n' in metrics
    gateway.clock.advance(61)
    await gateway.get(NI, "network")
    assert caplog.text.count("upstream-refused-us: the upstream") == 2
