"""Whether a proxy stands between this machine's SuperNode and its SuperLink: what Flower's HTTP client does with the variables.

Flower calls by httpx, which takes `HTTPS_PROXY` and `ALL_PROXY` in either spelling, and of `NO_PROXY` whole names, what ends with
a dot and one of them, and addresses one by one: a range such as 10.0.0.0/8 covers nothing
(https://www.python-httpx.org/environment_variables/, and its source). Docker copies the host's variables into containers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from urllib.request import getproxies

from fedwarm.node.finding import Finding, fault, ok

TOPIC = "proxy"


def look_at_proxy(host: str, port: int, proxies: Mapping[str, str] | None = None) -> Finding:
    """Whether a SuperNode calls its SuperLink itself; `proxies` as `urllib.request.getproxies` tells them."""
    told = getproxies() if proxies is None else proxies
    proxy = told.get("https") or told.get("all")
    if not proxy:
        return ok(TOPIC, "no proxy is set in this environment")
    if is_direct(host, port, told.get("no", "")):
        return ok(TOPIC, f"{proxy.rpartition('@')[2]} is set, and NO_PROXY leaves {host} out of it")
    return fault(
        TOPIC,
        f"a SuperNode would call {proxy.rpartition('@')[2]} and not {host}; add {host} to NO_PROXY and no_proxy in its "
        "environment (in its container, too: Docker copies the host's proxy there)",
    )


def is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY leaves a host out."""
    return any(_covers(entry.strip().lower(), host.lower(), port) for entry in no_proxy.split(","))


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    scheme, _, entry = entry.rpartition("://")
    if not entry or scheme not in ("", "all", "https"):
        return False
    if (address := _address(entry)) is not None:
        return address == _address(host)
    name, colon, number = entry.partition(":")
    if colon and number != str(port):
        return False
    if scheme or name == "localhost" or _address(name) is not None:
        return name == host
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with suppress(ValueError):
        return ipaddress.ip_address(text.strip("[]"))
    return None
