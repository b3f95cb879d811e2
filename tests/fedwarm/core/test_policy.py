"""A site's policy: what it reads, what it refuses, and that what a run asks for cannot loosen it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fedwarm.core.policy import Policy, policy_of
from fedwarm.core.refusals import POLICY, RefusalError, reason_of
from fedwarm.settings.fields import SettingError


def policy(tmp_path: Path, text: str) -> Policy:
    (tmp_path / "policy.toml").write_text(text)
    return policy_of({"policy": str(tmp_path / "policy.toml")})


def test_nothing_said_bounds_nothing(tmp_path: Path) -> None:
    assert policy(tmp_path, "# nothing\n") == policy_of({}) == Policy()
    Policy().check_run("any", ["learning-rate"])
    Policy().check_action("evaluate")
    Policy().check_reply(10**12)
    assert Policy().limits({"limits.most-epsilon": 3.0}) == {}
    with Policy().in_time():
        pass


def test_methods_and_settings_are_bounded(tmp_path: Path) -> None:
    own = policy(tmp_path, 'methods = ["a", "b"]\nsettings = ["learning-rate", "data.*"]\n')
    own.check_run("a", ["learning-rate", "data.alpha", "set", "nodes.partitions"])
    with pytest.raises(RefusalError, match="allows the methods a, b, and the run's is c"):
        own.check_run("c", [])
    with pytest.raises(RefusalError, match="lets no run change local-epochs from its default") as error:
        own.check_run("a", ["local-epochs"])
    assert reason_of(str(error.value)) == reason_of(f"client 3: {error.value}") == POLICY
    with pytest.raises(RefusalError, match="allows the methods none"):
        policy(tmp_path, "methods = []").check_run("a", [])
    none = policy(tmp_path, "settings = []")
    none.check_run("a", ["set", "nodes.partitions"])  # what changes no result
    with pytest.raises(RefusalError, match="lets no run change local-epochs from its default"):
        none.check_run("a", ["local-epochs"])


def test_limits_are_the_stricter_of_both(tmp_path: Path) -> None:
    own = policy(tmp_path, "most-epsilon = 4\nleast-noise = 0.5\n")
    assert own.limits({}) == {"limits.most-epsilon": 4.0, "limits.delta": 1e-5, "limits.least-noise": 0.5}
    given = {"limits.most-epsilon": 2.0, "limits.least-noise": 0.1, "limits.delta": 1e-6}
    assert own.limits(given) == {"limits.most-epsilon": 2.0, "limits.delta": 1e-6, "limits.least-noise": 0.5}
    assert own.limits({"limits.most-epsilon": 9.0})["limits.most-epsilon"] == 4.0


def test_bytes_and_metrics(tmp_path: Path) -> None:
    own = policy(tmp_path, 'most-bytes = 1_000\nmetrics = "nobody"\n')
    own.check_reply(1000)
    with pytest.raises(RefusalError, match="lets 1,000 bytes of a reply leave, and this has 1,001"):
        own.check_reply(1001)
    with pytest.raises(RefusalError, match="nobody may read how well"):
        own.check_action("evaluate")
    own.check_action("round")
    told = {"train-loss": 1.0, "num-examples": 3, "correct-global": 2, "validation-loss": 1.0}
    assert own.shared(told, {"sums-x": [1.0], "partition": 1}) == ({"num-examples": 3}, {"partition": 1})
    assert Policy().shared(told, {})[0] == told


def test_time_is_bounded_also_where_it_cannot_be_broken_off(tmp_path: Path) -> None:
    own = policy(tmp_path, "most-seconds = 0.05")
    begun = time.monotonic()
    with pytest.raises(RefusalError, match=r"gives a message 0.05 s"), own.in_time():
        time.sleep(20)
    assert time.monotonic() - begun < 15
    seen: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with own.in_time():
                time.sleep(0.1)
        except RefusalError as error:
            seen.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(seen) == 1
    with policy(tmp_path, "most-seconds = 1e300").in_time():
        pass
    with policy(tmp_path, "most-seconds = 60").in_time():
        pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method = ['a']", "has no key 'method', did you mean 'methods'"),
        ("methods = 'a'", "must be a list of names"),
        ("metrics = 'all'", "must be 'server' or 'nobody'"),
        ("most-epsilon = -1", "must be a number from 0 on"),
        ("most-epsilon = true", "must be a number from 0 on"),
        ("most-seconds", "cannot be read"),
        ("most-epsilon = 0", "it must be above 0"),
        ("most-bytes = 0", "it must be above 0"),
        ("most-bytes = 0.5", "must be a whole number"),
        ("delta = 5", "must be between 0 and 1"),
        ("delta = 0", "must be between 0 and 1"),
    ],
)
def test_a_policy_that_is_none_stops_everything(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as error:
        policy(tmp_path, text)
    assert said.split(",")[0] in str(error.value)
    with pytest.raises(SettingError, match="nothing is done here without it"):
        policy_of({"policy": str(tmp_path / "none.toml")})
