"""What augmentation filled: on a run's page, on a comparison and on a page of its own; samples from disks that are here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedwarm.augmentations.gen_fedsd.fill import fill
from fedwarm.augmentations.gen_fedsd.plan import Plan, Plans
from fedwarm.catalogue import parse
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.record.gaps import Gap, distance, read_augment
from fedwarm.record.reading import read_run
from fedwarm.report.gaps import augment_page
from fedwarm.report.page import make_report
from fedwarm.report.samples import Sample, by_class
from fedwarm.report.sections.augmentation import ELSEWHERE, roots, samples
from fedwarm.settings.fields import SettingError
from tests.report_page import Page, assert_stands_alone, pixels, results, write

COUNTS = "Images per client and class, real and synthetic"
CLIENTS: list[dict[str, Any] | None] = [
    {"real": [5, 0, 7], "synthetic": [2, 7, 0], "seconds": 90.0, "made": 8, "reused": 1, "bytes": 27648},
    {"real": [1, 2, 3], "synthetic": [2, 1, 0], "seconds": 30.5, "made": 3, "reused": 0, "bytes": 9216},
]


def document(clients: list[dict[str, Any] | None], histogram: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    entry = {"method": "gen-fedsd", "per_client": clients, "histogram": histogram}
    return results([0.5, 0.6], augment="gen-fedsd", **changed) | {"augment": entry}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fedwarm" / "clients"


def test_counts_distances_and_totals() -> None:
    assert distance([3, 3, 3]) == 0 and distance([9, 0, 0]) == pytest.approx(2 / 3) and distance([0, 0]) is distance(None) is None
    augment = read_augment({"method": "gen-fedsd", "per_client": [*CLIENTS, None], "histogram": {"epsilon": 1}})
    assert augment is not None and (augment.shared, augment.epsilon) == (True, 1.0)
    assert (augment.real, augment.synthetic, augment.total("made"), augment.seconds) == ([6, 2, 10], [4, 8, 0], 11, 120.5)
    before = (distance([5, 0, 7]) or 0) + (distance([1, 2, 3]) or 0)
    assert augment.distances == pytest.approx((before / 2, 0.0))
    assert augment.clients[2] == Gap(2, None, None) and augment.clients[2].after is None
    assert read_augment(None) is None and read_augment({}) is None


@pytest.mark.parametrize(
    "entry",
    [
        {"per_client": [{"real": [1, 2], "synthetic": [1]}]},
        {"per_client": [{"real": [1, 2]}, {"real": [1]}]},
        {"method": "gen-fedsd"},
        {"per_client": [{"real": ["x"]}]},
        {"per_client": [3]},
    ],
)
def test_what_does_not_follow_the_schema_is_refused_by_name(tmp_path: Path, entry: dict[str, Any]) -> None:
    folder = write(tmp_path / "run", results([0.5]) | {"augment": entry})
    with pytest.raises(SettingError, match="does not follow schema 1") as caught:
        make_report([folder])
    assert str(folder) in str(caught.value)


def test_a_run_shows_what_its_clients_added(tmp_path: Path) -> None:
    page = Page(make_report([write(tmp_path / "run", document(CLIENTS, {"epsilon": 0.5}))]))
    assert_stands_alone(page)
    assert page.facts["Synthetic images"] == "12beside 18 real ones" and page.facts["Made"] == "111 there already"
    assert page.facts["Clients' time"].startswith("2 min 00 s") and page.facts["On the clients' disks"] == "36.9 kB"
    assert page.facts["Distance to even classes"].startswith("0.25 → 0.00")
    assert page.facts["Histogram shared"].startswith("epsilon 0.5")
    assert page.tables[COUNTS] == [
        ["client", "a", "b", "c", "all", "distance"],
        ["0", "5 + 2", "0 + 7", "7", "12 + 9", "0.33 → 0.00"],
        ["1", "1 + 2", "2 + 1", "3", "6 + 3", "0.17 → 0.00"],
        ["all", "6 + 4", "2 + 8", "10", "18 + 12", "0.25 → 0.00"],
    ]
    assert page.tables["What it took"][1:] == [
        ["0", "8", "1", "1 min 30 s", "27.6 kB"],
        ["1", "3", "0", "30.5 s", "9.22 kB"],
        ["all", "11", "1", "2 min 00 s", "36.9 kB"],
    ]
    assert "Images by class of each client, real and synthetic" in [found["aria-label"] for found in page.all("svg")]
    assert ">client 0: 12 + 9</text>" in page.source and ELSEWHERE in page.text
    assert '<a href="#augment">Augmentation</a>' in page.source


def test_clients_that_told_nothing_and_many_clients(tmp_path: Path) -> None:
    silent: dict[str, Any] = {"real": None, "synthetic": None, "seconds": 1.0, "made": 3, "reused": 0, "bytes": 9}
    page = Page(make_report([write(tmp_path / "silent", document([silent, None, CLIENTS[1]]))]))
    assert page.tables[COUNTS][1] == ["0", "–", "–", "–", "–", "–"] and page.tables[COUNTS][4][1] == "1 + 2"
    assert page.tables["What it took"][2] == ["1", "–", "–", "–", "–"]
    assert "Histogram shared" not in page.facts
    nothing = Page(make_report([write(tmp_path / "nothing", document([silent, silent]))]))
    assert nothing.facts["Synthetic images"] == "0real ones unknown" and nothing.tables[COUNTS][1] == ["0", "–", "–"]
    many = Page(make_report([write(tmp_path / "many", document([CLIENTS[0]] * 150))]))
    assert len(many.tables[COUNTS]) == 102 and many.tables[COUNTS][-1][1] == "750 + 300"
    assert "50 more clients in the sum" in many.text and "130 more in the table" in many.text


def test_a_run_without_augmentation_says_nothing_of_it(tmp_path: Path) -> None:
    page = Page(make_report([write(tmp_path / "run", results([0.5]))]))
    assert COUNTS not in page.tables and "Augmentation" not in page.text


def test_what_it_cost_stands_on_the_comparison(tmp_path: Path) -> None:
    folders = [write(tmp_path / "with", document(CLIENTS)), write(tmp_path / "without", results([0.5, 0.6]))]
    costs = Page(make_report(folders, tmp_path / "page.html")).tables["What it cost"]
    column = costs[0].index("augmenting, all clients")
    assert [row[column] for row in costs[1:]] == ["2 min 00 s", "–"]
    alone = Page(make_report([folders[1], write(tmp_path / "c", results([0.5], method="fedprox"))], tmp_path / "other.html"))
    assert "augmenting, all clients" not in alone.tables["What it cost"][0]


# Samples


def test_by_class_takes_the_first_of_each() -> None:
    images, labels = torch.arange(7 * 3 * 4).reshape(7, 3, 2, 2).to(torch.uint8), torch.tensor([1, 4, 1, 1, 1, 1, 4])
    found = by_class(images, labels)
    assert list(found) == [1, 4] and np.array_equal(found[1], images[[0, 2, 3, 4]].numpy())
    assert list(by_class(images, labels, [4, 5])) == [4]


def test_synthetic_images_on_this_machine_stand_beside_real_ones(tmp_path: Path, cache: Path) -> None:
    """One client has two images drawn for real; the page finds them in the cache and, first, beside the run."""
    flat = {
        "method": "fedavg",
        "augment": "gen-fedsd",
        "gen-fedsd.budget-images": 2,
        "diffusion.sample-steps": 1,
        "data.partition": "dirichlet",
    }
    config, clients = parse(flat), 4
    shard = load_shard(config.of(Data), 0, 1, clients)
    filled = fill(config, shard, 1, cache)
    assert len(filled.labels) == 2
    (found,) = samples(config, range(clients), clients, [tmp_path / "gone", cache])
    assert found.client == 1 and sum(len(some) for some in found.made.values()) == 2
    told = [None if k != 1 else {"real": shard.counts(), "synthetic": filled.report.synthetic} for k in range(clients)]
    changed = {key.replace(".", "__").replace("-", "_"): value for key, value in flat.items() if key not in ("method", "augment")}
    run = document(told, **changed)
    run["partition"] = {"clients": clients, "classes": list(shard.classes), "counts": None}
    folder = write(tmp_path / "run", run)
    page = Page(make_report([folder]))
    assert_stands_alone(page)
    label = int(filled.labels[0])
    shown = {image["alt"]: image["src"] for image in page.all("img")}
    picture = pixels(shown[f"synthetic, client 1, class {shard.classes[label]}"])
    assert np.array_equal(picture[:96:3, :96:3, :3], filled.images[0].numpy().transpose(1, 2, 0))
    real = [alt for alt in shown if alt and alt.startswith("real, client 1, ")]
    held = [c for c in set(filled.labels.tolist()) if shard.counts()[c]]
    assert len(real) == len(held) and ELSEWHERE not in page.text
    assert roots(read_run(folder)) == [folder / "clients", cache]
    cache.rename(folder / "clients")
    assert len(Page(make_report([folder])).all("img")) == len(shown)


def test_the_checkpoint_says_where_the_clients_were(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "run", results([0.5]))
    (folder / "checkpoint").mkdir()
    index = folder / "checkpoint" / "checkpoint.json"
    index.write_text(json.dumps({"settings": {"client-folder": str(tmp_path / "elsewhere")}}))
    assert roots(read_run(folder)) == [tmp_path / "elsewhere", folder / "clients", cache]
    index.write_text("[")
    assert roots(read_run(folder)) == [folder / "clients", cache]


def test_missing_data_never_break_the_page(tmp_path: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    folder = write(tmp_path / "run", document(CLIENTS, data__name=str(tmp_path / "gone")))
    assert "synthetic images on this machine cannot be read" in Page(make_report([folder])).text


# A page of its own


def test_a_page_without_a_run(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    pictures = draws.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    sample = Sample(1, {0: pictures}, {2: pictures[:1]})
    entries = [entry for entry in CLIENTS if entry is not None]
    place = tmp_path / "new" / "gaps.html"
    path = augment_page(entries, [sample], place, classes=["a", "b", "c"], title="Gaps <here>", text="Two.")
    assert path == place
    page = Page(path)
    assert_stands_alone(page)
    assert [found["alt"] for found in page.all("img")] == ["synthetic, client 1, class a"]
    assert page.tables[COUNTS][1][:2] == ["0", "5 + 2"] and "Gaps <here>" in page.text and "What it took" in page.text
    bare = Page(augment_page([{"real": [3, 0]}], [], tmp_path / "bare.html", note="No picture yet."))
    assert bare.tables[COUNTS][1] == ["0", "3 + ?", "0 + ?", "3 + ?", "–"] and "No picture yet." in bare.text
    assert "What it took" not in bare.tables and "Clients' time" not in bare.facts
    with pytest.raises(SettingError, match="is a folder"):
        augment_page([], [], tmp_path)


def test_a_plan_is_a_forecast_of_some_clients(tmp_path: Path) -> None:
    plan = Plan(3, [5, 0], [0, 5], [0, 5], [0, 4], 15360, 8.0)
    plans = Plans(("cat", "dog"), [plan], 2.0, 5, 0)
    page = Page(augment_page(plans, [], tmp_path / "plan.html"))
    assert page.tables[COUNTS][:2] == [["client", "cat", "dog", "all", "distance"], ["3", "5", "0 + 5", "5 + 5", "0.50 → 0.00"]]
    assert page.facts["To be made"] == "41 there already" and "What it will take" in page.text
    assert page.tables["What it took"][1] == ["3", "4", "1", "8.00 s", "15.4 kB"]
