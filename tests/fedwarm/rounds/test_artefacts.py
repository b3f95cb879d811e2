"""A model's file says what it was trained on; one that has seen a run's test images is refused as judge and as weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fedwarm.catalogue import parse
from fedwarm.cli.export import export_run
from fedwarm.core.arrays import from_module
from fedwarm.data.provenance import PUBLIC, TRAIN, WHOLE, Marks, Source, source_of
from fedwarm.data.settings import Data
from fedwarm.models import Model, build_model
from fedwarm.record.folder import save_tensors
from fedwarm.rounds.artefacts import header, refuse_seen_tests, sources, trained_on, unknown
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from tests.runs import run
from tests.sets import write_split

CLIENTS = 4


def settings(**given: Value) -> Config:
    flat: dict[str, Value] = {"method": "fedavg", "model.name": "logistic"}
    return parse(flat | {name.replace("__", ".").replace("_", "-"): value for name, value in given.items()})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of FedAvg with seed 0."""
    folder = tmp_path_factory.mktemp("run") / "run"
    short: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 20, "model.name": "logistic"}
    run("fedavg", folder, short, clients=CLIENTS)
    return folder


def test_both_models_and_the_record_say_it(made: Path) -> None:
    config = parse({"method": "fedavg", "data.max-examples": 20})
    expected = [source_of(TRAIN, config.of(Data), 0, CLIENTS)]
    for name in ("model.safetensors", "best.safetensors"):
        assert sources(made / name) == expected
        with safe_open(made / name, "np") as file:
            assert list(file.metadata()) == ["fedwarm"], "several entries are written in any order"
    assert [Source.read(told) for told in json.loads((made / "results.json").read_text())["trained_on"]] == expected
    export_run(made, 32, "torch", made / "float.safetensors")
    assert sources(made / "float.safetensors") == expected


def test_runs_from_before_are_known_by_their_results(made: Path, tmp_path: Path) -> None:
    results = json.loads((made / "results.json").read_text())
    del results["trained_on"], results["evaluation"], results["settings"]["data.test"], results["settings"]["data.test-split"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "checkpoint").mkdir()
    for path in (tmp_path / "model.safetensors", tmp_path / "checkpoint" / "model.0123.safetensors"):
        save_file(load_file(made / "model.safetensors"), path)
        assert sources(path) == sources(made / "model.safetensors")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"trained_on": 3}', '{"settings": {}}', '{"trained_on": [{"part": "train"}]}'])
