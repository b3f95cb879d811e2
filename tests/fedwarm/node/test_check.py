"""What a site is told before it joins: servers are played on loopback, with certificates of every kind of fault."""

from __future__ import annotations

import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from fedwarm.cli.app import main
from fedwarm.flower.certificates import BEFORE, CA_DAYS, SERVER_DAYS, ensure_certificates, ensure_node_key
from fedwarm.flower.processes import LOOPBACK, free_ports
from fedwarm.node import network, proxy
from fedwarm.node.certificate import matches
from fedwarm.node.checks import Site, look, verdict
from fedwarm.node.finding import FAULT, OK, UNSEEN, WARNING, Finding
from fedwarm.settings.fields import SettingError

NOW = datetime.now(UTC)
HERE = [LOOPBACK, "localhost"]
LINK = f'{{"info": {{"title": "SuperLink API", "version": "{version("flwr")}"}}}}'


class Played(ThreadingHTTPServer):
    """A SuperLink: `skew` is how far its clock is ahead, `answers` what it answers by path (status and content)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), Handler)
        self.skew, self.answers = 0.0, {"/health": (200, ""), network.FLEET: (405, ""), "/openapi.json": (200, LINK)}


class Handler(BaseHTTPRequestHandler):
    server: Played

    def do_GET(self) -> None:
        status, content = self.server.answers.get(self.path, (404, ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content.encode())

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.server.skew)

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@contextmanager
def served(certificates: Path | None) -> Iterator[Played]:
    """With the certificate of a folder; None: without TLS."""
    with Played() as server:
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("good"))


def made(folder: Path, name: str = "mine", addresses: list[str] = HERE, days: float = 0.0) -> Path:
    """Certificates that were issued so many days ago."""
    ensure_certificates(folder, name, addresses, NOW - timedelta(days=days))
    return folder


def found(port: int, host: str = LOOPBACK, authority: Path | None = None) -> dict[str, list[Finding]]:
    """All findings about the network, by topic."""
    by_topic: dict[str, list[Finding]] = {}
    for each in network.look_at_network(host, port, authority):
        by_topic.setdefault(each.topic, []).append(each)
    return by_topic


def only(findings: list[Finding]) -> tuple[str, str]:
    assert len(findings) == 1, findings
    return findings[0].level, findings[0].text


def test_a_site_that_is_as_it_should_be(good: Path, tmp_path: Path) -> None:
    ensure_node_key(tmp_path / "key")
    with served(good) as link:
        told = [*look(Site(f"localhost:{link.server_port}", good / "ca.crt", tmp_path / "key"))]
    assert [each.topic for each in told[:8]] == ["proxy", "name", "port", "certificate", "clock", "server", "version", "key"]
    assert {each.level for each in told[:8]} == {OK} and told[-1].line == "-        data: not looked at, as --data is not given"
    assert "signed by 'fedwarm federation mine'" in told[3].text and "SHA256:" in told[7].text
    assert verdict(told[:8]) == "ready"


@pytest.mark.parametrize(
    ("days", "level", "said"),
    [
        (SERVER_DAYS + 1, FAULT, f"it ended on {NOW - timedelta(days=1):%Y-%m-%d}"),
        (-1, FAULT, "it is valid from "),
        (SERVER_DAYS - 20.5, WARNING, "in 20 days"),
    ],
)
def test_a_certificate_that_ended_or_ends_soon_or_is_not_valid_yet(days: float, level: str, said: str, tmp_path: Path) -> None:
    with served(made(tmp_path, days=days)) as link:
        told = found(link.server_port, authority=tmp_path / "ca.crt")
    assert said in told["certificate"][-1].text and {each.level for each in told["certificate"]} == {level}
    assert told["clock"][0].level == OK, "all else is looked at"


def test_a_ca_that_ended_is_told_apart_from_its_servers_certificate(tmp_path: Path) -> None:
    with served(made(tmp_path, days=CA_DAYS + 1)) as link:
        first, second = found(link.server_port, authority=tmp_path / "ca.crt")["certificate"]
    assert first.text.startswith(f"the CA in {tmp_path / 'ca.crt'} ended on") and second.text.startswith("it ended on")


def test_a_ca_that_was_issued_anew_shuts_out_nobody_who_holds_the_one_before(tmp_path: Path) -> None:
    made(tmp_path, days=CA_DAYS - 300)
    before = (tmp_path / "ca.crt").read_bytes()
    made(tmp_path)
    assert (tmp_path / BEFORE).read_bytes() == before != (tmp_path / "ca.crt").read_bytes()
    with served(tmp_path) as link:
        for trust in (BEFORE, "ca.crt"):
            (told,) = found(link.server_port, authority=tmp_path / trust)["certificate"]
            assert told.level == OK and f"until {NOW + timedelta(days=SERVER_DAYS):%Y-%m-%d}" in told.text
    made(tmp_path)
    assert (tmp_path / BEFORE).read_bytes() == before, "the new one lasts, and is not issued again"


def test_another_ca_another_name_and_no_ca_at_all(good: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other", "theirs")
    same = made(tmp_path / "same", "mine")
    away = made(tmp_path / "away", addresses=["superlink.example.org", "*.hospital.example"])
    with served(good) as link:
        port = link.server_port
        level, said = only(found(port, authority=other / "ca.crt")["certificate"])
        assert level == FAULT and "signed by 'fedwarm federation mine' and not by 'fedwarm federation theirs'" in said
        assert "signed by another CA of the same name" in only(found(port, authority=same / "ca.crt")["certificate"])[1]
        assert "which this machine does not know; give the federation's CA by --ca" in only(found(port)["certificate"])[1]
        assert "cannot be read (No such file" in only(found(port, authority=tmp_path / "none")["certificate"])[1]
        assert "no certificate in PEM" in only(found(port, authority=good / "server.key")["certificate"])[1]
    with served(away) as link:
        level, said = only(found(link.server_port, authority=away / "ca.crt")["certificate"])
        assert level == FAULT and "it is not for 127.0.0.1 but for superlink.example.org, *.hospital.example;" in said


def test_names_are_matched_as_tls_does(tmp_path: Path) -> None:
    """Against what the ssl module says of the same certificate in a handshake."""
    names = ["localhost", "*.hospital.example"]
    for host, good in (
        ("LOCALHOST", True),
        ("a.hospital.example", True),
        ("hospital.example", False),
        ("a.b.hospital.example", False),
    ):
        assert any(matches(host, name) for name in names) is good
        assert _handshakes(made(tmp_path / host, addresses=names), host) is good


def _handshakes(folder: Path, host: str) -> bool:
    serving, calling = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    serving.load_cert_chain(folder / "server.crt", folder / "server.key")
    calling.load_verify_locations(folder / "ca.crt")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, there = calling.wrap_bio(down, up, server_hostname=host), serving.wrap_bio(up, down, server_side=True)
    for end in (client, there, client):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_a_server_without_tls_and_one_that_says_nothing_of_use(good: Path) -> None:
    with served(None) as link:
        told = found(link.server_port, authority=good / "ca.crt")
        assert "speaks HTTP without TLS" in only(told["certificate"])[1] and told["server"][0].level == OK
        link.answers = {}
        told = found(link.server_port, authority=good / "ca.crt")
        assert "no SuperLink (/health is HTTP 404, /v1/fleet/pull-messages 404)" in only(told["server"])[1]
        assert told["version"][0].level == UNSEEN


def test_a_door_that_is_not_the_nodes_and_another_flower(good: Path) -> None:
    with served(good) as link:
        link.answers |= {network.FLEET: (403, ""), "/openapi.json": (200, LINK.replace(version("flwr"), "1.2.3"))}
        told = found(link.server_port, authority=good / "ca.crt")
        assert only(told["server"]) == (FAULT, told["server"][0].text) and "is HTTP 403" in told["server"][0].text
        assert only(told["version"]) == (
            FAULT,
            f"the SuperLink runs Flower 1.2.3, here it is {version('flwr')}; install flwr==1.2.3",
        )
        link.answers["/openapi.json"] = (200, "[]")
        assert found(link.server_port, authority=good / "ca.crt")["version"][0].level == UNSEEN


def test_a_port_that_nobody_listens_on_and_a_name_that_nobody_knows(good: Path) -> None:
    told = found(free_ports(1)[0])
    assert "cannot be reached (Connection refused)" in only(told["port"])[1]
    assert {each.level for topic in ("certificate", "clock", "server", "version") for each in told[topic]} == {UNSEEN}
    told = found(8000, host="nowhere.invalid")
    assert told["name"][0].level == FAULT and told["port"][0].text == "not looked at, as the name is not known"


@pytest.mark.parametrize(("skew", "level"), [(0, OK), (-4, WARNING), (-10, FAULT), (100, WARNING), (400, FAULT)])
def test_flower_bears_a_clock_that_is_behind_longer_than_one_that_is_ahead(skew: float, level: str, good: Path) -> None:
    """`skew` is the server's: where that is behind, the node is ahead."""
    with served(good) as link:
        link.skew = skew
        told = found(link.server_port, authority=good / "ca.crt")["clock"]
    assert told[0].level == level and ("behind the SuperLink's" if skew > 0 else "ahead of") in (
        told[0].text + ("" if skew else "ahead of")
    )
    assert (
        network.AHEAD_SECONDS == SYSTEM_TIME_TOLERANCE and network.BEHIND_SECONDS == TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
    )


