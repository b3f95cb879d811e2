"""The document `results.json`, schema version 1: how a record is written, and how a run is read out of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedwarm.core.inputs import Form
from fedwarm.data.settings import Data
from fedwarm.record.gaps import read_augment
from fedwarm.record.run import Best, Json, Round, Run
from fedwarm.record.versions import commit, device, versions
from fedwarm.settings.config import PERSONAL

if TYPE_CHECKING:
    from fedwarm.record.measure import Measure
    from fedwarm.record.record import Record

SCHEMA = 1


# Written


def written(record: Record) -> Json:
    """The document of a record."""
    numbers = sorted({s["round"] for s in record.stages} | set(record.measures))
    rounds = [round_entry(record, n) for n in numbers]
    flat = {k: v for k, v in record.config.flat().items() if k not in ("out", "client-folder", "resume")}
    return {
        "schema": SCHEMA,
        "method": record.config.run.method,
        "seed": record.config.run.seed,
        "engine": record.engine,
        "complete": record.complete,
        "settings": flat,
        "versions": versions(),
        "device": device(record.config.run.device, record.config.run.deterministic, record.cohort),
        "commit": commit(),
        "partition": {"clients": record.clients, "classes": list(record.classes), "counts": record.counts, **_sites(record)},
        **_inputs(record),
        "evaluation": _evaluation(record),
        "trained_on": record.trained_on,
        "rounds": rounds,
        "stages": record.stages,
        "final": _final(record),
        "best": _best_of(record),
        "totals": {
            "bytes_up": sum(sum(r["bytes_up"]) for r in rounds),
            "bytes_down": sum(sum(r["bytes_down"]) for r in rounds),
            "bytes_evaluation": sum(r["bytes_evaluation"] for r in rounds),
            "seconds": round(record.seconds, 3),
            "parameters": record.parameters,
            "bits_per_parameter_up": _bits_up(record),
        },
        "privacy": _privacy(record),
        **({"augment": record.augmented} if record.augmented else {}),
        **({"measures": record.others} if record.others else {}),
        "notes": record.notes,
    }


def _best_of(record: Record) -> Json | None:
    """The round whose model is the best by `watch`, and what it was measured on; None before anything was."""
    best, watch = record.best(), record.config.run.watch
    by = "validation" if record.by_validation else "test"
    return None if best is None else {"round": best[0], "watch": watch, "value": best[1], "measured_on": by}


def _sites(record: Record) -> Json:
    return {**({"sites": record.sites} if record.sites else {}), **({} if record.held is None else {"held": record.held})}


def _inputs(record: Record) -> Json:
    """What one input looks like, where it is no picture of `data.image-size`."""
    form = record.inputs
    if form is None or form.pictures:
        return {}
    return {
        "inputs": {"shape": list(form.shape), "dtype": form.dtype, "vocabulary": form.vocabulary, "columns": list(form.columns)}
    }


def _form(raw: Json) -> Form:
    """What one input looks like, by `inputs`, else by the side of pictures."""
    told = raw.get("inputs")
    if told is None:
        return Form.picture(int(raw["settings"].get("data.image-size", Data.image_size)))
    return Form(
        tuple(int(n) for n in told["shape"]),
        str(told["dtype"]),
        int(told["vocabulary"]),
        tuple(map(str, told.get("columns", ()))),
    )


def _privacy(record: Record) -> Json | None:
    """What was spent, and how often clients refused by reason; None where nothing is accounted for and nobody refused."""
    refusals = record.ledger.refusals()
    return record.privacy if not refusals else {**(record.privacy or {}), "refusals": refusals}


def _evaluation(record: Record) -> Json:
    """What accuracies are measured on, by the setting `data.test`, and how many images that is."""
    data = record.config.of(Data)
    last = record.measures[max(record.measures)] if record.measures else None
    images = None if last is None else last.images
    told = {"test": data.test, "split": None if data.test == "held-out" else data.test_split, "images": images}
    held = {} if last is None or last.validation is None else {"validation": last.validation.images}
    return {**told, **held, **_metrics(record, last)}


def _metrics(record: Record, last: Measure | None) -> Json:
    """What the metrics are that were measured beside accuracy: in words, which way is better, how they are pooled."""
    if last is None or not last.metrics:
        return {}
    from fedwarm.metrics import metric  # loads numpy, which reading a run does not

    known = {name: metric(name) for name in last.metrics}
    words = {name: {"title": m.title, "better": m.better, "share": m.share, "pooled": m.pooled} for name, m in known.items()}
    counted = last.accuracy is not None or any(right is not None for right in last.right_personal)
    return {"metrics": words, "counted": counted}


def _bits_up(record: Record) -> float | None:
    """Mean bits, without headers, that a number of the uploaded model or adapter cost; None where none was uploaded."""
    sent = [e for e in record.ledger.entries if e.stage in record.uploads and not e.failure]
    numbers = sum(record.uploads[e.stage] for e in sent)
    return 8 * sum(e.payload_bytes_up for e in sent) / numbers if numbers else None


def round_entry(record: Record, number: int) -> Json:
    measure = record.measures.get(number)
    entry: Json = {
        "round": number,
        "global": {"accuracy": None, "per_client": [None] * record.clients},
        "personal": None,
        "bytes_up": record.ledger.up(number, record.clients),
        "bytes_down": record.ledger.down(number, record.clients),
        "bytes_evaluation": record.ledger.evaluation(number),
        "seconds": round(sum(s["seconds"] for s in record.stages if s["round"] == number), 3),
        "train_loss": record.losses.get(number),
        "failures": record.ledger.failures(number),
        **({"epsilon": record.epsilons[number]} if number in record.epsilons else {}),
    }
    if measure is not None:
        entry |= {} if measure.complete else {"measured": measure.clients}
        entry["global"] = {
            "accuracy": measure.accuracy,
            "per_client": measure.shares(measure.right_global),
        }
        if any(share is not None for share in measure.shares(measure.right_personal)):
            entry["personal"] = {"per_client": measure.shares(measure.right_personal)}
        _add_metrics(entry, measure)
        if measure.validation is not None:
            entry["validation"] = _validation(measure.validation)
    return entry


def _add_metrics(entry: Json, measure: Measure) -> None:
    """Put metrics beside accuracies."""
    shared = {n: {"value": m["global"], "per_client": m["per_client"]} for n, m in measure.metrics.items() if "per_client" in m}
    own = {n: {"per_client": m["personal"]} for n, m in measure.metrics.items() if "personal" in m}
    if shared:
        entry["global"]["metrics"] = shared
    if own:
        entry["personal"] = {**(entry["personal"] or {"per_client": [None] * len(measure.tests)}), "metrics": own}


def _validation(measure: Measure) -> Json:
    """What the examples that clients hold back came to, in the form of a round's entry."""
    own = measure.shares(measure.right_personal)
    entry: Json = {
        "images": measure.images,
        "global": {"accuracy": measure.accuracy, "per_client": measure.shares(measure.right_global)},
        "personal": {"per_client": own} if any(share is not None for share in own) else None,
    }
    _add_metrics(entry, measure)
    return entry


