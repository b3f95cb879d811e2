"""A private run from end to end: how many clients a method has where nobody says, and its last lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedwarm.catalogue import parse
from fedwarm.launch.preflight import usual_clients
from fedwarm.launch.request import own_defaults
from fedwarm.launch.run import Request, privacy_lines, run_method
from fedwarm.settings.fields import Value

TOLD: dict[str, Any] = {"epsilon": 1.98412, "delta": 1e-5, "view": "central_certified", "certified": True}


@pytest.mark.parametrize(
    ("settings", "clients"),
    [
        ({"method": "fedavg"}, 4),
        ({"method": "dp_rec"}, 200),
        ({"method": "dp_rec", "data.partition": "iid"}, 200),
        ({"method": "dp_rec", "data.public-share": 0.9}, 44),
        ({"method": "dp_rec", "data.partition": "natural", "data.partition-by": "label"}, 10),
        ({"method": "fedavg", "data.partition": "iid", "codec": "dp-rec"}, 10),
    ],
)
def test_a_method_has_as_many_clients_as_it_is_made_for(settings: dict[str, Value], clients: int) -> None:
    assert usual_clients(parse(settings)) == clients


def test_defaults_of_a_method_go_to_engines_by_name() -> None:
    """Some engines fill settings up before the run reads them, and a default among them says nothing."""
    assert own_defaults(parse({"method": "fedspeed"})) == {}
    found = own_defaults(parse({"method": "dp_rec", "learning-rate": 0.01}))
    assert found["dp-rec.view"] == "central_certified" and found["learning-rate"] == 0.01 and len(found) == 5
    assert own_defaults(parse({"method": "dp_rec", "dp-rec.downlink": "replay"})).keys() == found.keys() - {"dp-rec.view"}


def test_epsilon_is_told_with_what_it_is_stated_for() -> None:
    assert [*privacy_lines(None)] == []
    words = "epsilon 1.984 at delta 1e-05, view central_certified, certified"
    assert [*privacy_lines(TOLD)] == [("privacy", words)]
    image = {**TOLD, "view": "example", "epsilon": 3.0, "certified": False}
    both = [*privacy_lines({**TOLD, "example_level": image})]
    assert both == [("privacy", words), ("  of an image", "epsilon 3 at delta 1e-05, view example, not certified")]


@pytest.mark.parametrize("settings", ["codec='dp-rec'", "method='dp_rec'"])
def test_a_private_run_says_before_and_after_what_it_promises(
    settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = "dp_rec" if "method" in settings else "fedavg"
    more = "" if "method" in settings else settings
    small = f"data.image-size=8 data.max-examples=4 local-epochs=1 {more}"
    run_method(Request(method, out=tmp_path / "run", rounds=1, clients=4, workers=1, run_config=(small,)))
    said = capsys.readouterr()
    view = "central_certified" if method == "dp_rec" else "local"
    (line,) = [line for line in said.out.splitlines() if line.startswith("privacy ")]
    assert f"at delta 1e-05, view {view}, certified" in line
    planned = next(line for line in said.err.splitlines() if "of one client's images" in line)
    assert planned.split()[2] == line.split()[2] and "signal to noise" in said.err


@pytest.mark.long
def test_the_default_run_learns(tmp_path: Path) -> None:
    """200 clients and 5 rounds, at epsilon 2: 80.7 ± 2.6 % at seeds 0 to 2."""
    import json

    folder = run_method(Request("dp_rec", out=tmp_path / "run", seed=101))
    results = json.loads((folder / "results.json").read_text())
    assert results["final"]["global"]["accuracy"] > 0.6
    assert results["privacy"]["epsilon"] < 2.0 and results["privacy"]["certified"]