def test_a_date_that_is_none_is_no_clock() -> None:
    assert network.clock("", 0.0).level == network.clock("yesterday", 0.0).level == UNSEEN
    assert network.clock("Thu, 01 Jan 1970 00:01:00 GMT", 60.5).level == OK


@pytest.mark.parametrize(
    "no_proxy",
    ["", "*", "superlink", "Example.org", ".example.org", "other,10.0.0.7", "10.0.0.0/8", "10.", "::1", "example.org:8000",
     "ample.org", "https://a.example.org", "http://superlink", "superlink:1", "localhost, superlink"],
)  # fmt: skip
def test_a_proxy_is_told_of_where_flowers_client_takes_it(no_proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against httpx, which is what Flower calls by."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with httpx.Client() as client:
        for host in ("superlink", "a.example.org", "example.org", "10.0.0.7", "::1", "localhost"):
            told = proxy.look_at_proxy(host, 8000)
            url = httpx.URL(f"https://{f'[{host}]' if ':' in host else host}:8000/")
            direct = client._transport_for_url(url) is client._transport
            assert (told.level == OK) is direct and "secret" not in told.text, host


def test_addresses_are_read_as_the_supernode_reads_them() -> None:
    assert network.parsed("superlink.example.org:8443") == ("superlink.example.org", 8443)
    assert network.parsed("[::1]:1") == ("::1", 1)
    for text in ("superlink", "https://superlink:1", "superlink:0", "superlink:70000", "::1:80", "", "a b:1"):
        with pytest.raises(SettingError, match="must be HOST:PORT"):
            network.parsed(text)
    with pytest.raises(SettingError, match="--superlink 'a..b' is neither a machine's name"):
        network.parsed("a..b:8443")


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fedwarm", "node", "check", *words])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out + told.err

    return run


def test_the_command_ends_in_ready_or_in_exit_code_2(command: Command, good: Path, tmp_path: Path) -> None:
    with served(good) as link:
        words = ("--superlink", f"{LOOPBACK}:{link.server_port}", "--ca", str(good / "ca.crt"))
        code, told = command(*words)
        assert (code, told.splitlines()[-1]) == (0, "ready") and told.count("\n") == len(told.splitlines())
        code, told = command(*words, "--key", str(tmp_path / "none"), "--data", str(tmp_path / "nowhere"))
        assert (code, told.splitlines()[-1]) == (2, "not ready: 2 faults to be mended")
        assert "is no folder here" in told and "ok       clock" in told
    assert command("--superlink", "nonsense") == (
        2,
        "fedwarm: --superlink 'nonsense' must be HOST:PORT without https://, e.g. superlink.example.org:8443\n",
    )
    assert command("-c", "data.nmae=1")[0] == 2
