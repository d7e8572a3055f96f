"""A local certificate authority and the server's certificate, made when needed.

Browsers give microphone and camera to secure origins only, and an iPad trusts a certificate of one's own only if it
comes from an authority that its owner installed. So there are two: an authority (``ca.pem``, two years, installed
once on a device) and the server's own certificate signed by it (``server.pem``), renewed whenever it runs out or an
address of this machine is missing from it. Rules for the latter: support.apple.com/103769 (name in the SAN,
serverAuth, SHA-256, at most 825 days) and the CA/Browser Forum's tighter 397 days.

Who trusts the authority must not have to trust it with the web: its name constraints
(:mod:`app.server.name_constraints`) hold it to this machine and to private networks. It is renewed with the same key
and name, so that a device that has the older certificate goes on until that runs out.

``python -m app.server.certs`` makes what is missing and prints where it is.
"""

from __future__ import annotations

import datetime
import os
import ssl
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.errors import StartError
from app.server.addresses import local_addresses, local_names
from app.server.name_constraints import name_constraints, permitted

CERTS_DIR = Path(__file__).resolve().parents[2] / "certs"
CA_DAYS = 730
LEAF_DAYS = 396
RENEW_DAYS = 30
"""A certificate with fewer days left is made anew."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files that a TLS server needs. ``ca`` is None where the owner brought a certificate of their own."""

    cert: Path
    key: Path
    ca: Path | None

    def ssl_context(self) -> ssl.SSLContext:
        """A server-side TLS context. Raises StartError if the files cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert, self.key)
        except OSError as error:  # ssl.SSLError is one
            raise StartError(
                f"The certificate {self.cert} with the key {self.key} cannot be used ({error}): "
                "both must exist, be readable, be PEM and belong together."
            ) from error
        return context


def own_certificates(cert: str, key: str) -> Certificates:
    """The certificate that the options name. Raises StartError if only one of the two files is given."""
    if not cert or not key:
        raise StartError("TLS_CERT and TLS_KEY go together: give both, or neither to have a certificate made.")
    return Certificates(Path(cert), Path(key), None)


def ensure_certificates(directory: Path = CERTS_DIR) -> Certificates:
    """Make or renew what is missing in ``directory``; leave alone what is good. Raises StartError if it cannot."""
    files = Certificates(directory / "server.pem", directory / "server.key", directory / "ca.pem")
    try:
        directory.mkdir(0o700, parents=True, exist_ok=True)
        _require_private(directory)
        ca, ca_key, is_new = _ensure_ca(directory / "ca.pem", directory / "ca.key")
        names = _alternatives(ca)
        if is_new or not _leaf_is_good(files, ca, names):
            key = ec.generate_private_key(ec.SECP256R1())
            leaf = _sign_leaf(key, ca, ca_key, names)
            _write_key(files.key, key)
            _write(files.cert, _pem(leaf) + _pem(ca), 0o644)
    except OSError as error:
        raise StartError(
            f"Certificates could not be written to {directory} ({error}). "
            "Make the folder writable, or name a certificate of your own with TLS_CERT and TLS_KEY."
        ) from error
    return files


def fingerprint(path: Path) -> str:
    """SHA-256 of a certificate in the form that devices show it, to compare by eye."""
    digest = x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(hashes.SHA256())
    return digest.hex(":").upper()


def runs_out(path: Path) -> datetime.date:
    """The last day on which a certificate holds."""
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.date()


def _ensure_ca(cert_path: Path, key_path: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, bool]:
    """The authority, its key, and whether the certificate is a new one. The key is a new one, too, if the old
    certificate is damaged or has run out: then no device trusts it any more."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The name carries the machine, so that the owner of two of them sees which is which in a device's settings.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Omni Call local CA ({local_names()[-1]})"[:64])])
    try:
        old = x509.load_pem_x509_certificate(cert_path.read_bytes())
        old_key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        if isinstance(old_key, ec.EllipticCurvePrivateKey) and old.public_key() == old_key.public_key():
            if _is_fresh(old) and _is_constrained(old):
                _require_private(key_path)
                return old, old_key, False
            if _is_fresh(old, days=0):
                key, name = old_key, old.subject
    except (FileNotFoundError, ValueError):
        pass
    cert = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(name_constraints(local_names(), local_addresses()), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_key(key_path, key)
    _write(cert_path, _pem(cert), 0o644)
    return cert, key, True


def _is_constrained(ca: x509.Certificate) -> bool:
    """Whether an authority is of the present form; those of earlier versions could sign for the whole web."""
    lifetime = ca.not_valid_after_utc - ca.not_valid_before_utc
    return _constraints(ca) is not None and lifetime <= datetime.timedelta(days=CA_DAYS)


def _constraints(ca: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return ca.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def _alternatives(ca: x509.Certificate) -> list[x509.GeneralName]:
    """The names and addresses of this machine that the authority may sign for; a single other one would spoil the
    certificate. What came after the authority is left out, since devices know the authority as it is."""
    constraints = _constraints(ca)
    assert constraints is not None
    return permitted(constraints, local_names(), ["127.0.0.1", "::1", *local_addresses()])


def _sign_leaf(
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    names: Iterable[x509.GeneralName],
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    return (
        _builder(subject, ca.subject, key.public_key(), LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)  # a device's clock may be slow
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _leaf_is_good(files: Certificates, ca: x509.Certificate, names: Sequence[x509.GeneralName]) -> bool:
    try:
        leaf = x509.load_pem_x509_certificate(files.cert.read_bytes())
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        leaf.verify_directly_issued_by(ca)
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # whatever is wrong with the old files, new ones are the remedy
        return False
    _require_private(files.key)
    return leaf.public_key() == key.public_key() and _is_fresh(leaf) and set(names) <= set(san)


def _is_fresh(cert: x509.Certificate, days: int | None = None) -> bool:
    """Whether a certificate holds now and for so many days more (:data:`RENEW_DAYS`)."""
    now = datetime.datetime.now(datetime.UTC)
    rest = datetime.timedelta(days=RENEW_DAYS if days is None else days)
    return cert.not_valid_before_utc <= now < cert.not_valid_after_utc - rest


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(path, pem, 0o600)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace ``path`` in one step; the mode holds from the first byte on."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    fresh.replace(path)


def _require_private(path: Path) -> None:
    """Take from everybody but its owner the right to a file or folder."""
    mode = path.stat().st_mode
    if mode & 0o077:
        path.chmod(mode & 0o700)


def main() -> int:
    """Entry point of ``python -m app.server.certs``."""
    try:
        files = ensure_certificates()
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    assert files.ca is not None
    print(f"certificate {files.cert}\nauthority   {files.ca}  (install this one on an iPad; see /help on the server)")
    print(f"            SHA-256 {fingerprint(files.ca)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
