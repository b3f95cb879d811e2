"""What a site is told of its node's key, and of its memory and disks, before it joins."""

from __future__ import annotations

import base64
import os
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedwarm.flower.certificates import ensure_node_key
from fedwarm.node import machine
from fedwarm.node.finding import FAULT, OK, WARNING
from fedwarm.node.key import look_at_key


def keys(path: Path) -> list[tuple[str, str]]:
    return [(each.level, each.text) for each in look_at_key(path)]


def test_a_key_that_flower_takes_and_those_that_it_does_not(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert keys(path)[0][0] == FAULT and "ssh-keygen -t ecdsa" in keys(path)[0][1]
    ensure_node_key(path)
    assert keys(path)[0][0] == OK and len(keys(path)) == 1
    path.chmod(0o644)
    assert keys(path) == [(WARNING, f"{path} can be used by others (mode 0644); `chmod 600 {path}`")]
    path.chmod(0o600)
    (tmp_path / "key.pub").rename(tmp_path / "away")
    assert keys(path)[0][0] == WARNING and f"`ssh-keygen -y -f {path} > {path}.pub`" in keys(path)[0][1]
    ensure_node_key(tmp_path / "second")
    (tmp_path / "second.pub").rename(tmp_path / "key.pub")
    assert keys(path)[0][0] == FAULT and "of another key" in keys(path)[0][1]
    form, plain = serialization.PrivateFormat, serialization.NoEncryption()
    for key, how, said in (
        (ed25519.Ed25519PrivateKey.generate(), form.OpenSSH, "no elliptic curve key"),
        (ec.generate_private_key(ec.SECP256R1()), form.PKCS8, "no private key as OpenSSH writes it"),
    ):
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, how, plain))
        assert keys(path)[0][0] == FAULT and said in keys(path)[0][1]
    path.write_bytes(locked(ec.generate_private_key(ec.SECP256R1())))
    assert keys(path)[0][0] == FAULT and "has a passphrase" in keys(path)[0][1]


def locked(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The frame of an OpenSSH key with a passphrase (PROTOCOL.key), which nobody can open."""
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)

    def part(content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + content

    names = part(b"aes256-ctr") + part(b"bcrypt") + part(part(bytes(16)) + struct.pack(">I", 16))
    frame = b"openssh-key-v1\0" + names + struct.pack(">I", 1) + part(base64.b64decode(public.split()[1])) + part(bytes(160))
    kind = b"OPENSSH PRIVATE" + b" KEY-----\n"
    return b"-----BEGIN " + kind + base64.encodebytes(frame) + b"-----END " + kind


@pytest.mark.parametrize(("free", "level"), [(0.3e9, FAULT), (1.0e9, WARNING), (8e9, OK)])
def test_memory_and_disks(free: float, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda: free)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free}))
    memory, home, state = machine.look_at_machine()
    assert memory.level == level and home.level == (
        WARNING if level == OK and free < 5e9 else FAULT if free < 0.5e9 else home.level
    )
    assert str(tmp_path / "flower") in home.text and state.topic == "disk"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written to by this user; permit it, or set FLWR_HOME" in [*machine.look_at_machine()][1].text
