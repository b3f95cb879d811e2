"""More rounds, another patience or target for a run that is there: the same as if it had been asked for at once, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from fedwarm.catalogue import parse
from fedwarm.launch.run import Request, run_method
from fedwarm.launch.sweep import run_sweep
from fedwarm.record.checkpoint import FOLDER, INDEX, Checkpoint, load
from fedwarm.record.folder import JOURNAL
from fedwarm.rounds.extend import changed, planned
from fedwarm.settings.fields import SettingError, Value
from tests.runs import LOCAL, SMALL_WARMFED, run, same

FAST: dict[str, Value] = {"local-epochs": 1, "data.max-examples": 12, "data.image-size": 16, "server-threads": 1}
FIVE: dict[str, Value] = {
    **SMALL_WARMFED, "data.max-examples": 12, "data.partition": "pathological", "diffusion.sample-steps": 1, "server-threads": 1,
    "warmfed.epochs-warm": 1, "warmfed.teacher-epochs": 1, "warmfed.distill-epochs": 1, "diffusion.lora-steps": 1,
    "warmfed.protocol": "five-round", "warmfed.regenerate-each-round": True, "warmfed.server-tuning": "every",
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Value]]] = {
    "fedavg": ("fedavg", {**FAST, "fraction-train": 0.5}),
    "scaffold": ("scaffold", {**FAST, "momentum": 0.0}),
    "local_only": ("local_only", FAST),
    "widths": ("quantization_robust", {**FAST, "evaluate.bit-widths": "4"}),
    "rounded": ("fedavg", {**FAST, "codec": "stochastic-rounding"}),
    "private": ("dp_rec", {**LOCAL, **FAST, "data.image-size": 8, "dp-rec.bits": 3, "dp-rec.entropy": "seeded"}),
    "private codec": ("fedavg", {**FAST, "data.image-size": 8, "codec": "dp-rec", "dp-rec.bits": 3, "dp-rec.entropy": "seeded"}),
    "warmfed five rounds": ("warmfed", FIVE),
}
CHOSEN = [pytest.param(case, marks=pytest.mark.long if case == "warmfed five rounds" else ()) for case in CASES]


def personal(folder: Path) -> dict[str, Any]:
    found = (folder / "clients").glob("*/*/*.safetensors")
    return {f"{p.parent.name}/{p.name}/{name}": a for p in found for name, a in load_file(p).items()}


def measured(folder: Path) -> list[dict[str, Any]]:
    """What the record says of every round, without times and without what closing a run cost."""
    rounds = json.loads((folder / "results.json").read_text())["rounds"]
    apart = ("seconds", "bytes_evaluation", "bytes_down", "bytes_up")
    return [{key: value for key, value in each.items() if key not in apart} for each in rounds]


@pytest.mark.parametrize("case", CHOSEN)
def test_a_run_that_is_made_longer_is_the_long_run(case: str, tmp_path: Path) -> None:
    method, given = CASES[case]
    whole = run(method, tmp_path / "whole", {**given, "num-server-rounds": 2})
    place = run(method, tmp_path / "run", {**given, "num-server-rounds": 1}).folder
    run(method, place, {**given, "num-server-rounds": 2, "resume": True})
    found, wanted = json.loads((place / "results.json").read_text()), whole.results
    if method != "local_only":
        assert same(load_file(place / "model.safetensors"), whole.model)
        assert same(load_file(place / "best.safetensors"), load_file(whole.folder / "best.safetensors"))
    assert same(personal(place), personal(whole.folder)) and measured(place) == measured(whole.folder)
    assert found["complete"] and found["final"] == wanted["final"] and found["best"] == wanted["best"]
    assert found["privacy"] == wanted["privacy"] and found["settings"]["num-server-rounds"] == 2
    assert found["notes"] == [*wanted["notes"], "continued after round 1 with num-server-rounds = 2 (was 1)"]
    if case in ("fedavg", "scaffold"):
        own = [{k: v for k, v in stage.items() if k != "seconds"} for stage in found["stages"]]
        assert own == [{k: v for k, v in stage.items() if k != "seconds"} for stage in wanted["stages"]]
        assert found["totals"]["bytes_up"] == wanted["totals"]["bytes_up"]
    kept = load(place)
    assert kept.complete and kept.settings["num-server-rounds"] == 2 and kept.done == load(whole.folder).done


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds by the command, complete."""
    light = "local-epochs=1 data.max-examples=8 data.image-size=16 server-threads=1"
    text = f"num-server-rounds=2 {light} data.partition='iid' tracker='tensorboard'"
    return run_method(Request("fedavg", out=tmp_path_factory.mktemp("short") / "run", clients=2, workers=1, run_config=(text,)))


