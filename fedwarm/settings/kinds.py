"""The kinds of components that a run is made of: where each kind's folder is, and which setting chooses."""

from __future__ import annotations

from typing import Any

from fedwarm.settings.registry import Kind

METHODS: Kind[Any] = Kind("method", "fedwarm.methods", "method", has=("presets", "local_hooks"))
OBJECTIVES: Kind[Any] = Kind("objective", "fedwarm.objectives", "objective", first="plain")
CODECS: Kind[Any] = Kind("codec", "fedwarm.codecs", "codec", first="dense", hyphens=True, has=("encode", "decode"))
PRIVACY: Kind[Any] = Kind(
    "privacy mechanism", "fedwarm.privacy.mechanisms", "privacy", group="fedwarm.privacy", first="none", hyphens=True
)
AUGMENTATIONS: Kind[Any] = Kind("augmentation", "fedwarm.augmentations", "augment", first="none", hyphens=True)
PROVIDERS: Kind[Any] = Kind("image provider", "fedwarm.augmentations.gen_fedsd.providers", "gen-fedsd.provider", first="none")
RULES: Kind[Any] = Kind("robust rule", "fedwarm.aggregators", "robust.rule", first="mean")
SETS: Kind[Any] = Kind("data set", "fedwarm.data.sets", "data.name", open=True)
PARTITIONS: Kind[Any] = Kind("partition", "fedwarm.data.partitions", "data.partition")
LIBRARIES: Kind[Any] = Kind("model library", "fedwarm.libraries", option="model.name = 'LIBRARY:NAME'")
MODELS: Kind[Any] = Kind("model", "fedwarm.models", "model.name", libraries=LIBRARIES)
NORMS: Kind[Any] = Kind("normalisation", "fedwarm.norms", "model.norm", first="own", hyphens=True)
HEADS: Kind[Any] = Kind("head", "fedwarm.heads", "model.head", first="own", hyphens=True)
SCOPES: Kind[Any] = Kind("scope", "fedwarm.scopes", "model.train", first="all")
OPTIMISERS: Kind[Any] = Kind("optimiser", "fedwarm.optimisers", "optimiser", first="sgd")
SCHEDULES: Kind[Any] = Kind("schedule", "fedwarm.schedules", "schedule", first="constant")
TASKS: Kind[Any] = Kind("task", "fedwarm.tasks", "task", first="classification")
METRICS: Kind[Any] = Kind("metric", "fedwarm.metrics", "metrics", hyphens=True)
TUNERS: Kind[Any] = Kind("tuner", "fedwarm.diffusion.tuners", "diffusion.trainer")
FAMILIES: Kind[Any] = Kind("foundation family", "fedwarm.diffusion.families", first="stable_diffusion")
SAMPLERS: Kind[Any] = Kind("sampler", "fedwarm.diffusion.samplers", "diffusion.scheduler")
FAULTS: Kind[Any] = Kind("fault", "fedwarm.faults", "faults.kind", first="none")
MEASURES: Kind[Any] = Kind("measure", "fedwarm.measures", every=True)
TRACKERS: Kind[Any] = Kind("tracker", "fedwarm.record.trackers", "tracker", first="none")
SECTIONS: Kind[Any] = Kind("report section", "fedwarm.report.sections")
ENGINES: Kind[Any] = Kind("engine", "fedwarm.engines", first="local", option="--engine")

KINDS: dict[str, Kind[Any]] = {
    kind.name: kind
    for kind in (
        METHODS, OBJECTIVES, CODECS, PRIVACY, AUGMENTATIONS, PROVIDERS, RULES, SETS,
        PARTITIONS, MODELS, LIBRARIES, NORMS, HEADS, SCOPES, OPTIMISERS, SCHEDULES, TASKS, METRICS, FAULTS, MEASURES, TRACKERS,
        TUNERS, FAMILIES, SAMPLERS, SECTIONS, ENGINES,
    )
}  # fmt: skip
