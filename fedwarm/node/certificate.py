"""Whether a SuperLink proves itself to a node: its certificate's dates and names, and who signed it, each told for itself."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from fedwarm.node.finding import OK, Finding, fault, ok, warning

TOPIC = "certificate"
SOON = timedelta(days=30)
PATIENCE_SECONDS = 5.0
OWN = "the SuperNode's --root-certificates"


def unverified() -> ssl.SSLContext:
    """Of a connection that looks at a server and tells it nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def shown_by(host: str, port: int) -> x509.Certificate:
    """The certificate that a server shows; OSError (ssl.SSLError is one) where it shows none."""
    plain = socket.create_connection((host, port), PATIENCE_SECONDS)
    with plain, closing(unverified().wrap_socket(plain, server_hostname=host)) as secure:
        return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")


def look_at_certificate(
    host: str, port: int, authority: Path | None, shown: x509.Certificate, now: datetime
) -> Iterator[Finding]:
    """What is odd about it; one line where all is well.

    Args:
        host, port: by which the node calls.
        authority: the file of CAs that the node trusts; None: this machine's own.
        shown: the server's certificate.
        now: the moment that dates are judged by.
    """
    found = [*_authority(authority, now), *_dates("it", shown, now), *_name(host, shown)]
    found += _signature(host, port, authority, shown)
    if not any(each.level != OK for each in found):
        found.append(ok(TOPIC, f"good for {host} until {shown.not_valid_after_utc:%Y-%m-%d}, signed by {_called(shown.issuer)}"))
    yield from found


def _authority(path: Path | None, now: datetime) -> Iterator[Finding]:
    if path is None:
        return
    try:
        for each in x509.load_pem_x509_certificates(path.read_bytes()):
            yield from _dates(f"the CA in {path}", each, now)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it holds no certificate in PEM"
        yield fault(TOPIC, f"{path} cannot be read ({why}); ask whoever runs the federation for its ca.crt")


def _dates(what: str, certificate: x509.Certificate, now: datetime) -> Iterator[Finding]:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        here = f"{now:%Y-%m-%d %H:%M} UTC"
        yield fault(TOPIC, f"{what} is valid from {begins:%Y-%m-%d %H:%M} UTC on, and by this clock it is {here}; set the clock")
    elif now > ends:
        yield fault(TOPIC, f"{what} ended on {ends:%Y-%m-%d}; whoever runs the federation has to issue another one")
    elif ends - now < SOON:
        yield warning(TOPIC, f"{what} ends on {ends:%Y-%m-%d}, in {(ends - now).days} days; tell whoever runs the federation")


def _name(host: str, certificate: x509.Certificate) -> Iterator[Finding]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    known = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    if not any(matches(host, name) for name in known):
        listed = ", ".join(known) or "nothing"
        yield fault(TOPIC, f"it is not for {host} but for {listed}; call the SuperLink by one of these, or have {host} added")


def matches(host: str, name: str) -> bool:
    """Whether a certificate's name or address is that of a host; `*.` stands for one label (RFC 6125, section 6.4)."""
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(name)
    except ValueError:
        head, _, rest = host.lower().partition(".")
        return name.lower() in (host.lower(), f"*.{rest}") and bool(head)


def _signature(host: str, port: int, authority: Path | None, shown: x509.Certificate) -> Iterator[Finding]:
    """Whether what the node trusts leads to it; dates and names are told by others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    try:
        if authority is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(authority)
        with socket.create_connection((host, port), PATIENCE_SECONDS) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code not in (9, 10):  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
            yield fault(TOPIC, _unsigned(authority, shown))
    except OSError:  # the file, which was told of, or a connection that broke
        return


def _unsigned(authority: Path | None, shown: x509.Certificate) -> str:
    issuer = _called(shown.issuer)
    if authority is None:
        return f"it is signed by {issuer}, which this machine does not know; give the federation's CA by --ca (and as {OWN})"
    held = ", ".join(_called(each.subject) for each in x509.load_pem_x509_certificates(authority.read_bytes()))
    other = "another CA of the same name" if issuer == held else issuer
    return f"it is signed by {other} and not by {held}, which {authority} holds; ask for the ca.crt of this federation"


def _called(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return repr(str(found[0].value)) if found else repr(name.rfc4514_string())