def _final(record: Record) -> Json:
    if not record.measures:
        return {"global": {"accuracy": None}, "personal": None}
    last = record.measures[max(record.measures)]
    personal = [a for a in last.shares(last.right_personal) if a is not None]
    summary: Json | None = {"mean": sum(personal) / len(personal), "worst": min(personal)} if personal else None
    measured = {"bit_widths": record.bit_widths} if record.bit_widths else {}
    shared = {name: found["global"] for name, found in last.metrics.items() if found.get("global") is not None}
    tables = {name: {"all": m["table"], "per_client": m.get("tables")} for name, m in last.metrics.items() if m.get("table")}
    own = {name: _spread(m) for name, m in last.metrics.items() if any(v is not None for v in m.get("personal", ()))}
    if own:
        summary = {"mean": None, "worst": None, **(summary or {}), "metrics": own}
    final = {"accuracy": last.accuracy, **({"metrics": shared} if shared else {})}
    return {"global": final, "personal": summary, **measured, **({"tables": tables} if tables else {})}


def _spread(metric: Mapping[str, Any]) -> Json:
    """Mean of the clients' own models, and the worst of them where one of two values is the better one."""
    values = [value for value in metric["personal"] if value is not None]
    mean = {"mean": sum(values) / len(values)}
    return {**mean, "worst": (max if metric.get("lower") else min)(values)} if metric.get("ranks", True) else mean


# Read


