"""The local authority and the server's certificate: what devices demand of them, and when they are renewed."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.errors import StartError
from app.server import certs
from app.server.certs import Certificates, ensure_certificates, own_certificates


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return ensure_certificates(tmp_path)


def load(path: Path | None) -> x509.Certificate:
    assert path is not None
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_leaf_is_what_an_ipad_accepts(files: Certificates) -> None:
    leaf = load(files.cert)
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", certs.local_names()[-1]} <= set(san.get_values_for_type(x509.DNSName))
    addresses = {str(address) for address in san.get_values_for_type(x509.IPAddress)}
    assert {"127.0.0.1", "::1", *certs.local_addresses()} <= addresses
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= datetime.timedelta(days=397)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    leaf.verify_directly_issued_by(load(files.ca))


def test_the_authority_may_sign_leaves_only(files: Certificates) -> None:
    constraints = load(files.ca).extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_private_keys_are_for_their_owner_only(files: Certificates) -> None:
    for key in files.key.parent.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    files.key.chmod(0o644)
    ensure_certificates(files.key.parent)
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600


async def test_a_client_that_trusts_the_authority_connects(files: Certificates) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=files.ssl_context())
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=str(files.ca))
    async with server:
        for name in ("localhost", "127.0.0.1"):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=name)
            writer.close()


def test_good_certificates_are_left_alone(files: Certificates) -> None:
    before = {path.name: path.read_bytes() for path in files.cert.parent.iterdir()}
    ensure_certificates(files.cert.parent)
    assert {path.name: path.read_bytes() for path in files.cert.parent.iterdir()} == before


def test_a_new_address_gets_a_new_leaf_from_the_same_authority(
    files: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, leaf = load(files.ca), load(files.cert)
    monkeypatch.setattr(certs, "local_addresses", lambda: ["192.168.77.5"])
    ensure_certificates(files.cert.parent)
    assert load(files.ca) == ca
    assert load(files.cert) != leaf
    load(files.cert).verify_directly_issued_by(ca)


def test_certificates_are_renewed_before_they_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certs, "LEAF_DAYS", certs.RENEW_DAYS - 1)
    old = load(ensure_certificates(tmp_path).cert)
    monkeypatch.undo()
    assert load(ensure_certificates(tmp_path).cert) != old
    monkeypatch.setattr(certs, "CA_DAYS", certs.RENEW_DAYS - 1)
    (tmp_path / "ca.pem").unlink()
    old_ca = load(ensure_certificates(tmp_path).ca)
    monkeypatch.undo()
    files = ensure_certificates(tmp_path)
    assert load(files.ca) != old_ca
    load(files.cert).verify_directly_issued_by(load(files.ca))


@pytest.mark.parametrize("name", ["server.pem", "server.key", "ca.pem", "ca.key"])
def test_a_damaged_file_is_replaced(files: Certificates, name: str) -> None:
    (files.cert.parent / name).write_bytes(b"-----BEGIN NOTHING-----\n")
    renewed = ensure_certificates(files.cert.parent)
    renewed.ssl_context()
    load(renewed.cert).verify_directly_issued_by(load(renewed.ca))


def test_ones_own_certificate_is_checked(files: Certificates, tmp_path: Path) -> None:
    own_certificates(str(files.cert), str(files.key)).ssl_context()
    with pytest.raises(StartError, match="go together"):
        own_certificates(str(files.cert), "")
    with pytest.raises(StartError, match="cannot be used"):
        own_certificates(str(files.cert), str(tmp_path / "ca.key")).ssl_context()
    with pytest.raises(StartError, match="cannot be used"):
        own_certificates("/no/such.pem", str(files.key)).ssl_context()


def test_a_folder_that_cannot_be_written_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "certs").write_text("a file in the folder's place")
    with pytest.raises(StartError, match="TLS_CERT and TLS_KEY"):
        ensure_certificates(tmp_path / "certs")


def test_keys_never_enter_git() -> None:
    ignored = (certs.CERTS_DIR / ".gitignore").read_text().split()
    assert ignored == ["*", "!.gitignore", "!README.md"]
