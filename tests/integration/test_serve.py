"""`serve` as it runs for real: a configuration file, processes, signals, sockets, and a store on the disk."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.processes import (
    NI,
    UPSTREAM_TOKEN,
    Program,
    Programs,
    RecordingUpstream,
    Site,
    alive,
    ask,
    create,
    delete,
    eventually,
    free_port,
    recording_upstream,
)

NETWORK_READ = ["network:read"]


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with Programs(tmp_path) as made:
        yield made


@pytest.fixture
def upstream() -> Iterator[RecordingUpstream]:
    with recording_upstream() as made:
        yield made


@dataclass
class Served:
    """A site that serves, with the bootstrap token of its administrator."""

    site: Site
    program: Program
    bootstrap: str

    @property
    def url(self) -> str:
        return self.site.url


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A store and keys to begin with: their folder, the port they are for, an administrator's bootstrap token."""
    folder = tmp_path_factory.mktemp("people")
    with Programs(folder) as programs:
        site = Site(folder, "http://127.0.0.1:9")
        return folder, site.port, site.add_administrator(programs)


@pytest.fixture
def serve(
    tmp_path: Path, programs: Programs, upstream: RecordingUpstream, people: tuple[Path, int, str]
) -> Callable[..., Served]:
    """Serve a fresh site; `tables` are lines for tables of its configuration."""

    def start(**tables: str) -> Served:
        folder, port, bootstrap = people
        shutil.copytree(folder / "keys", tmp_path / "keys")
        for file in folder.glob("gateway.sqlite3*"):
            shutil.copy(file, tmp_path)
        site = Site(tmp_path, upstream.url, port=port, **tables)
        return Served(site, site.serve(programs), bootstrap)

    return start


def test_a_bootstrap_token_is_alone_on_standard_output(tmp_path, programs):
    text = Site(tmp_path, "http://127.0.0.1:9").add_administrator(programs)
    assert re.fullmatch(r"eyJhbGciOiJFZERTQSIsImtpZCI6Iml2Zy[\w-]+\.[\w-]+\.[\w-]+", text)


def test_a_bootstrap_token_opens_nothing_but_the_making_of_tokens(serve, upstream):
    served = serve()
    assert ask(served.url, NI, served.bootstrap).verdict == (403, "insufficient-scope")
    assert not upstream.heads


def test_what_a_bootstrap_token_made_works_and_lives_on_without_it(serve, upstream):
    served = serve()
    own = create(served.url, served.bootstrap, scopes=NETWORK_READ)
    bootstrap_id = ask(served.url, "/admin/api/tokens?state=active", served.bootstrap).json["tokens"][-1][
        "id"
    ]
    assert delete(served.url, served.bootstrap, bootstrap_id).status == 204
    assert ask(served.url, NI, served.bootstrap).verdict == (401, "invalid-token")
    assert ask(served.url, NI, own["token"]).status == 200
    assert upstream.fields(b"authorization") == [UPSTREAM_TOKEN.encode()]


def test_what_a_bootstrap_token_made_is_not_cut_to_its_one_hour(serve):
    served = serve()
    own = create(served.url, served.bootstrap, expires_in=30 * 86_400)
    left = datetime.fromisoformat(own["expires_at"]) - datetime.now(UTC)
    assert left > timedelta(days=29)


def test_a_restart_forgets_no_token_and_no_deletion(serve, programs):
    served = serve()
    kept, gone = (create(served.url, served.bootstrap, scopes=NETWORK_READ) for _ in range(2))
    assert delete(served.url, served.bootstrap, gone["id"]).status == 204
    assert served.program.stop() == 0
    served.site.serve(programs)
    assert ask(served.url, NI, kept["token"]).status == 200
    assert ask(served.url, NI, gone["token"]).verdict == (401, "invalid-token")


# --- stopping


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_without_anything_under_way_is_quick_and_quiet(tmp_path, programs, workers, stop):
    program = Site(tmp_path, "http://127.0.0.1:9", listen=f"workers = {workers}").serve(programs)
    assert program.stop(stop, within_s=5.0) == 0
    assert "Traceback" not in program.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_from_the_terminal_reaches_every_process_and_ends_as_well(tmp_path, programs, workers):
    program = Site(tmp_path, "http://127.0.0.1:9", listen=f"workers = {workers}").serve(programs)
    os.killpg(program.pid, signal.SIGINT)
    assert program.wait(5.0) == 0
    assert "Traceback" not in program.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_finishes_what_is_under_way_and_takes_nothing_new(serve, upstream, workers):
    served = serve(listen=f"workers = {workers}")
    token = create(served.url, served.bootstrap, scopes=NETWORK_READ)["token"]
    upstream.go_on.clear()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(ask, served.url, NI, token)
        eventually(lambda: upstream.heads, "the slow request is under way")
        served.program.send(signal.SIGTERM)
        eventually(lambda: not connects(served.site.port), "new connections are refused", 5.0)
        assert not slow.done()
        upstream.go_on.set()
        assert (slow.result(10).status, slow.result().body) == (200, b"[]")
    assert served.program.wait(5.0) == 0


