"""Whether a node's private key is one that Flower takes, is its owner's alone, and has its public half beside it."""

from __future__ import annotations

import base64
import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedwarm.flower.certificates import public_file
from fedwarm.node.finding import OK, Finding, fault, ok, warning

TOPIC = "key"


def look_at_key(path: Path) -> Iterator[Finding]:
    """What is odd about a key file; its fingerprint where all is well."""
    make = f"`ssh-keygen -t ecdsa -b 384 -N '' -f {path}` makes one"
    try:
        content = path.read_bytes()
    except OSError as error:
        owner = "give it to the user that runs the SuperNode" if isinstance(error, PermissionError) else make
        yield fault(TOPIC, f"{path} cannot be read ({error.strerror}); {owner}")
        return
    try:
        key = serialization.load_ssh_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = "has a passphrase" if "password" in str(error).lower() else "is no private key as OpenSSH writes it"
        yield fault(TOPIC, f"{path} {why}, and Flower does not take it; {make} under another name")
        return
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        yield fault(TOPIC, f"{path} is no elliptic curve key, and Flower takes no other; {make} under another name")
        return
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    found = [*_mode(path), *_public(path, line)]
    if not any(each.level != OK for each in found):
        found.append(ok(TOPIC, f"{path}, {fingerprint(line)}; whether it is registered only the SuperLink knows"))
    yield from found


def _mode(path: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield warning(TOPIC, f"{path} can be used by others (mode {mode:04o}); `chmod 600 {path}`")


def _public(path: Path, line: bytes) -> Iterator[Finding]:
    public, again = public_file(path), f"`ssh-keygen -y -f {path} > {public_file(path)}` writes it"
    try:
        words = public.read_bytes().split()
    except OSError as error:
        yield warning(TOPIC, f"its public half, {public}, cannot be read ({error.strerror}); {again}, to be registered")
        return
    if words[:2] != line.split()[:2]:
        yield fault(TOPIC, f"{public} is the public half of another key; {again}, and it has to be registered anew")


def fingerprint(line: bytes) -> str:
    """A public key's SHA-256, as `ssh-keygen -l` tells it."""
    return f"SHA256:{base64.b64encode(hashlib.sha256(base64.b64decode(line.split()[1])).digest()).decode().rstrip('=')}"


def fingerprint_of(pem: bytes) -> str:
    """The same of a public key in PEM, as a SuperLink knows it.

    Raises:
        ValueError: it is none.
    """
    key = serialization.load_pem_public_key(pem)
    return fingerprint(key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
