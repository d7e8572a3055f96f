"""The local authority and the server's certificate: what devices demand of them, and when they are renewed."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import ssl
import stat
import subprocess
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import DNSName, IPAddress
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from app.errors import StartError
from app.server import addresses, certs
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
    assert {"localhost", addresses.local_names()[-1]} <= set(san.get_values_for_type(x509.DNSName))
    reached = {str(address) for address in san.get_values_for_type(x509.IPAddress)}
    assert {"127.0.0.1", "::1", *addresses.local_addresses()} <= reached
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


def forge(files: Certificates, names: Sequence[x509.GeneralName]) -> Path:
    """What a thief of the authority's key could make: a certificate of the server's form for any names."""
    ca, ca_key, _ = certs._ensure_ca(files.cert.parent / "ca.pem", files.cert.parent / "ca.key")
    key = ec.generate_private_key(ec.SECP256R1())
    certs._write_key(files.cert.with_name("forged.key"), key)
    forged = files.cert.with_name("forged.pem")
    certs._write(forged, certs._pem(certs._sign_leaf(key, ca, ca_key, names)) + certs._pem(ca), 0o644)
    return forged


def accepts(ca: Path | None, leaf: Path, name: DNSName | IPAddress) -> bool:
    verifier = PolicyBuilder().store(Store([load(ca)])).build_server_verifier(name)
    try:
        verifier.verify(load(leaf), [])
    except VerificationError:
        return False
    return True


def openssl_accepts(ca: Path | None, leaf: Path) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(ca), str(leaf)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


INSIDE = ["localhost", "somewhere.local", "10.1.2.3", "172.31.0.1", "192.168.7.7", "100.64.0.9", "fd00::7", "::1"]
OUTSIDE = ["www.example.com", "local.example.com", "notlocal", "8.8.8.8", "172.32.0.1", "2001:db8:99::1"]


def general(name: str) -> DNSName | IPAddress:
    return IPAddress(ip_address(name)) if name[0].isdigit() or ":" in name else DNSName(name)


def test_the_authority_holds_for_this_machine_and_private_networks_only(files: Certificates) -> None:
    authority = load(files.ca)
    assert authority.extensions.get_extension_for_class(x509.NameConstraints).critical
    assert authority.not_valid_after_utc - authority.not_valid_before_utc <= datetime.timedelta(days=730)
    own = [*addresses.local_names(), "127.0.0.1", *addresses.local_addresses()]
    assert all(accepts(files.ca, files.cert, general(name)) for name in own)
    for name in INSIDE:
        assert accepts(files.ca, forge(files, [general(name)]), general(name)), name
    for name in OUTSIDE:
        assert not accepts(files.ca, forge(files, [general(name)]), general(name)), name
    assert not accepts(
        files.ca, forge(files, list(map(general, ["localhost", "www.example.com"]))), general("localhost")
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_sees_the_same_bounds(files: Certificates) -> None:
    assert openssl_accepts(files.ca, files.cert)
    assert openssl_accepts(files.ca, forge(files, list(map(general, INSIDE))))
    for name in OUTSIDE:
        assert not openssl_accepts(files.ca, forge(files, [general(name)])), name


def test_a_public_address_of_this_machine_is_within_the_bounds_of_an_authority_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certs, "local_addresses", lambda: ["203.0.113.5", "2001:db8:1:2::3"])
    files = ensure_certificates(tmp_path)
    assert accepts(files.ca, files.cert, general("203.0.113.5"))
    monkeypatch.setattr(certs, "local_addresses", lambda: ["203.0.113.6", "2001:db8:1:2::4", "192.168.0.9"])
    ensure_certificates(tmp_path)  # the daily change of an IPv6 address needs no new authority; another host's does
    assert accepts(files.ca, files.cert, general("2001:db8:1:2::4"))
    assert accepts(files.ca, files.cert, general("192.168.0.9"))
    assert not accepts(files.ca, files.cert, general("203.0.113.6"))


def test_an_authority_is_renewed_with_its_key_until_it_has_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certs, "CA_DAYS", certs.RENEW_DAYS - 1)
    old = load(ensure_certificates(tmp_path).ca)
    trusted = tmp_path / "on-a-device.pem"
    trusted.write_bytes((tmp_path / "ca.pem").read_bytes())
    monkeypatch.undo()
    files = ensure_certificates(tmp_path)
    renewed = load(files.ca)
    assert renewed != old
    assert (renewed.public_key(), renewed.subject) == (old.public_key(), old.subject)
    assert accepts(trusted, files.cert, general("localhost"))
    assert accepts(files.ca, files.cert, general("localhost"))
    (tmp_path / "ca.pem").unlink()
    monkeypatch.setattr(certs, "CA_DAYS", 0)
    run_out = load(ensure_certificates(tmp_path).ca)
    monkeypatch.undo()
    assert load(ensure_certificates(tmp_path).ca).public_key() != run_out.public_key()


def test_an_authority_without_bounds_is_replaced_under_the_same_key(files: Certificates) -> None:
    path = files.cert.parent
    ca, key, _ = certs._ensure_ca(path / "ca.pem", path / "ca.key")
    boundless = (
        certs._builder(ca.subject, ca.subject, key.public_key(), 3650)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(certs._key_usage(sign_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    (path / "ca.pem").write_bytes(certs._pem(boundless))
    renewed = load(ensure_certificates(path).ca)
    assert renewed.public_key() == boundless.public_key()
    assert renewed.extensions.get_extension_for_class(x509.NameConstraints).critical
    assert accepts(files.ca, files.cert, general("localhost"))


def test_the_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in (tmp_path, tmp_path / "new"):
        ensure_certificates(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


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