def parsed(folder: Path, raw: Json, ledger: list[Json], unread: int) -> Run:
    """The run of a folder whose document this is; `unread` lines of its ledger could not be read."""
    final, partition = raw["final"], raw["partition"]
    personal = final.get("personal") or {}
    return Run(
        folder=folder,
        method=str(raw["method"]),
        seed=int(raw["seed"]),
        engine=str(raw["engine"]),
        settings=dict(raw["settings"]),
        versions={str(k): str(v) for k, v in raw["versions"].items()},
        commit=raw.get("commit"),
        clients=int(partition["clients"]),
        classes=[str(c) for c in partition.get("classes") or []],
        counts=[[int(n) for n in row] for row in partition["counts"]] if partition.get("counts") is not None else None,
        sites=[str(name) for name in partition.get("sites") or []],
        rounds=[_read_round(entry) for entry in raw["rounds"]],
        accuracy=_number((final.get("global") or {}).get("accuracy")),
        personal_mean=_number(personal.get("mean")),
        personal_worst=_number(personal.get("worst")),
        best=_best(raw.get("best"), raw.get("evaluation") or {}),
        tables=dict(final.get("tables") or {}),
        bit_widths={str(name): float(share) for name, share in (final.get("bit_widths") or {}).items()},
        augment=read_augment(raw.get("augment")),
        up=int(raw["totals"]["bytes_up"]),
        down=int(raw["totals"]["bytes_down"]),
        seconds=float(raw["totals"]["seconds"]),
        privacy=dict(raw["privacy"]) if raw.get("privacy") else None,
        notes=[str(n) for n in raw.get("notes") or []],
        stages=[(str(s["name"]), float(s["seconds"])) for s in raw.get("stages") or []],
        ledger=ledger,
        unread_lines=unread,
        complete=bool(raw.get("complete", True)),
        evaluation=dict(raw.get("evaluation") or {}),
        measured=dict(raw.get("measures") or {}),
        inputs=_form(raw),
        held=None if (held := partition.get("held")) is None else [None if c is None else [str(n) for n in c] for c in held],
    )


def _read_round(entry: Json) -> Round:
    shared, personal = entry.get("global") or {}, entry.get("personal") or {}
    return Round(
        number=int(entry["round"]),
        accuracy=_number(shared.get("accuracy")),
        clients=[_number(v) for v in shared.get("per_client") or []],
        personal=[_number(v) for v in personal.get("per_client") or []],
        up=[int(n) for n in entry["bytes_up"]],
        down=[int(n) for n in entry["bytes_down"]],
        evaluation_bytes=int(entry.get("bytes_evaluation") or 0),
        seconds=float(entry["seconds"]),
        train_loss=_number(entry.get("train_loss")),
        failures=[str(f) for f in entry.get("failures") or []],
        metrics=dict(shared.get("metrics") or {}),
        own_metrics=dict(personal.get("metrics") or {}),
        validation=dict(entry.get("validation") or {}),
    )


def _best(entry: Json | None, evaluation: Json) -> Best | None:
    if not entry:
        return None
    words, watch, on = evaluation.get("metrics") or {}, str(entry["watch"]), str(entry.get("measured_on", ""))
    counted = watch not in words and not (watch in PERSONAL and not evaluation.get("counted", True))
    main: Json = {} if counted else words.get(watch) or next(iter(words.values()), {})
    return Best(int(entry["round"]), watch, float(entry["value"]), main.get("share", True), main.get("title", "accuracy"), on)


def _number(value: Any) -> float | None:
    """A finite number, or None for null and NaN."""
    return None if value is None or float(value) != float(value) else float(value)


def summary(record: Record, number: int) -> dict[str, float]:
    """A round's numbers for those who follow the run: accuracies, loss, bytes and seconds; empty where none were measured."""
    measure = record.measures.get(number)
    if measure is None:
        return {}
    entry = round_entry(record, number)
    found = {
        **{name: told["value"] for name, told in entry["global"].get("metrics", {}).items()},
        "accuracy": measure.accuracy,
        "personal": measure.value("personal") if entry["personal"] else None,
        "personal_worst": measure.value("worst") if entry["personal"] else None,
        "train_loss": entry["train_loss"],
        **{key: sum(entry[key]) for key in ("bytes_up", "bytes_down")},
        "failures": len(entry["failures"]),
        "seconds": entry["seconds"],
    }
    return {name: float(value) for name, value in found.items() if value is not None}