def test_what_says_nothing_says_nothing(made: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    save_file(load_file(made / "model.safetensors"), tmp_path / "model.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name in ("model.safetensors", "broken.safetensors", "none.safetensors"):
        assert sources(tmp_path / name) is None
    config = settings(model__weights=str(tmp_path / "model.safetensors"))
    refuse_seen_tests(config, CLIENTS)
    assert [line.partition(";")[0] for line in unknown(config)] == [
        f"model.weights = '{tmp_path}/model.safetensors' does not say what it was trained on"
    ]


@pytest.mark.parametrize("key", ["model.weights", "gen-fedsd.judge"])
@pytest.mark.parametrize(("seed", "clients", "fine"), [(0, CLIENTS, True), (1, CLIENTS, False), (0, CLIENTS + 1, False)])
def test_a_classifier_of_another_seed_is_refused(made: Path, key: str, seed: int, clients: int, fine: bool) -> None:
    config = parse({"method": "gen_fedsd", "seed": seed, key: str(made / "model.safetensors"), "data.max-examples": 20})
    assert unknown(config) == []
    if fine:
        return refuse_seen_tests(config, clients)
    with pytest.raises(SettingError, match=rf"{key} = '.*' was trained on \d+ of 4\d\d test images .*seed 0") as told:
        refuse_seen_tests(config, clients)
    assert "\n" not in str(told.value) and "take one of a run with this one's seed" in str(told.value)


def test_a_file_below_the_home_folder_is_looked_at(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(made))
    config = settings(seed=1, model__weights="~/model.safetensors")
    assert unknown(config) == []
    with pytest.raises(SettingError, match=r"'~/model.safetensors' was trained on \d+ of 4\d\d test images"):
        refuse_seen_tests(config, CLIENTS)


def test_a_strategy_refuses_it_on_any_engine(made: Path, tmp_path: Path) -> None:
    given: dict[str, Value] = {"seed": 1, "model.weights": str(made / "model.safetensors"), "model.name": "logistic"}
    with pytest.raises(SettingError, match="model.weights = .* was trained on .* test images of this run"):
        run("fedavg", tmp_path / "run", given, clients=CLIENTS)
    assert not (tmp_path / "run").exists()


def test_a_judge_that_is_not_used_is_not_looked_at(made: Path) -> None:
    judge: dict[str, Value] = {"gen-fedsd.judge": str(made / "model.safetensors"), "seed": 1}
    refuse_seen_tests(parse({"method": "fedavg", **judge}), CLIENTS)
    refuse_seen_tests(parse({"method": "gen_fedsd", "gen-fedsd.provider": "none", **judge}), CLIENTS)


def test_what_a_run_starts_from_is_passed_on(made: Path, tmp_path: Path) -> None:
    """A run with seed 1 on weights of seed 0 has, in the end, seen what both train on."""
    config = settings(seed=1, model__weights=str(made / "model.safetensors"), data__public_share=0.1)
    own, first = trained_on(config, CLIENTS)
    assert own == source_of(TRAIN, config.of(Data), 1, CLIENTS) and [first] == sources(made / "model.safetensors")
    save_tensors(tmp_path / "b.safetensors", from_module(build_model(config.of(Model), 10, 32, 0)), header([own, first]))
    assert sources(tmp_path / "b.safetensors") == [own, first]


@pytest.mark.parametrize("private", [{"method": "dp_rec"}, {"codec": "dp-rec"}, {"privacy": "dp-sgd"}], ids=str)
def test_a_private_run_does_not_tell_of_the_content_of_a_folder(private: dict[str, Value], tmp_path: Path) -> None:
    """A hash of its labels would tell who knows all but one of them that one; what fedwarm brings along is known anyway."""
    write_split(tmp_path / "set", "train", [0, 1, 2] * 4)
    filled: dict[str, Value] = {"method": "fedavg", "gen-fedsd.provider": "file", "gen-fedsd.file": "public"}
    flat: dict[str, Value] = {**filled, "augment": "gen-fedsd", "data.name": str(tmp_path / "set"), "data.public-share": 0.2}
    assert all(source.marks.labels and source.marks.images for source in trained_on(parse(flat), 2))
    told = trained_on(parse({**flat, **private}), 2)
    assert told and all((source.data.name, source.marks) == ("set", Marks()) for source in told)
    assert trained_on(settings(**{k.replace("-", "_"): v for k, v in private.items()}), 2)[0].marks.labels


def test_images_of_a_file_and_of_a_foundation_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: dict[str, Value] = {"method": "gen_fedsd", "gen-fedsd.provider": "file", "data.public-share": 0.2}
    public = parse({**filled, "gen-fedsd.file": "public"})
    assert trained_on(public, 2)[1:] == [source_of(PUBLIC, public.of(Data))]
    other = parse({**filled, "gen-fedsd.file": str(tmp_path / "elsewhere"), "data.name": "digits"})
    assert [(s.part, s.data.name) for s in trained_on(other, 2)[1:]] == [(WHOLE, "elsewhere")]
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    monkeypatch.setattr("fedwarm.rounds.artefacts.locate", str)
    told: dict[str, Any] = {
        "name": "digits",
        "public_share": 0.5,
        "labels_sha256": source_of(WHOLE, public.of(Data)).marks.labels,
    }
    (pipeline / "recipe.json").write_text(json.dumps({"data": told}))
    drawn = parse({"method": "warmfed", "diffusion.foundation": str(pipeline), "data.public-share": 0.5})
    [_, known] = trained_on(drawn, 2)
    assert (known.part, known.data.public_share, known.marks.labels) == (PUBLIC, 0.5, told["labels_sha256"])
    assert trained_on(settings(), 2)[1:] == []


def test_a_server_without_the_foundation_runs_all_the_same() -> None:
    """Clients of gen_fedsd draw, the server does not."""
    assert len(trained_on(parse({"method": "gen_fedsd", "diffusion.foundation": "/nowhere/at/all"}), 2)) == 1