def test_a_stop_waits_no_longer_than_the_configuration_says(serve, upstream):
    served = serve(limits="drain_timeout_s = 0.5")
    token = create(served.url, served.bootstrap, scopes=NETWORK_READ)["token"]
    upstream.go_on.clear()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(ask, served.url, NI, token)
        eventually(lambda: upstream.heads, "the slow request is under way")
        assert served.program.stop(within_s=5.0) == 0
        with pytest.raises((http.client.HTTPException, OSError)):
            slow.result(10)


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError:
        return False
    return True


# --- slow readers


@pytest.mark.parametrize("way", ["true", "false"], ids=["short", "general"])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_what_waits_for_slow_readers_is_held_once(serve, upstream, way):
    served = serve(listen=f"fast_path = {way}")
    token = create(served.url, served.bootstrap, scopes=NETWORK_READ)["token"]
    assert ask(served.url, NI, token).status == 200
    upstream.filling = b", ".join([b'"' + b"x" * 98 + b'"'] * 80_000)
    before, readers = resident_mb(served.program.pid), 24
    with ExitStack() as stack:
        for _ in range(readers):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", served.site.port))
            client.sendall(f"GET {NI} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            assert client.recv(12) == b"HTTP/1.1 200"
        most = 0.0
        for _ in range(20):
            time.sleep(0.1)
            most = max(most, resident_mb(served.program.pid))
    # Of 8 MB each, about 0.9: a piece that is being sent, and one that waits. Held four times it was 1.7.
    assert most - before < 1.3 * readers


def resident_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


# --- workers


def test_two_workers_serve_one_port_and_share_what_is_made_and_deleted(serve):
    served = serve(listen="workers = 2")
    assert len(served.program.children()) == 2
    made = create(served.url, served.bootstrap, scopes=NETWORK_READ)
    assert {ask(served.url, NI, made["token"]).status for _ in range(20)} == {200}
    assert delete(served.url, served.bootstrap, made["id"]).status == 204
    assert {ask(served.url, NI, made["token"]).status for _ in range(20)} == {401}


def test_a_killed_worker_is_replaced_and_service_goes_on(serve):
    served = serve(listen="workers = 2")
    token = create(served.url, served.bootstrap, scopes=NETWORK_READ)["token"]
    first, second = served.program.children()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not alive(first), "the worker is gone")
    assert {ask(served.url, NI, token).status for _ in range(10)} == {200}
    eventually(lambda: len(served.program.children()) == 2, "another worker is there", 10.0)
    os.kill(second, signal.SIGKILL)
    eventually(lambda: not alive(second), "the other worker is gone")
    eventually(lambda: connects(served.site.port), "the new worker takes connections", 10.0)
    assert {ask(served.url, NI, token).status for _ in range(10)} == {200}
    assert "worker-died: exit code -9" in served.program.stderr
    assert served.program.stop() == 0


def test_workers_do_not_outlive_the_process_that_started_them(serve):
    program = serve(listen="workers = 2").program
    os.kill(program.pid, signal.SIGKILL)
    program.wait(5.0)


# --- listeners


def test_admin_and_operations_answer_on_their_own_ports_alone(serve):
    admin, operations = free_port(), free_port()
    served = serve(admin=f"port = {admin}", operations=f"port = {operations}")
    where = {"admin": f"http://127.0.0.1:{admin}", "operations": f"http://127.0.0.1:{operations}"}
    made = create(where["admin"], served.bootstrap, scopes=NETWORK_READ)
    assert ask(where["operations"], "/readyz").status == 200
    assert ask(served.url, NI, made["token"]).status == 200
    for path in ("/admin/api/tokens", "/healthz", "/readyz", "/metrics"):
        assert ask(served.url, path, served.bootstrap).verdict == (404, "not-found")
    for elsewhere in where.values():
        assert ask(elsewhere, NI, made["token"]).verdict == (404, "not-found")
    assert ask(where["admin"], "/metrics").status == 404
    assert ask(where["operations"], "/admin/api/tokens", served.bootstrap).status == 404


def test_two_workers_share_the_side_listeners_as_well(serve):
    admin = free_port()
    served = serve(listen="workers = 2", admin=f"port = {admin}")
    url = f"http://127.0.0.1:{admin}"
    assert {ask(url, "/admin/api/tokens", served.bootstrap).status for _ in range(20)} == {200}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a gateway of the tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tls_listener_speaks_tls_and_nothing_else(tmp_path, programs, upstream, certificate, workers):
    cert, key = certificate
    lines = f'workers = {workers}\ntls_certificate = "{cert}"\ntls_key = "{key}"'
    site = Site(tmp_path, upstream.url, scheme="https", listen=lines)
    bootstrap = site.add_administrator(programs)
    site.serve(programs)
    trusting = ssl.create_default_context(cafile=str(cert))
    assert ask(site.url, "/gateway/token", bootstrap, tls=trusting).status == 200
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(site.url.replace("https", "http"), "/gateway/token", bootstrap)


