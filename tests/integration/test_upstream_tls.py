"""TLS to the upstream: who is believed, what is offered, and that an end without close_notify is a cut."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.upstream import Stats, Upstream
from tests.upstream import (
    GET,
    OK,
    Peer,
    RawUpstream,
    a_pool,
    answers,
    both_loops,
    fetch,
    refused,
    says_and_closes,
)

CUT_BODY = b"HTTP/1.1 200 OK\r\n\r\npart"


class Authority:
    """A certificate authority of our own, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._signed(self.name, self.key, (x509.BasicConstraints(True, None), True))
        self.file = str(folder / "ca.pem")
        (folder / "ca.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, *names, days: int = 1) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
        alternatives = [
            x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
            for name in names
        ]
        certificate = self._signed(
            subject, key, (x509.SubjectAlternativeName(alternatives), False), days=days
        )
        file = self.folder / "server.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _signed(self, subject, key, extension, days: int = 1) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * day)
            .not_valid_after(now + days * day)
            .add_extension(extension[0], critical=extension[1])
            .sign(self.key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@both_loops
async def test_a_verified_upstream_answers_and_its_connection_is_reused(authority):
    seen = []
    tls = authority.server("localhost")
    tls.set_alpn_protocols(["h2", "http/1.1"])
    tls.sni_callback = lambda _socket, name, _context: seen.append(name)

    async def script(peer: Peer) -> None:
        seen.append(peer._writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await answers(OK)(peer)

    async with RawUpstream(script, tls) as raw, a_pool(raw.url, ca_file=authority.file) as upstream:
        for _ in range(3):
            assert await fetch(upstream) == (200, b"ok")
        assert upstream.stats() == Stats(1, 1, 0)
        assert seen == ["localhost", "http/1.1"]


async def plainly(peer: Peer) -> None:
    await peer.read_some()
    await peer.say(OK)


@pytest.mark.parametrize(
    "why", ["another name", "an unknown authority", "expired", "too old a protocol", "no TLS at all"]
)
@both_loops
async def test_an_upstream_that_cannot_be_verified_gets_no_request(authority, why, caplog):
    tls = authority.server(
        "other.example" if why == "another name" else "localhost", days=-1 if why == "expired" else 1
    )
    if why == "too old a protocol":
        tls.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            tls.maximum_version = ssl.TLSVersion.TLSv1_1
        tls.set_ciphers("ALL:@SECLEVEL=0")
    ca_file = None if why == "an unknown authority" else authority.file
    if why == "no TLS at all":
        tls = None
    async with RawUpstream(plainly if tls is None else answers(OK), tls) as raw:
        url = f"https://localhost:{raw.port}"
        async with a_pool(url, ca_file=ca_file, connect_timeout_s=2) as upstream:
            problem = await refused(upstream)
            assert (problem.kind, problem.status) == ("upstream-unreachable", 502)
            assert upstream.stats() == Stats(0, 0, 0)
        assert raw.requests == []
    assert "localhost" not in problem.detail + caplog.text.split("gateway.upstream", 1)[1]


@both_loops
async def test_an_address_needs_a_certificate_for_that_address(authority):
    for name, fine in (("127.0.0.1", True), ("localhost", False)):
        async with (
            RawUpstream(answers(OK), authority.server(name)) as raw,
            a_pool(f"https://127.0.0.1:{raw.port}", ca_file=authority.file) as upstream,
        ):
            if fine:
                assert await fetch(upstream) == (200, b"ok")
            else:
                assert (await refused(upstream)).kind == "upstream-unreachable"


@both_loops
async def test_a_handshake_that_never_ends_is_a_timeout(authority):
    async def mute(peer: Peer) -> None:
        await peer.gone()

    async with RawUpstream(mute) as raw:
        url = f"https://localhost:{raw.port}"
        async with a_pool(url, ca_file=authority.file, connect_timeout_s=0.3) as upstream:
            assert (await refused(upstream)).kind == "upstream-timeout"
            assert upstream.stats() == Stats(0, 0, 0)


@both_loops
async def test_a_body_without_length_needs_the_close_notify(authority):
    """Without it anyone on the way could have cut the answer (RFC 8446 section 6.1)."""
    tls = authority.server("localhost")
    async with (
        RawUpstream(says_and_closes(CUT_BODY), tls) as raw,
        a_pool(raw.url, ca_file=authority.file) as upstream,
    ):
        assert await fetch(upstream) == (200, b"part")

    for how in (Peer.cut, Peer.reset):

        async def script(peer: Peer, how=how) -> None:
            await peer.request()
            await peer.say(CUT_BODY)
            await asyncio.sleep(0.03)
            how(peer)

        async with RawUpstream(script, tls) as raw, a_pool(raw.url, ca_file=authority.file) as upstream:
            problem = await refused(upstream)
            assert (problem.kind, problem.detail) == (
                "upstream-invalid",
                "The upstream's answer was cut short.",
            )


@both_loops
async def test_large_answers_and_slow_readers_work_over_tls_too(authority):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n")
        for _ in range(8):
            await peer.say(b"x" * 1_000_000)
        await peer.gone()

    tls = authority.server("localhost")
    async with RawUpstream(script, tls) as raw, a_pool(raw.url, ca_file=authority.file) as upstream:
        async with upstream.open(GET) as reply:
            await asyncio.sleep(0.1)
            assert reply._held <= 1_000_000
            total = 0
            while data := await reply.read():
                total += len(data)
        assert total == 8_000_000
        assert upstream.stats() == Stats(1, 1, 0)


async def test_an_authority_file_that_is_missing_is_found_at_the_start(tmp_path):
    from gateway import config

    with pytest.raises(OSError, match="No such file"):
        Upstream(config.Upstream(url="https://localhost", ca_file=str(tmp_path / "none.pem")))
