"""What a site that joins by its kit is told: its policy, all that the kit says for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedwarm.core.payload import Payload
from fedwarm.federation.kits import found, make_kit
from fedwarm.node.checks import Site
from fedwarm.node.finding import FAULT, OK
from fedwarm.node.kit import join, look_at_kit
from fedwarm.node.trying import look_at_policy
from fedwarm.rounds.fleet import UnfitError
from fedwarm.rounds.register import check_versions


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """The folder of a site that joined."""
    found(f"{tmp_path}/fed", "fed.example.org", 8443, 2, "")
    make_kit(f"{tmp_path}/fed", "hospital-a", tmp_path / "a.zip")
    join(tmp_path / "a.zip", tmp_path / "a", tmp_path / "pictures")
    return tmp_path / "a"


def test_the_kit_says_what_is_looked_at(kit: Path, tmp_path: Path) -> None:
    told = Site(kit=kit).told()
    assert (told.superlink, told.authority, told.key) == ("fed.example.org:8443", kit / "ca.crt", kit / "key")
    assert told.data == tmp_path / "pictures"
    assert Site(kit=kit, superlink="other:1", data=tmp_path).told().superlink == "other:1"
    (finding,) = look_at_kit(kit)
    assert finding.level == OK and finding.text == "site hospital-a, client 0 of 2 of federation fed"
    (kit / "kit.json").unlink()
    (finding,) = look_at_kit(kit)
    assert finding.level == FAULT and "`fedwarm node join KIT.zip` unpacks one" in finding.text


def test_a_policy_is_read_before_it_is_needed(kit: Path) -> None:
    policy = kit / "policy.toml"
    assert look_at_policy(policy).text.endswith("bounds nothing; every run is allowed")
    policy.write_text(policy.read_text().replace("# methods", "methods").replace("# most-seconds", "most-seconds"))
    assert look_at_policy(policy).text.endswith("bounds methods, most-seconds")
    every = "\n".join(line.removeprefix("# ") for line in policy.read_text().splitlines()[2:])
    policy.write_text(every)
    assert (look_at_policy(policy).level, look_at_policy(policy).text.count("-")) == (OK, 4 + policy.as_posix().count("-"))
    policy.write_text("most = 3")
    assert look_at_policy(policy).level == FAULT


OWN = {"fedwarm": "0.1.0", "flwr": "1.42.0"}


def test_a_node_of_another_version_does_not_take_part() -> None:
    check_versions(Payload(facts={"fedwarm": "0.1.7"}), OWN)
    check_versions(Payload(), OWN)
    with pytest.raises(UnfitError, match=r"it runs fedwarm '?0.2.0'? and the server 0.1.0; install fedwarm==0.1.0 there"):
        check_versions(Payload(facts={"fedwarm": "0.2.0"}), OWN)
    with pytest.raises(UnfitError, match=r"it runs flwr '?1.41.0'? and the server 1.42.0; install flwr==1.42.0 there"):
        check_versions(Payload(facts={"fedwarm": "0.1.0", "flwr": "1.41.0"}), OWN)