# --- reasons not to start


def test_a_missing_upstream_credential_is_a_reason_not_to_start(tmp_path, programs):
    site = Site(tmp_path, "http://127.0.0.1:9")
    code, out, err = programs.run(*site.command("serve"), env={"INVOCA_TOKEN_33": ""})
    assert (code, out) == (1, "")
    assert "upstream.credentials.network:33: environment variable INVOCA_TOKEN_33" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("which", ["folder", "file"])
def test_signing_keys_that_others_can_read_are_a_reason_not_to_start(tmp_path, programs, workers, which):
    site = Site(tmp_path, "http://127.0.0.1:9", listen=f"workers = {workers}")
    site.add_administrator(programs)
    keys = tmp_path / "keys"
    spoilt = keys if which == "folder" else next(keys.glob("*.pem"))
    spoilt.chmod(0o755 if which == "folder" else 0o644)
    code, out, err = programs.run(*site.command("serve"), env=site.env)
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"{re.escape(str(spoilt))}: .*group or others.*chmod 0[67]00.*\n", err)


def test_a_port_that_is_taken_is_a_reason_not_to_start(tmp_path, programs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        site = Site(tmp_path, "http://127.0.0.1:9", port=taken.getsockname()[1])
        code, out, err = programs.run(*site.command("serve"), env=site.env)
    assert (code, out) == (1, "")
    assert "in use" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("workers", [1, 2])
def test_a_certificate_that_is_none_is_a_reason_not_to_start(tmp_path, programs, workers):
    (tmp_path / "cert.pem").write_text("not a certificate")
    lines = f'workers = {workers}\ntls_certificate = "cert.pem"\ntls_key = "cert.pem"'
    site = Site(tmp_path, "http://127.0.0.1:9", scheme="https", listen=lines)
    code, out, err = programs.run(*site.command("serve"), env=site.env)
    assert (code, out) == (1, "")
    assert err == "configuration: listen.tls_certificate: certificate and key cannot be used: SSLError\n"


# --- the store while another process holds it


def test_a_store_locked_by_another_process_is_read_and_refuses_changes(serve, tmp_path):
    served = serve(store="busy_timeout_s = 0.3")
    made = create(served.url, served.bootstrap, scopes=NETWORK_READ)
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert ask(served.url, NI, made["token"]).status == 200
        assert time.monotonic() - began < 0.3
        refused = delete(served.url, served.bootstrap, made["id"])
        assert refused.verdict == (503, "store-unavailable")
        assert ask(served.url, NI, made["token"]).status == 200
        other.execute("ROLLBACK")
    assert delete(served.url, served.bootstrap, made["id"]).status == 204
    assert ask(served.url, NI, made["token"]).verdict == (401, "invalid-token")


def test_a_damaged_store_accepts_nobody_and_says_what_is_wrong(serve, programs, tmp_path, upstream):
    served = serve()
    made = create(served.url, served.bootstrap, scopes=NETWORK_READ)
    assert ask(served.url, NI, made["token"]).status == 200
    assert served.program.stop() == 0
    path = tmp_path / "gateway.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        # What is read at the start stays whole: it is a damage that shows later.
        whole = "('generation', 'answers', 'credentials')"
        sql = f"SELECT rootpage FROM sqlite_schema WHERE rootpage > 0 AND tbl_name NOT IN {whole}"
        roots = [page for (page,) in db.execute(sql)]
    with path.open("r+b") as file:
        for page in roots:
            file.seek((page - 1) * 4096)
            file.write(b"\xa5" * 4096)
    program, before = served.site.serve(programs), len(upstream.heads)
    for token in (made["token"], served.bootstrap):
        assert ask(served.url, NI, token).verdict == (503, "store-unavailable")
    for path in ("/admin/api/tokens", "/gateway/token"):
        assert ask(served.url, path, served.bootstrap).verdict == (503, "store-unavailable")
    assert ask(served.url, NI, made["token"][:-9] + "AAAAAAAAA").verdict == (401, "invalid-token")
    assert len(upstream.heads) == before
    assert "store-unavailable operation=find cause='damaged'" in program.stderr


def test_neither_a_credential_nor_a_token_is_in_what_serve_writes(serve, tmp_path):
    served = serve()
    made = create(served.url, served.bootstrap, scopes=NETWORK_READ)
    assert ask(served.url, NI, made["token"]).status == 200
    assert served.program.stop() == 0
    written = served.program.stdout + served.program.stderr + (tmp_path / "records.jsonl").read_text()
    for secret in (made["token"], served.bootstrap, UPSTREAM_TOKEN):
        assert secret not in written
