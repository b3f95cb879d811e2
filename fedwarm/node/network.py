"""The way from this machine to its SuperLink: proxy, name, port, certificate, clock, and what answers there."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from importlib.metadata import version
from pathlib import Path

from fedwarm.core.names import checked_host
from fedwarm.node import certificate
from fedwarm.node.certificate import PATIENCE_SECONDS, look_at_certificate, shown_by, unverified
from fedwarm.node.finding import Finding, fault, ok, unseen, warning
from fedwarm.node.proxy import look_at_proxy
from fedwarm.settings.fields import SettingError

NAME, PORT, CLOCK, SERVER, FLOWER = "name", "port", "clock", "server", "version"
AHEAD_SECONDS, BEHIND_SECONDS = 5.0, 305.0
"""Flower refuses a request that was signed so long after or before its own now (TIMESTAMP_TOLERANCE, SYSTEM_TIME_TOLERANCE)."""
CLOSE_AHEAD, CLOSE_BEHIND = 2.0, 60.0
FLEET = "/v1/fleet/pull-messages"
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/@]+)):(?P<port>\d{1,5})")


def parsed(address: str) -> tuple[str, int]:
    """Host and port of `--superlink`.

    Raises:
        SettingError: it is no such address.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise SettingError(f"--superlink {address!r} must be HOST:PORT without https://, e.g. superlink.example.org:8443")
    return checked_host(found["six"] or found["host"], "--superlink"), int(found["port"])


def look_at_network(host: str, port: int, authority: Path | None) -> Iterator[Finding]:
    """All that lies between; what depends on something that failed is not looked at."""
    yield look_at_proxy(host, port)
    try:
        places = sorted({str(place[4][0]) for place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as error:
        yield fault(NAME, f"{host} is not known here ({error.strerror}); see its spelling, and this machine's DNS or /etc/hosts")
        yield from unseen("as the name is not known", PORT, certificate.TOPIC, CLOCK, SERVER, FLOWER)
        return
    yield ok(NAME, f"{host} is {', '.join(places)}")
    try:
        socket.create_connection((host, port), PATIENCE_SECONDS).close()
    except OSError as error:
        why = "no answer in 5 s" if isinstance(error, TimeoutError) else error.strerror
        yield fault(PORT, f"{port} of {host} cannot be reached ({why}); see that the SuperLink runs, and firewalls on the way")
        yield from unseen("as the port cannot be reached", certificate.TOPIC, CLOCK, SERVER, FLOWER)
        return
    yield ok(PORT, f"{port} can be reached")
    secure = True
    try:
        shown = shown_by(host, port)
    except (OSError, ValueError) as error:
        secure = False
        yield _without_tls(host, port, error)
    else:
        yield from look_at_certificate(host, port, authority, shown, datetime.now(UTC))
    yield from _served(host, port, secure)


def _without_tls(host: str, port: int, error: Exception) -> Finding:
    try:
        asked(host, port, "/health", secure=False)
    except (OSError, HTTPException):
        why = getattr(error, "reason", "") or getattr(error, "strerror", "") or type(error).__name__
        return fault(certificate.TOPIC, f"what listens at port {port} does not speak TLS ({why}); see the address")
    return fault(
        certificate.TOPIC,
        "the server speaks HTTP without TLS, and Flower takes no node keys so; it needs a certificate, or this is another port",
    )


def asked(host: str, port: int, path: str, *, secure: bool) -> tuple[HTTPResponse, bytes, float]:
    """A server's answer, its content, and this machine's time in the middle of it."""
    connection = HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    if secure:
        connection = HTTPSConnection(host, port, timeout=PATIENCE_SECONDS, context=unverified())
    try:
        connection.connect()
        begun = time.time()
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer, answer.read(2**22), (begun + time.time()) / 2
    finally:
        connection.close()


def _served(host: str, port: int, secure: bool) -> Iterator[Finding]:
    try:
        answer, _, here = asked(host, port, "/health", secure=secure)
        fleet, _, _ = asked(host, port, FLEET, secure=secure)
        described, content, _ = asked(host, port, "/openapi.json", secure=secure)
    except (OSError, HTTPException, ssl.SSLError) as error:
        yield from unseen(f"as the server does not answer ({type(error).__name__})", CLOCK, SERVER, FLOWER)
        return
    yield clock(answer.getheader("Date", ""), here)
    yield _door(answer.status, fleet.status)
    yield _flower(content if described.status == 200 else b"")


def clock(date: str, here: float) -> Finding:
    """How far this machine's clock (`here`, seconds since the epoch) is from a server's, by the date of its answer."""
    try:
        there = parsedate_to_datetime(date).timestamp() + 0.5  # it tells whole seconds
    except ValueError:
        return next(unseen("as the server's answer has no date", CLOCK))
    ahead = here - there
    far = f"this clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the SuperLink's"
    limits = f"Flower refuses a node more than {AHEAD_SECONDS:g} s ahead or {BEHIND_SECONDS:g} s behind"
    if ahead > AHEAD_SECONDS or -ahead > BEHIND_SECONDS:
        return fault(CLOCK, f"{far}; {limits}: set it, e.g. by NTP")
    if ahead > CLOSE_AHEAD or -ahead > CLOSE_BEHIND:
        return warning(CLOCK, f"{far}; {limits}: let NTP keep it")
    return ok(CLOCK, "as the SuperLink's, to a second or two")


def _door(health: int, fleet: int) -> Finding:
    """Whether nodes are let in where they knock: Flower has no answer to GET there but 405."""
    if fleet == 405:
        return ok(SERVER, "a SuperLink answers, and nodes are let in")
    if health == 200:
        return fault(SERVER, f"nodes are not let in here ({FLEET} is HTTP {fleet}); is it the nodes' port? See the proxy there")
    return fault(SERVER, f"what answers is no SuperLink (/health is HTTP {health}, {FLEET} {fleet}); see the address")


def _flower(description: bytes) -> Finding:
    own = version("flwr")
    try:
        told = json.loads(description)["info"]
        theirs = str(told["version"]) if "SuperLink" in told["title"] else ""
    except (ValueError, KeyError, TypeError):
        theirs = ""
    if not theirs:
        return next(unseen(f"as the server does not tell its own; here it is Flower {own}", FLOWER))
    if theirs.split(".")[:2] != own.split(".")[:2]:
        return fault(FLOWER, f"the SuperLink runs Flower {theirs}, here it is {own}; install flwr=={theirs}")
    return ok(FLOWER, f"Flower {theirs} there, {own} here")
