"""Kits: what a site is given, the key that it makes itself, who is let in by it, and who is not."""

from __future__ import annotations

import configparser
import json
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from flwr.common.config import parse_config_args

from fedwarm.core.failures import RunError
from fedwarm.core.version import VERSION
from fedwarm.federation import kits, status
from fedwarm.federation.bringup import up
from fedwarm.federation.control import Seen
from fedwarm.federation.kits import found, make_kit, register, renew, revoke
from fedwarm.federation.preparing import Wanted, prepare
from fedwarm.federation.settings import Federation, load
from fedwarm.flower.certificates import BEFORE, CA_DAYS, ensure_certificates, public_of, read_public
from fedwarm.node import kit as node_kit
from fedwarm.node.kit import arguments, fingerprint, join, read, skew
from fedwarm.node.starting import HOST, started_with
from fedwarm.settings.fields import SettingError


class Link:
    """A SuperLink's control."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.refused: set[bytes] = set()

    def nodes(self) -> list[Seen]:
        return list(self.seen)

    def register(self, key: bytes, name: str) -> None:
        if key in self.refused:
            raise RuntimeError("used before")
        self.seen.append(Seen(len(self.seen) + 100, name, key, "online", 3.0))

    def unregister(self, node_id: int) -> None:
        self.seen = [each for each in self.seen if each.node_id != node_id]


@pytest.fixture
def said(tmp_path: Path) -> str:
    found(f"{tmp_path}/hospitals", "fed.example.org", 8443, 2, "")
    return f"{tmp_path}/hospitals"


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    """A SuperLink that runs."""
    made = Link()

    @contextmanager
    def control(federation: object) -> Iterator[Link]:
        yield made

    monkeypatch.setattr(kits, "control", control)
    monkeypatch.setattr(kits, "living", lambda federation, member: object())
    return made


def joined(said: str, site: str, place: Path) -> str:
    """The line of a site that unpacked its kit; a separate folder stands for its machine."""
    make_kit(said, site, place / f"{site}.zip")
    return join(place / f"{site}.zip", place / site, None)[1]


def test_a_kit_has_no_secret_and_all_that_a_site_needs(said: str, tmp_path: Path) -> None:
    made, file = make_kit(said, "hospital-a", tmp_path / "a.zip")
    assert (made.partition, made.partitions, made.superlink) == (0, 2, "fed.example.org:8443")
    with zipfile.ZipFile(file) as archive:
        held = {name: archive.read(name).decode() for name in archive.namelist()}
    assert set(held) == set(node_kit.PARTS) and not any("PRIVATE" in text for text in held.values())
    assert made.fingerprint == fingerprint(held["ca.crt"].encode()) and made.fingerprint in held["README.md"]
    assert len(held["README.md"].splitlines()) <= 12
    service = yaml.safe_load(held["compose.yaml"])["services"]["node"]
    assert service["command"][:4] == ["fedwarm", "node", "run", "--kit"] and "ports" not in service
    assert service["environment"]["FEDWARM_LOG_FILE"] == "/site/state/log.jsonl" and "./state:/site/state" in service["volumes"]
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(held["fedwarm-node.service"])
    assert unit["Service"]["ExecStart"].endswith("fedwarm node run --kit .") and unit["Service"]["Restart"] == "always"
    assert "Environment=FEDWARM_LOG_FILE=/srv/fedwarm/hospital-a/state/log.jsonl\n" in held["fedwarm-node.service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_a_kits_unit(said: str, tmp_path: Path) -> None:
    joined(said, "hospital-a", tmp_path)
    (tmp_path / "fedwarm").write_text("#!/bin/sh\n")
    (tmp_path / "fedwarm").chmod(0o755)
    text = (tmp_path / "hospital-a" / "fedwarm-node.service").read_text()
    text = text.replace("/srv/fedwarm/venv/bin", str(tmp_path)).replace("/srv/fedwarm/hospital-a", str(tmp_path))
    text = text.replace("User=fedwarm", "User=root")
    (tmp_path / "fedwarm-node.service").write_text(text)
    words = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "fedwarm-node.service")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_takes_a_federations_proxy(said: str) -> None:
    done = subprocess.run(["nginx", "-t", "-c", f"{said}/proxy.conf"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "emerg" not in done.stderr, done.stderr


def test_the_key_is_made_at_the_site_and_stays_when_a_newer_kit_comes(said: str, tmp_path: Path) -> None:
    place = tmp_path / "there"
    line = joined(said, "hospital-a", place)
    key = place / "hospital-a" / "key"
    assert line.startswith("ecdsa-sha2-nistp384 ") and line.endswith(" hospital-a")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and b"PRIVATE KEY" in key.read_bytes()
    server = [path for path in Path(said).rglob("*") if path.is_file()]
    assert not any(key.read_bytes() in path.read_bytes() for path in server)
    (place / "hospital-a" / "policy.toml").write_text("most-seconds = 60\n")
    assert joined(said, "hospital-a", place) == line
    assert (place / "hospital-a" / "policy.toml").read_text() == "most-seconds = 60\n"


def test_a_site_starts_its_node_by_its_folder_alone(said: str, tmp_path: Path) -> None:
    make_kit(said, "hospital-a", tmp_path / "a.zip")
    join(tmp_path / "a.zip", tmp_path / "a", tmp_path / "pictures")
    words = started_with(["--kit", str(tmp_path / "a"), "--max-retries", "3"])
    assert words[:4] == ["--root-certificates", str(tmp_path / "a/ca.crt"), "--superlink", "fed.example.org:8443"]
    told = words[words.index("--node-config") + 1]
    for part in ('site="hospital-a"', "partition-id=0", "num-partitions=2", f"policy='{tmp_path}/a/policy.toml'"):
        assert part in told
    assert f"data-folder='{tmp_path}/pictures'" in told and words[-2:] == ["--max-retries", "3"]
    assert f"data-folder='{tmp_path}/b'" in " ".join(arguments(tmp_path / "a", tmp_path / "b"))
    assert started_with(["--insecure"]) == ["--insecure"]


def test_a_sites_own_limits_are_added_to_what_its_kit_says(said: str, tmp_path: Path) -> None:
    joined(said, "hospital-a", tmp_path)
    kit = ["--kit", str(tmp_path / "hospital-a")]
    for option in (
        ["--node-config", "limits.most-rounds=3"],
        ["--node-config=limits.most-rounds=3"],
        ["--node", "limits.most-rounds=3"],
    ):
        words = started_with([*kit, *option])
        told = parse_config_args([words[words.index("--node-config") + 1]])
        assert words.count("--node-config") == 1 and not {"--node", option[0]} & {*words} - {"--node-config"}
        assert told["limits.most-rounds"] == 3 and told["policy"] == str(tmp_path / "hospital-a/policy.toml")
        assert {"audit", "client-folder", "site", "partition-id", "num-partitions"} <= told.keys()
    for own in ("policy='/none'", "partition-id=1", "client-folder='/tmp'"):
        with pytest.raises(SettingError, match=f"--node-config {own.partition('=')[0]}: the kit says it; leave it out"):
            started_with([*kit, "--node-config", own])


@pytest.mark.parametrize(
    "changes",
    [
        {"partitions": "4 x='"}, {"partition": 2}, {"partition": True}, {"site": "a' policy='/x"}, {"federation": 5},
        {"superlink": "fed --insecure"}, {"fedwarm": "1; rm"}, {"fingerprint": 3}, {"flwr": None}, {"schema": 2}, {"more": 1},
    ],
)  # fmt: skip
def test_a_kit_that_says_what_it_must_not_starts_nothing(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    joined(said, "hospital-a", tmp_path)
    file = tmp_path / "hospital-a/kit.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(SettingError, match="holds no kit that can be read|is not the CA"):
        started_with(["--kit", str(tmp_path / "hospital-a")])


def test_a_kit_with_a_second_ca_is_refused(said: str, tmp_path: Path) -> None:
    joined(said, "hospital-a", tmp_path)
    found(f"{tmp_path}/other", "x.org", 1, 1, "")
    trust = tmp_path / "hospital-a/ca.crt"
    trust.write_bytes(trust.read_bytes() + (tmp_path / "other/certificates/ca.crt").read_bytes())
    with pytest.raises(SettingError, match=r"is not the CA that kit.json names"):
        read(tmp_path / "hospital-a")


def changed(file: Path, **parts: bytes) -> Path:
    """A kit with other parts; a name's dot is a `_`."""
    with zipfile.ZipFile(file) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file.with_name("changed.zip"), "w") as archive:
        for name, content in held.items():
            archive.writestr(name, parts.get(name.replace(".", "_"), content))
    return file.with_name("changed.zip")


