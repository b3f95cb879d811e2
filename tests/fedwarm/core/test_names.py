"""Names and addresses as people write them."""

from __future__ import annotations

import pytest

from fedwarm.core.names import address_of, checked_host, place_of
from fedwarm.settings.fields import SettingError


def test_hosts_are_kept_as_dns_and_sockets_take_them() -> None:
    told = {"a.b": "a.b", "10.0.0.1": "10.0.0.1", "::1": "::1", "[::1]": "::1", "münchen.de": "xn--mnchen-3ya.de", "a_b": "a_b"}
    assert {said: checked_host(said, "--host") for said in told} == told
    for said in ("", "a b", "a..b", "a" * 64, "[a]", "a:1", "::g", "a/b", "a;b"):
        with pytest.raises(SettingError, match="^--host .* is neither a machine's name nor its IP address"):
            checked_host(said, "--host")


def test_an_address_is_read_as_it_is_written() -> None:
    for host in ("a.b", "10.0.0.1", "::1"):
        assert place_of(address_of(host, 8443), "--address") == (host, 8443)
    for said in ("a", "[a]:1", "::1:1"):
        with pytest.raises(SettingError, match="^--address "):
            place_of(said, "--address")
