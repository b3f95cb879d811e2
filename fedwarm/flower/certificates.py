"""The federation's secrets: a CA and the SuperLink's certificate, the nodes' keys, and what SuperExec proves itself by.

TLS shows the nodes that this is their SuperLink; the SuperLink knows a node by its key, which signs every request. All are
elliptic curve keys (P-384); nodes' keys are written as OpenSSH writes them, which is what Flower reads.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedwarm.core.files import copy_file, replacing
from fedwarm.settings.fields import SettingError

CA_DAYS, SERVER_DAYS = 3650, 825
RENEW_DAYS, CA_RENEW_DAYS = 30, 365
BEFORE = "ca-before.crt"
CLOCK_SKEW = timedelta(minutes=10)


@dataclass(frozen=True)
class Signed:
    """A certificate and its private key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_authority(name: str, now: datetime) -> Signed:
    """A CA that signs servers' certificates and nothing else."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedwarm federation {name}")])
    return _authority(subject, ec.generate_private_key(ec.SECP384R1()), now)


def _authority(subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime) -> Signed:
    builder = _dated(subject, subject, key, now, CA_DAYS)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates and revocations
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    return Signed(key, builder.sign(key, hashes.SHA384()))


def issue(authority: Signed, addresses: Sequence[str], now: datetime) -> Signed:
    """The certificate of a server that is called by any of these names and addresses."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "superlink")])
    builder = _dated(subject, authority.certificate.subject, key, now, SERVER_DAYS)
    issuer = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        builder.add_extension(x509.SubjectAlternativeName([_general(each) for each in addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
    )
    return Signed(key, builder.sign(authority.key, hashes.SHA384()))


def _dated(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - CLOCK_SKEW)
    builder = builder.not_valid_after(now + timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _general(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def serves(certificate: x509.Certificate, addresses: Sequence[str], now: datetime) -> bool:
    """Whether a certificate is good for all these addresses, and for another month."""
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {_general(each) for each in addresses} <= set(named) and lasts(certificate, now)


def lasts(certificate: x509.Certificate, now: datetime, days: int = RENEW_DAYS) -> bool:
    """Whether a certificate is valid now and for so many more days."""
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc - timedelta(days=days)


def ends(file: Path) -> datetime:
    """When the certificate in a file ends."""
    return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc


def ensure_certificates(
    folder: Path, name: str, addresses: Sequence[str], now: datetime | None = None, anew: bool = False
) -> bool:
    """See that `folder` holds `ca.crt`, `ca.key`, `server.crt` and `server.key` for these addresses; whether any was made.

    What is there and serves stays, unless a server's certificate is asked for `anew`. One that ends within a month, or lacks an
    address, is issued anew. The CA's key is needed for that alone, and may be kept elsewhere until then.

    Raises:
        SettingError: a file that is there cannot be read, or the CA is not there whole where something is to be issued.
    """
    moment = now or datetime.now(UTC)
    if not anew and (folder / "ca.crt").is_file() and not (folder / "ca.key").is_file():
        server, authority = _read(folder / "server"), _certificate(folder / "ca.crt")
        if server is not None and serves(server.certificate, addresses, moment) and _signed_by(server.certificate, authority):
            return False
    return ensure_server(folder / "server", ensure_authority(folder, name, moment), addresses, moment, anew)


def ensure_authority(folder: Path, name: str, now: datetime) -> Signed:
    """The CA in `ca.crt` and `ca.key` of a folder, made where there is none.

    One that ends within a year is issued anew with the same key, so that who trusts the certificate before, kept as `BEFORE`,
    still knows the servers until that one ends: a year to hand the new one out.

    Raises:
        SettingError: a file that is there cannot be read, or one of the two is missing.
    """
    missing = [name for name in ("ca.crt", "ca.key") if not (folder / name).is_file()]
    if len(missing) == 1:
        raise SettingError(
            f"{folder / missing[0]} is missing; put it back, as all nodes would need the certificate of a new CA (one is made "
            "where ca.crt and ca.key are both removed)"
        )
    before = _read(folder / "ca")
    if before is not None and lasts(before.certificate, now, CA_RENEW_DAYS):
        return before
    if before is None:
        authority = make_authority(name, now)
    else:
        copy_file(folder / "ca.crt", folder / BEFORE)
        authority = _authority(before.certificate.subject, before.key, now)
    _write(folder / "ca", authority)
    return authority


def ensure_server(stem: Path, authority: Signed, addresses: Sequence[str], now: datetime, anew: bool = False) -> bool:
    """See that `stem`.crt and `stem`.key are a server's, signed by this CA, for these addresses; whether they were made.

    What is there and serves stays, unless it is asked for `anew`.

    Raises:
        SettingError: a file that is there cannot be read.
    """
    server = None if anew else _read(stem)
    if (
        server is not None
        and serves(server.certificate, addresses, now)
        and _signed_by(server.certificate, authority.certificate)
    ):
        return False
    _write(stem, issue(authority, addresses, now))
    return True


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(stem: Path) -> Signed | None:
    key, certificate = stem.with_suffix(".key"), stem.with_suffix(".crt")
    if not (key.is_file() and certificate.is_file()):
        return None
    try:
        found = serialization.load_pem_private_key(key.read_bytes(), None)
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise ValueError("no elliptic curve key")
        return Signed(found, x509.load_pem_x509_certificate(certificate.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise SettingError(f"{key} or {certificate.name} cannot be read ({error}); remove both, they are made anew") from None


def _certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingError(
            f"{file} cannot be read ({error}); put it back, as it is the certificate that all nodes have"
        ) from None


def _write(stem: Path, signed: Signed) -> None:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    write_private(stem.with_suffix(".key"), signed.key.private_bytes(encoding, form, serialization.NoEncryption()))
    with replacing(stem.with_suffix(".crt")) as temporary:
        temporary.write_bytes(signed.certificate.public_bytes(encoding))


def ensure_node_key(path: Path) -> None:
    """See that a node's private key is in `path` (OpenSSH, 0600) and its public one in `path`.pub; what is there stays.

    Raises:
        SettingError: the public one is missing, and the private one cannot be read.
    """
    public = public_file(path)
    if path.is_file() and public.is_file():
        return
    key = _private(path) if path.is_file() else ec.generate_private_key(ec.SECP384R1())
    if not path.is_file():
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
        write_private(path, key.private_bytes(encoding, form, serialization.NoEncryption()))
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    with replacing(public) as temporary:
        temporary.write_bytes(line + f" {path.name}\n".encode())


def _private(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("no elliptic curve key")
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingError(
            f"{path} cannot be read as a private key ({error}); restore it, or remove it to have a new one"
        ) from None
    return key


def public_file(path: Path) -> Path:
    """Where the public half of a node's key lies."""
    return path.with_name(f"{path.name}.pub")


def public_pem(path: Path) -> bytes:
    """The public half of a node's key, made here, as Flower's SuperLink stores it.

    Raises:
        SettingError: it cannot be read.
    """
    file = public_file(path)
    try:
        return read_public(file)
    except SettingError as error:
        raise SettingError(f"{error}; remove it, and it is made anew of {path.name}") from None


def read_public(file: Path) -> bytes:
    """A public key that is written as OpenSSH does, as Flower's SuperLink stores it (PEM).

    Raises:
        SettingError: it cannot be read, or is no public key on an elliptic curve.
    """
    try:
        return public_of(file.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SettingError(f"{file} cannot be read as a public key ({error}); give the node's file NAME.pub") from None


def public_of(line: bytes) -> bytes:
    """A public key's line in OpenSSH's form, in PEM.

    Raises:
        ValueError, UnsupportedAlgorithm: it is none on an elliptic curve.
    """
    key = serialization.load_ssh_public_key(line)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("no key on an elliptic curve; `ssh-keygen -t ecdsa -b 384` makes one")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def ensure_secret(path: Path) -> None:
    """See that a file holds a secret of 32 random bytes, in hexadecimal."""
    if not path.is_file():
        write_private(path, secrets.token_hex(32).encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody else could read at any moment."""
    with replacing(path, private=True) as temporary:
        temporary.touch(0o600)
        temporary.write_bytes(content)