@pytest.mark.parametrize("how", ["another ca", "no ca", "no text", "no json", "another ca and fingerprint", "a bit", "encrypted"])
def test_a_kit_that_is_not_whole_changes_nothing_at_a_site(how: str, said: str, tmp_path: Path) -> None:
    joined(said, "hospital-a", tmp_path)
    folder, file, trusted = tmp_path / "hospital-a", tmp_path / "hospital-a.zip", ""
    if how.startswith("another"):
        found(f"{tmp_path}/other", "x.org", 1, 1, "")
        authority = (tmp_path / "other/certificates/ca.crt").read_bytes()
        told = json.loads((folder / "kit.json").read_text())
        told |= {"fingerprint": fingerprint(authority)} if "fingerprint" in how else {}
        trusted = read(folder).fingerprint if "fingerprint" in how else ""
        bad = changed(file, ca_crt=authority, kit_json=json.dumps(told).encode())
    elif how in ("a bit", "encrypted"):
        content, bad = bytearray(file.read_bytes()), tmp_path / "bad.zip"
        content[content.rfind(b"README.md") - 46 + 8 if how == "encrypted" else content.find(b"README.md") + 12] ^= 1
        bad.write_bytes(content)
    else:
        trusted = read(folder).fingerprint
        bad = changed(
            file, **{"no ca": {"ca_crt": b"none"}, "no text": {"README_md": b"\xff"}, "no json": {"kit_json": b"["}}[how]
        )
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SettingError):
        join(bad, folder, tmp_path / "data", trusted)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_whose_kit_was_damaged_is_mended_by_the_kit(said: str, tmp_path: Path) -> None:
    line = joined(said, "hospital-a", tmp_path)
    (tmp_path / "hospital-a/kit.json").write_text("{")
    assert join(tmp_path / "hospital-a.zip", tmp_path / "hospital-a", None)[1] == line


