"""Each party's keys in a folder of its own."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from fedwarm.federation.parties import ensure_parties
from fedwarm.flower.certificates import CA_DAYS, SERVER_DAYS
from fedwarm.settings.fields import SettingError

NODES = ["site-a", "site-b"]
NOW = datetime(2026, 3, 1, tzinfo=UTC)
HELD = {
    "authority": {"ca.crt", "ca.key"},
    "superlink": {"ca.crt", "server.crt", "server.key", "superexec.secret"},
    "superexec": {"ca.crt", "superexec.secret"},
    "proxy": {"ca.crt", "server.crt", "server.key"},
    "admin": {"ca.crt", "site-a.pub", "site-b.pub"},
    "site-a": {"ca.crt", "key", "key.pub"},
    "site-b": {"ca.crt", "key", "key.pub"},
}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_everybody_gets_what_is_needed_and_no_more(tmp_path: Path) -> None:
    ensure_parties(tmp_path, "a", ["fed.example.org", "10.1.2.3"], NODES, NOW)
    assert {folder.name: {path.name for path in folder.iterdir()} for folder in tmp_path.iterdir()} == HELD
    private = [path for path in tmp_path.rglob("*") if path.name in ("key", "ca.key", "server.key", "superexec.secret")]
    assert len(private) == 7 and all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private)
    assert (tmp_path / "superlink/superexec.secret").read_bytes() == (tmp_path / "superexec/superexec.secret").read_bytes()
    assert (tmp_path / "superlink/server.key").read_bytes() != (tmp_path / "proxy/server.key").read_bytes()
    assert len({path.read_bytes() for path in tmp_path.rglob("ca.crt")}) == 1


@pytest.mark.parametrize("server", ["superlink", "proxy"])
def test_servers_are_called_by_their_service_by_loopback_and_from_outside(server: str, tmp_path: Path) -> None:
    ensure_parties(tmp_path, "a", ["fed.example.org", "10.1.2.3"], NODES, NOW)
    certificate = x509.load_pem_x509_certificate((tmp_path / server / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [server, "localhost", "fed.example.org"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "10.1.2.3"]
    ssl.create_default_context(cafile=str(tmp_path / server / "ca.crt"))
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / server / "ca.crt").read_bytes()))


def test_what_is_there_and_serves_stays(tmp_path: Path) -> None:
    ensure_parties(tmp_path, "a", ["x"], NODES, NOW)
    before = contents(tmp_path)
    ensure_parties(tmp_path, "a", ["x"], NODES, NOW + timedelta(days=30))
    assert contents(tmp_path) == before
    ensure_parties(tmp_path, "a", ["x"], [*NODES, "site-c"], NOW)
    assert before.items() < contents(tmp_path).items()


def test_another_address_or_a_late_hour_brings_new_certificates_and_no_new_keys_of_nodes(tmp_path: Path) -> None:
    ensure_parties(tmp_path, "a", ["x"], NODES, NOW)
    first = contents(tmp_path)
    ensure_parties(tmp_path, "a", ["y"], NODES, NOW)
    second = contents(tmp_path)
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {f"{server}/server.{kind}" for server in ("superlink", "proxy") for kind in ("crt", "key")}
    ensure_parties(tmp_path, "a", ["y"], NODES, NOW + timedelta(days=SERVER_DAYS - 10))
    assert contents(tmp_path)["authority/ca.crt"] == second["authority/ca.crt"] != b""
    ensure_parties(tmp_path, "a", ["y"], NODES, NOW + timedelta(days=CA_DAYS - 10))
    third = contents(tmp_path)
    assert third["site-a/ca.crt"] == third["authority/ca.crt"] != second["authority/ca.crt"]
    assert third["site-a/key"] == first["site-a/key"]
    authority = x509.load_pem_x509_certificate(third["authority/ca.crt"])
    x509.load_pem_x509_certificate(third["proxy/server.crt"]).verify_directly_issued_by(authority)


def test_addresses_and_names_that_no_certificate_can_have(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--address 'bad host' is neither"):
        ensure_parties(tmp_path, "a", ["bad host"], NODES, NOW)
    with pytest.raises(SettingError, match="is not a name"):
        ensure_parties(tmp_path, "a" * 60, [], NODES, NOW)
    assert not any(tmp_path.iterdir())
    ensure_parties(tmp_path, "a", ["münchen.de"], NODES, NOW)
    names = x509.load_pem_x509_certificate((tmp_path / "proxy/server.crt").read_bytes()).extensions
    assert "xn--mnchen-3ya.de" in names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )


@pytest.mark.parametrize(("name", "words"), [("proxy", "servers'"), ("a/b", "is no"), ("", "is no"), ("..", "is no")])
def test_names_that_no_node_can_have(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=words):
        ensure_parties(tmp_path, "a", [], [name], NOW)