@pytest.fixture
def copy(short: Path, tmp_path: Path) -> Path:
    shutil.copytree(short, tmp_path / "run")
    return tmp_path / "run"


def test_the_command_makes_a_finished_run_longer_and_longer_again(copy: Path) -> None:
    for rounds in (3, 4):
        assert run_method(Request("", out=copy, resume=True, rounds=rounds, workers=1)) == copy
    results = json.loads((copy / "results.json").read_text())
    assert [r["round"] for r in results["rounds"]] == [1, 2, 3, 4] and results["complete"]
    assert len((copy / "ledger.jsonl").read_text().splitlines()) == 16
    assert "num-server-rounds = 4 (was 3)" in results["notes"][-1]


def test_the_command_refuses_what_cannot_be(copy: Path) -> None:
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    for text, message in (
        ("num-server-rounds=1", "num-server-rounds = 1, but the run in .* has done 2; name 2 or more"),
        ("patience=3", "patience = 3 leaves nothing to do: the run in .* is complete after round 2; raise num-server-rounds"),
        ("target=0.001 num-server-rounds=3", "would have ended at round 1 .*reached the target.*2 are done"),
        ("learning-rate=0.5 num-server-rounds=3", "learning-rate = 0.5, but the run in .* has 0.01"),
    ):
        with pytest.raises(SettingError, match=message) as caught:
            run_method(Request("", out=copy, resume=True, run_config=(text,)))
        assert "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_rounds_that_fade_with_their_number_are_no_more_and_no_fewer() -> None:
    """A run of WarmFed whose server trains less and less knew from its first round on how many there are."""
    for tuning, why in (("every", ""), ("start", ""), ("fading", "hangs on how many there are")):
        config = parse({"method": "warmfed", "warmfed.protocol": "five-round", "warmfed.server-tuning": tuning})
        assert why in planned(config) and bool(planned(config)) == bool(why)


def test_a_setting_that_was_none_yet_has_its_default(copy: Path) -> None:
    """A checkpoint of an older version lacks what was added since."""
    index = copy / FOLDER / INDEX
    document = json.loads(index.read_text())
    del document["settings"]["robust.clip-norm"], document["settings"]["watch"]
    index.write_text(json.dumps(document))
    with pytest.raises(SettingError, match=r"watch = 'worst', but the run in .* has 'accuracy'"):
        run_method(Request("", out=copy, resume=True, run_config=("watch='worst'",)))
    run("fedavg", copy, {**document["settings"], "out": str(copy), "resume": True, "num-server-rounds": 3}, clients=2)
    assert json.loads((copy / "results.json").read_text())["rounds"][-1]["round"] == 3


