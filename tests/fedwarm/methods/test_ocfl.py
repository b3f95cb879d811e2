"""OCFL's settings: what has an effect, and what is refused."""

from __future__ import annotations

import pytest

from fedwarm.catalogue import parse
from fedwarm.launch.preflight import check_run
from fedwarm.methods.ocfl import COMPONENT, Ocfl
from fedwarm.relevance import idle
from fedwarm.settings.fields import SettingError, Value


@pytest.mark.parametrize(
    ("given", "without"),
    [
        ({}, ["ocfl.clusters"]),
        ({"ocfl.clustering": "k-means"}, ["ocfl.noise", "ocfl.smallest"]),
        ({"ocfl.clustering": "mean-shift"}, ["ocfl.clusters", "ocfl.noise", "ocfl.smallest"]),
    ],
    ids=str,
)
def test_settings_of_another_clustering_have_no_effect(given: dict[str, Value], without: list[str]) -> None:
    assert idle(["ocfl.clusters", "ocfl.noise", "ocfl.smallest", "ocfl.earliest"], given, "ocfl") == without


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"codec": "dp-rec"}, "measures clients' own models, and codec = 'dp-rec' hides"),
        ({"ocfl.clustering": "dbscan"}, "choose one of hdbscan, mean-shift, affinity-propagation, k-means"),
        ({"ocfl.earliest": 1}, "ocfl.earliest = 1"),
        ({"data.test": "central"}, "measures the global model at the server, and ocfl has none"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(given: dict[str, Value], said: str) -> None:
    with pytest.raises(SettingError, match=said) as error:
        check_run({"method": "ocfl", **given}, 4)
    assert "\n" not in str(error.value)


def test_it_says_before_a_run_what_the_server_holds() -> None:
    assert COMPONENT.reach is not None
    (line,) = COMPONENT.reach(Ocfl(), parse({"method": "ocfl"}), 15)
    assert "all 15 train in every round" in line