def test_a_sites_folder_has_its_name_whatever_the_file_is_called(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_kit(said, "ward.3", tmp_path / "ward.3 (1).zip")
    line = join(tmp_path / "ward.3 (1).zip", None, None)[1]
    assert read(tmp_path / "ward.3").site == "ward.3" and join(tmp_path / "ward.3 (1).zip", None, None)[1] == line


def test_a_private_key_stays_when_its_public_half_is_lost(said: str, tmp_path: Path) -> None:
    line = joined(said, "hospital-a", tmp_path)
    key = tmp_path / "hospital-a/key"
    before = key.read_bytes()
    key.with_name("key.pub").unlink()
    assert joined(said, "hospital-a", tmp_path) == line and key.read_bytes() == before
    key.with_name("key.pub").unlink()
    key.write_text("damaged")
    with pytest.raises(SettingError, match="key cannot be read as a private key .*restore it, or remove it"):
        joined(said, "hospital-a", tmp_path)
    assert key.read_text() == "damaged"


def test_two_nodes_of_one_machine_take_ports_of_their_own(said: str, tmp_path: Path) -> None:
    joined(said, "hospital-a", tmp_path)
    words, others = (started_with(["--kit", str(tmp_path / "hospital-a")]) for _ in range(2))  # neither listens yet
    assert words[-4:-1] == others[-4:-1] == ["--host", HOST, "--port"] and words[-1] != others[-1]
    assert started_with(["--kit", str(tmp_path / "hospital-a"), "--port", "7"])[-2:] == ["--port", "7"]


def test_what_is_wrong_with_a_kit_is_said(said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(SettingError, match=r"bad.zip is no kit"):
        join(tmp_path / "bad.zip", tmp_path / "a", None)
    joined(said, "hospital-a", tmp_path)
    make_kit(said, "hospital-b", tmp_path / "b.zip")
    with pytest.raises(SettingError, match="is the folder of the site 'hospital-a'"):
        join(tmp_path / "b.zip", tmp_path / "hospital-a", None)
    with pytest.raises(SettingError, match="use neither, and ask for both again"):
        join(tmp_path / "b.zip", tmp_path / "b", None, "AA:BB")
    found(f"{tmp_path}/other", "x.org", 1, 1, "")
    other = (tmp_path / "other/certificates/ca.crt").read_bytes()
    (tmp_path / "hospital-a/ca.crt").write_bytes(other)
    with pytest.raises(SettingError, match=r"is not the CA that kit.json names"):
        read(tmp_path / "hospital-a")


def test_versions_that_do_not_fit_are_refused_by_the_site(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined(said, "hospital-a", tmp_path)
    kit = read(tmp_path / "hospital-a")
    assert skew(kit) == "" and skew(kit, fedwarm=f"{VERSION}.9") == ""
    assert f"fedwarm {VERSION} at the server and 9.1.0 here; install fedwarm=={VERSION} here" in skew(kit, fedwarm="9.1.0")
    assert f"install flwr=={kit.flwr} here" in skew(kit, flwr="1.2.3")
    told = json.loads((tmp_path / "hospital-a/kit.json").read_text())
    (tmp_path / "hospital-a/kit.json").write_text(json.dumps({**told, "flwr": "0.1.0"}))
    with pytest.raises(SettingError, match="versions do not fit"):
        started_with(["--kit", str(tmp_path / "hospital-a")])


def test_sites_are_let_in_by_name_and_shut_out(said: str, link: Link, tmp_path: Path) -> None:
    told: list[str] = []
    lines = [joined(said, site, tmp_path) for site in ("hospital-a", "hospital-b")]
    for line in lines:
        register(said, line, told.append)
    assert [each.name for each in link.seen] == ["hospital-a", "hospital-b"]
    with pytest.raises(SettingError, match=r"has 2 sites and may have no more; `--sites 3`"):
        make_kit(said, "hospital-c", tmp_path / "c.zip")
    assert make_kit(said, "hospital-c", tmp_path / "c.zip", sites=3)[0].partition == 2
    with pytest.raises(SettingError, match="this key is the one of 'hospital-a'"):
        register(said, lines[0].replace("hospital-a", "hospital-c"), told.append)
    with pytest.raises(SettingError, match=f"'hospital-x' has no kit.*kit hospital-x --federation {said}`"):
        register(said, lines[0].replace("hospital-a", "hospital-x"), told.append)
    with pytest.raises(SettingError, match="quote all of it"):
        register(said, "ecdsa-sha2-nistp384", told.append)
    with pytest.raises(SettingError, match="cut short"):
        register(said, lines[0].replace("AAAA", "AAA"), told.append)
    revoke(said, "hospital-b", told.append)
    assert [each.name for each in link.seen] == ["hospital-a"] and told[-1] == "hospital-b: its key is registered no more"
    with pytest.raises(SettingError, match="has let in no 'hospital-b'.*federation status"):
        revoke(said, "hospital-b", told.append)
    assert make_kit(said, "hospital-b", tmp_path / "b.zip")[0].partition == 1  # its number stays its own
    for name in ("key", "key.pub"):
        (tmp_path / "hospital-b" / name).unlink()
    register(said, joined(said, "hospital-b", tmp_path), told.append)
    assert link.seen[-1].key == read_public(tmp_path / "hospital-b/key.pub") and len(link.seen) == 2


def test_keys_that_came_while_the_superlink_was_down_are_let_in_when_it_is_up(said: str, tmp_path: Path) -> None:
    told: list[str] = []
    register(said, joined(said, "hospital-a", tmp_path), told.append)
    assert "is kept, and let in by `fedwarm federation up" in told[0]
    link = Link()
    kits.let_sites_in(load(said), link, told.append)  # type: ignore[arg-type]
    kits.let_sites_in(load(said), link, told.append)  # type: ignore[arg-type]
    assert [each.name for each in link.seen] == ["hospital-a"]


def test_a_key_that_is_refused_is_not_kept_and_the_one_in_force_stays(said: str, link: Link, tmp_path: Path) -> None:
    lines = {site: joined(said, site, tmp_path) for site in ("hospital-a", "hospital-b")}
    register(said, lines["hospital-a"], lambda line: None)
    revoke(said, "hospital-a", lambda line: None)
    for name in ("key", "key.pub"):
        (tmp_path / "hospital-a" / name).unlink()
    register(said, joined(said, "hospital-a", tmp_path), lambda line: None)
    kept, seen = (Path(said) / "sites/hospital-a.pub").read_text(), link.nodes()
    link.refused = {public_of(lines["hospital-a"].encode())}
    noted = (Path(said) / "audit.jsonl").read_text()
    with pytest.raises(RunError, match="the key of hospital-a was not registered: used before; have that node make a new one"):
        register(said, lines["hospital-a"], lambda line: None)
    assert link.seen == seen and (Path(said) / "sites/hospital-a.pub").read_text() == kept
    assert (Path(said) / "audit.jsonl").read_text() == noted


def test_one_key_that_is_refused_keeps_nobody_else_out(said: str, tmp_path: Path) -> None:
    lines, told, link = [joined(said, site, tmp_path) for site in ("hospital-a", "hospital-b")], [], Link()  # type: ignore[var-annotated]
    for line in lines:
        register(said, line, lambda line: None)
    link.refused = {public_of(lines[0].encode())}
    kits.let_sites_in(load(said), link, told.append)  # type: ignore[arg-type]
    assert [each.name for each in link.seen] == ["hospital-b"]
    assert told[0].startswith("the key of hospital-a was not registered: used before")


def test_a_federation_is_called_by_addresses_alone(said: str, tmp_path: Path) -> None:
    before = (Path(said) / "federation.json").read_text()
    for address in ("https://fed.example.org:8443", "a..b:8443"):
        with pytest.raises(SettingError, match="^--address "):
            make_kit(said, "hospital-a", tmp_path / "a.zip", address)
    assert (Path(said) / "federation.json").read_text() == before
    with pytest.raises(SettingError, match="^--host 'bad host' is neither"):
        found(f"{tmp_path}/bad", "bad host", 8443, 2, "")
    assert not (tmp_path / "bad").exists()
    assert found(f"{tmp_path}/six", "::1", 8443, 2, "").outside == "[::1]:8443"
    assert found(f"{tmp_path}/seven", "[::1]", 8443, 2, "").outside == "[::1]:8443"
    assert found(f"{tmp_path}/u", "münchen.de", 8443, 2, "").outside == "xn--mnchen-3ya.de:8443"


def test_a_folder_that_holds_anything_else_stays_as_it_was(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "notes.txt").touch()
    mode = shared.stat().st_mode
    for make in (lambda: found(str(shared), "x.org", 8443, 2, ""), lambda: prepare(str(shared), Wanted())):
        with pytest.raises(SettingError, match="shared holds other files"):
            make()
    assert shared.stat().st_mode == mode and [each.name for each in shared.iterdir()] == ["notes.txt"]


def test_there_may_not_be_fewer_sites_than_there_are(said: str, tmp_path: Path) -> None:
    for site in ("hospital-a", "hospital-b"):
        make_kit(said, site, tmp_path / "kit.zip")
    with pytest.raises(SettingError, match="--sites 1 is too few: .* has 2 sites"):
        make_kit(said, "hospital-a", tmp_path / "kit.zip", sites=1)
    assert load(said).most_sites == 2


def test_a_ca_of_which_a_file_is_missing_is_not_replaced(said: str) -> None:
    folder = Path(said) / "certificates"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("ca.key", "ca.crt"):
        (folder / name).unlink()
        with pytest.raises(SettingError, match=f"{name} is missing; put it back"):
            renew(said, lambda line: None)
        assert {path.name for path in folder.iterdir()} == before.keys() - {name}
        (folder / name).write_bytes(before[name])


def test_a_cas_key_may_be_kept_elsewhere_while_nothing_is_issued(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, "a", ["127.0.0.1"])
    (tmp_path / "ca.key").rename(tmp_path / "elsewhere")
    assert not ensure_certificates(tmp_path, "a", ["127.0.0.1"])
    for addresses, when in ((["127.0.0.2"], None), (["127.0.0.1"], datetime.now(UTC) + timedelta(days=3000))):
        with pytest.raises(SettingError, match="ca.key is missing; put it back"):
            ensure_certificates(tmp_path, "a", addresses, when)
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(SettingError, match=r"ca\.crt cannot be read .*; put it back"):
        ensure_certificates(tmp_path, "a", ["127.0.0.1"])


def server_certificate(said: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((Path(said) / "certificates/server.crt").read_bytes())


def test_a_certificate_is_renewed_in_time_and_by_hand(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, told = server_certificate(said), []  # type: x509.Certificate, list[str]
    names = before.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "fed.example.org" in names.get_values_for_type(x509.DNSName)
    authority = (Path(said) / "certificates/ca.crt").read_bytes()
    monkeypatch.setattr(status, "living", lambda federation, member: None)
    assert not any("certificate" in note for note in status.status(load(said)).notes)
    monkeypatch.setattr(status, "ends", lambda file: datetime.now(UTC) + timedelta(days=20, hours=1))
    assert (
        f"the certificate ends in 20 days; `fedwarm federation renew --federation {said}` issues it anew"
        in status.status(load(said)).notes
    )
    monkeypatch.setattr(status, "ends", lambda file: datetime(2026, 2, 3, tzinfo=UTC))
    assert any(
        note.startswith("the certificate ended on 2026-02-03, and sites are shut out") for note in status.status(load(said)).notes
    )
    renew(said, told.append)
    assert server_certificate(said).serial_number != before.serial_number
    assert (Path(said) / "certificates/ca.crt").read_bytes() == authority and "issued anew" in told[0]


def test_a_ca_that_ends_within_a_year_is_issued_anew_and_old_kits_are_spoken_of(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = Path(said) / "certificates", []  # type: Path, list[str]
    monkeypatch.setattr(status, "living", lambda federation, member: None)
    renew(said, told.append)
    assert not (folder / BEFORE).exists() and not any("CA" in note for note in status.status(load(said)).notes)
    for name in ("ca.crt", "ca.key", "server.crt", "server.key"):
        (folder / name).unlink()
    ends = datetime.now(UTC) + timedelta(days=100)
    ensure_certificates(folder, load(said).name, ["localhost"], ends - timedelta(days=CA_DAYS))
    renew(said, told.append)
    kit, _ = make_kit(said, "hospital-a", Path(said) / "new.zip")
    assert kit.fingerprint == fingerprint((folder / "ca.crt").read_bytes()) != fingerprint((folder / BEFORE).read_bytes())
    (note,) = [note for note in status.status(load(said)).notes if "CA" in note]
    assert note.startswith(f"the CA was issued anew, and what kits from before hold end on {ends:%Y-%m-%d}; make each site a new")


def test_the_server_stands_behind_a_proxy_unless_it_is_asked_to_listen(said: str, tmp_path: Path) -> None:
    proxy = (Path(said) / "proxy.conf").read_text()
    federation = load(said)
    assert f"https://{federation.address}" in proxy and "listen 8443 ssl" in proxy and "return 403" in proxy
    open_ = found(f"{tmp_path}/open", "10.0.0.1", 8443, 2, "0.0.0.0")
    assert (open_.host, open_.port) == ("0.0.0.0", 8443) and not (open_.folder / "proxy.conf").exists()
    with pytest.raises(SettingError, match="there is a federation"):
        found(said, "x.org", 1, 1, "")
    with pytest.raises(SettingError, match="nodes are at their sites"):
        up(said, Wanted(nodes=2), lambda line: None)
    assert prepare(said, Wanted()).members == ["superlink", "superexec"]


def test_the_state_tells_of_sites_with_and_without_a_key(said: str, link: Link, tmp_path: Path) -> None:
    register(said, joined(said, "hospital-a", tmp_path), lambda line: None)
    make_kit(said, "hospital-b", tmp_path / "b.zip")
    rows = status._sites(load(said), link.nodes())
    assert [(each.name, each.partition, each.state) for each in rows] == [
        ("hospital-a", 0, "online"),
        ("hospital-b", 1, "no key is registered"),
    ]


def test_a_kit_is_for_federations_of_sites(tmp_path: Path) -> None:
    Federation("here", tmp_path / "here").save()
    with pytest.raises(SettingError, match="`fedwarm federation new` founds another"):
        make_kit(f"{tmp_path}/here", "a", tmp_path / "a.zip")
    far = Federation("far", tmp_path / "far", remote=True, host="fed.example.org", port=8444)
    far.save()
    (tmp_path / "far/certificates").mkdir()
    found(f"{tmp_path}/ca", "x.org", 1, 1, "")
    (tmp_path / "far/certificates/ca.crt").write_bytes((tmp_path / "ca/certificates/ca.crt").read_bytes())
    with pytest.raises(SettingError, match="give --address HOST:PORT"):
        make_kit(f"{tmp_path}/far", "a", tmp_path / "a.zip")
    assert make_kit(f"{tmp_path}/far", "a", tmp_path / "a.zip", "fed.example.org:8443", 3)[0].superlink == "fed.example.org:8443"