def test_a_sweep_goes_on_with_more_rounds(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy.rename(tmp_path / "fedavg-seed-0")
    text = "methods = ['fedavg']\n[settings]\nlocal-epochs = 1\ndata.max-examples = 8\ndata.partition = 'iid'\n"
    text += "data.image-size = 16\nserver-threads = 1\n"
    (tmp_path / "grid.toml").write_text(text + "tracker = 'tensorboard'\nnum-server-rounds = 3\n")
    run_sweep(Path("grid.toml"), tmp_path, clients=2, workers=1)
    assert json.loads(Path("fedavg-seed-0/results.json").read_text())["rounds"][-1]["round"] == 3
    (tmp_path / "grid.toml").write_text(text + "num-server-rounds = 2\n")
    with pytest.raises(SettingError, match="num-server-rounds = 2, but the run in .* has done 3"):
        run_sweep(Path("grid.toml"), tmp_path, clients=2, workers=1)


def test_a_run_that_lost_its_patience_goes_on_with_more(tmp_path: Path) -> None:
    still: dict[str, Value] = {**FAST, "num-server-rounds": 4, "learning-rate": 1e-9, "data.max-examples": 8}
    whole = run("fedavg", tmp_path / "whole", {**still, "patience": 2}, clients=2)
    place = run("fedavg", tmp_path / "run", {**still, "patience": 1}, clients=2).folder
    assert [r["round"] for r in json.loads((place / "results.json").read_text())["rounds"]] == [1, 2]
    with pytest.raises(SettingError, match="num-server-rounds = 9 leaves nothing to do: .*no better accuracy in 1 rounds; set"):
        run("fedavg", place, {**still, "patience": 1, "num-server-rounds": 9, "resume": True}, clients=2)
    run("fedavg", place, {**still, "patience": 2, "resume": True}, clients=2)
    assert measured(place) == measured(whole.folder) and same(load_file(place / "model.safetensors"), whole.model)
    told, *notes = json.loads((place / "results.json").read_text())["notes"]
    assert told.startswith("the last round is chosen by test examples")
    assert notes == [
        "stopped after round 2: no better accuracy in 1 rounds",
        "continued after round 2 with patience = 2 (was 1)",
        "stopped after round 3: no better accuracy in 2 rounds",
    ]


PLANNED: list[tuple[dict[str, Value], str]] = [
    ({"method": "warmfed"}, "warmfed.protocol = 'one-shot' has no rounds"),
    ({"method": "dp_rec", "dp-rec.target-epsilon": 3.0}, "dp-rec.target-epsilon = 3, and its noise was set so that all planned"),
    ({"method": "fedprox", "codec": "dp-rec", "dp-rec.target-epsilon": 3.0}, "dp-rec.target-epsilon = 3, and its noise"),
    ({"method": "dp_rec", "dp-rec.view": "central_certified"}, "dp-rec.view = 'central_certified' is that of the planned number"),
    ({"method": "fedavg", "privacy": "dp-sgd", "dp-sgd.target-epsilon": 2.0}, "dp-sgd.target-epsilon = 2, and its noise"),
]


@pytest.mark.parametrize(("given", "why"), PLANNED)
def test_a_number_of_rounds_that_the_plan_was_made_for_stays(given: dict[str, Value], why: str, tmp_path: Path) -> None:
    settings = parse({**given, "num-server-rounds": 3}).flat()
    (tmp_path / JOURNAL).write_text("")
    for complete in (False, True):
        checkpoint = Checkpoint(0, complete, "aa", 2, 0.0, settings, {}, {JOURNAL: 0})
        for rounds in (2, 5):
            with pytest.raises(SettingError, match=f"rounds = {rounds}, but the run in .* has 3: .*{why}.*new folder$"):
                changed(checkpoint, {"num-server-rounds": rounds}, tmp_path)
    assert changed(checkpoint, settings, tmp_path) == {} and changed(checkpoint, {"tracker": "tensorboard"}, tmp_path) == {}


def test_without_a_target_a_private_run_may_get_longer(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("")
    local: dict[str, Value] = {"method": "dp_rec", "dp-rec.view": "local"}
    for given in (local, {"method": "fedprox", "codec": "dp-rec"}, {"method": "fedavg", "privacy": "dp-sgd"}):
        checkpoint = Checkpoint(0, False, "aa", 2, 0.0, parse(given).flat(), {}, {JOURNAL: 0})  # type: ignore[arg-type]
        assert changed(checkpoint, {"num-server-rounds": 9}, tmp_path) == {"num-server-rounds": (5, 9)}


@pytest.mark.parametrize("method", ["gen_fedsd", "quantization_robust"])
def test_a_run_of_before_there_were_presets_goes_on(method: str, tmp_path: Path) -> None:
    """Its record has the defaults of what its method presets now."""
    now = parse({"method": method}).flat()
    plain = parse({"method": "fedavg"}).flat()
    before = {key: plain[key] if key in ("augment", "objective", "evaluate.bit-widths") else value for key, value in now.items()}
    assert before != now
    kept = Checkpoint(1, False, "ab", 3, 1.0, before, {}, {}, {}, {})
    assert changed(kept, now, tmp_path) == {} and changed(kept, before, tmp_path) == {}
    with pytest.raises(SettingError, match="resume it with its own settings"):
        changed(kept, {**now, "learning-rate": 0.5}, tmp_path)


def test_a_run_of_before_a_method_had_defaults_of_its_own_goes_on_as_it_is(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("")
    before = {**parse({}).flat(), "method": "dp_rec", "num-server-rounds": 5}
    kept = Checkpoint(1, False, "ab", 3, 1.0, before, {}, {JOURNAL: 0}, {}, {})
    assert changed(kept, before, tmp_path) == {} and parse(before).flat() == before
    assert changed(kept, {"num-server-rounds": 9}, tmp_path) == {"num-server-rounds": (5, 9)}, "it is in the local view"
    with pytest.raises(SettingError, match="dp-rec.view = 'central_certified', but the run in .* has 'local'"):
        changed(kept, {"dp-rec.view": "central_certified"}, tmp_path)


@pytest.mark.parametrize("method", ["scaffold_m", "fedmix"])
def test_a_default_that_was_given_in_a_presets_place_stays(method: str, tmp_path: Path) -> None:
    given = parse({"method": method, "learning-rate": 0.01}).flat()
    assert given["set"] == "learning-rate=0.01" and parse(given).flat() == given
    kept = Checkpoint(1, False, "ab", 3, 1.0, given, {}, {}, {}, {})
    assert changed(kept, given, tmp_path) == {} and changed(kept, {"learning-rate": 0.01}, tmp_path) == {}
    with pytest.raises(SettingError, match="learning-rate = 0.1, but the run in .* has 0.01"):
        changed(kept, {"learning-rate": 0.1}, tmp_path)
