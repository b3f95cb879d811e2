"""Gen-FedSD: Morafah, Reisser, Lin, Louizos, "Stable Diffusion-based Data Augmentation for Federated Learning with Non-IID Data",
arXiv 2405.07925 (2024): before training, each client has an unchanged text-to-image model draw what its classes lack.

Here are the settings and the counts: targets, gaps, budgets, weights and distances. The paper's public text states no rule for
the target; `client_max`, the least that balances a client without dropping a real image, is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedwarm.settings.fields import CHOSEN, Group, SettingError, setting
from fedwarm.settings.kinds import PROVIDERS

MB = 10**6


@dataclass(frozen=True)
class GenFedSD(Group, prefix="gen-fedsd"):
    """Settings of `augment = "gen-fedsd"`."""

    rule: str = setting(
        "client_max",
        "what a client fills every class up to: the size of its largest class; the rounded mean of those that it "
        "has; `fixed`; or all images over clients times classes, which the server announces",
        choices=("client_max", "client_mean", "fixed", "global"),
        when=lambda r: r.fills,
    )
    fixed: int = setting(
        0,
        "images that each class is filled up to, with gen-fedsd.rule = fixed",
        low=0,
        when=lambda r: r["gen-fedsd.rule"] == "fixed" and r.fills,
    )
    histogram_epsilon: float = setting(
        0.0,
        "rule = global: two-sided geometric noise of this epsilon covers one example with nothing in its place, in the histogram "
        "that a client tells; one exchanged for another costs twice; 0: it tells the exact one",
        low=0.0,
        when=lambda r: r["gen-fedsd.rule"] == "global" and r.fills,
    )
    cap: float = setting(
        0.0,
        "limit on a client's synthetic images, as a multiple of its real ones; 0: no limit",
        low=0.0,
        when=lambda r: r.fills,
    )
    budget_images: int = setting(0, "limit on a client's synthetic images; 0: no limit", low=0, when=lambda r: r.fills)
    budget_mb: float = setting(
        0.0,
        "limit in MB (10^6 bytes) on a client's synthetic images, as uint8 pixels; 0: no limit",
        low=0.0,
        when=lambda r: r.fills,
    )
    budget_seconds: float = setting(
        0.0,
        "most seconds of a client's synthesis by its measured speed, so that the images depend on the machine; 0: no bound",
        low=0.0,
        when=CHOSEN,
    )
    provider: str = setting(
        "foundation", "source of synthetic images: drawn by diffusion.foundation; real ones of gen-fedsd.file; random transforms "
        "of the client's own images; or none",
        choices=PROVIDERS,
    )  # fmt: skip
    file: str = setting("", "provider = file: labelled images as data.name, that no client holds", when=CHOSEN, path=True)
    transforms: str = setting(
        "crop,flip,colour",
        "random transforms, with provider = transforms; leave out `flip` for digits and letters",
        when=CHOSEN,
    )
    pool: int = setting(
        0, "images of each class in a pool that all clients share; 0: images are generated for each client", low=0, when=CHOSEN
    )
    allow_repeat: bool = setting(
        False, "let a client use images twice where it needs more of a class than there are", when=CHOSEN
    )
    prompt_mode: str = setting(
        "pool",
        "prompts; pool: many sentences for each class, in turn; single: gen-fedsd.prompt",
        choices=("pool", "single"),
        when=CHOSEN,
    )
    prompt: str = setting(
        "a photo of a {class}", "prompt of prompt-mode = single; {class} stands for the name of the class", when=CHOSEN
    )
    prompts_file: str = setting(
        "",
        "file of prompts for prompt-mode = pool: one template with {class} on each line, or JSON {class: [..]}; "
        "empty: built-in sentences",
        when=CHOSEN,
        path=True,
    )
    phrases: str = setting(
        "",
        "names of classes in prompts: `ray=ray fish, crab=sea crab`, or a JSON file {class: phrase}; empty: the class names",
        when=CHOSEN,
        path=True,
    )
    guidance: float = setting(0.0, "classifier-free guidance scale; 0: diffusion.guidance", low=0.0, when=CHOSEN)
    steps: int = setting(0, "denoising steps of an image; 0: diffusion.sample-steps", low=0, when=CHOSEN)
    judge: str = setting(
        "",
        "safetensors file of a classifier (architecture: model.name) that checks generated images; empty: no check",
        when=CHOSEN,
        path=True,
    )
    judge_least: float = setting(
        0.5,
        "probability of the right class, by the judge, below which an image is generated again",
        low=0.0,
        high=1.0,
        when=CHOSEN,
    )
    judge_tries: int = setting(3, "attempts to generate an image that the judge refuses or that is blank", low=1, when=CHOSEN)
    refused: str = setting(
        "keep",
        "images that are still refused or blank after all attempts; keep: the best attempt; drop: left out",
        choices=("keep", "drop"),
        when=CHOSEN,
    )
    weight_by: str = setting(
        "augmented",
        "weight of a client in the average; augmented: its real and synthetic images; real: its real images",
        choices=("augmented", "real"),
        when=lambda r: r.weighs and r.fills and not r["gen-fedsd.histogram-epsilon"],  # whose noise covers no number drawn
    )


def validated(settings: GenFedSD) -> GenFedSD:
    """The settings, if they go together.

    Raises:
        SettingError: they do not.
    """
    if settings.rule == "fixed" and settings.fixed < 1:
        raise SettingError("gen-fedsd.rule = 'fixed' needs gen-fedsd.fixed, the images of a class; it is 0")
    PROVIDERS.load(settings.provider).check_settings(settings)
    if settings.histogram_epsilon and settings.rule != "global":
        raise SettingError(
            f"gen-fedsd.histogram-epsilon works only with rule = 'global'; {settings.rule!r} sends no histogram: set it to 0"
        )
    return settings


def target(settings: GenFedSD, counts: Sequence[int], announced: int = 0) -> int:
    """m_k, the images that each class of a client with these counts is filled up to; `announced` by the server (rule global)."""
    if settings.rule == "client_max":
        return max(counts, default=0)
    if settings.rule == "client_mean":
        held = [n for n in counts if n]
        return _rounded(sum(held), len(held)) if held else 0
    return settings.fixed if settings.rule == "fixed" else announced


def global_target(histograms: Sequence[Sequence[int]]) -> int:
    """N / (K C) rounded, of K clients' histograms over C classes; noise may leave nothing, which is 0."""
    cells = sum(len(histogram) for histogram in histograms)
    return max(0, _rounded(sum(map(sum, histograms)), cells))


def gaps(counts: Sequence[int], target: int) -> list[int]:
    """g_c = max(0, m - n_c), images that each class lacks."""
    return [max(0, target - n) for n in counts]


def scaled(wanted: Sequence[int], budget: int, counts: Sequence[int]) -> list[int]:
    """At most `budget` images in the proportions of `wanted`, by largest remainders.

    Of equal remainders classes that the client lacks go first, then the lower class.
    """
    total = sum(wanted)
    if total <= budget:
        return list(wanted)
    out = [budget * g // total for g in wanted]
    order = sorted(range(len(wanted)), key=lambda c: (-(budget * wanted[c] % total), counts[c] > 0, c))
    for c in order[: budget - sum(out)]:
        out[c] += 1
    return out


def budget(settings: GenFedSD, examples: int, image_bytes: int) -> int | None:
    """Most images of a client with so many examples; None: no bound; seconds are not among them."""
    bounds = []
    if settings.cap:
        bounds.append(int(settings.cap * examples + 1e-9))
    if settings.budget_images:
        bounds.append(settings.budget_images)
    if settings.budget_mb:
        bounds.append(int(settings.budget_mb * MB / image_bytes + 1e-9))
    return min(bounds, default=None)


def in_batches(wanted: Sequence[int], most: int, batch: int, counts: Sequence[int]) -> list[int]:
    """What at most so many batches hold of the images of `wanted`, each batch of one class: as `scaled`, by batches."""
    drawn = scaled([-(-n // batch) for n in wanted], most, counts)
    return [min(n, batch * batches) for n, batches in zip(wanted, drawn, strict=True)]


def amounts(
    settings: GenFedSD,
    counts: Sequence[int],
    announced: int = 0,
    *,
    image_bytes: int,
    seconds_per_image: float = 0.0,
    batch: int = 1,
) -> list[int]:
    """Synthetic images of each class that a client gets: its gaps, within its budgets.

    Args:
        counts: its real images of each class.
        announced: the server's target, of rule global.
        image_bytes: of one image.
        seconds_per_image: what one takes to draw; 0: not known.
        batch: images of a class that are drawn together, and cost as much when there are fewer.
    """
    lacking = gaps(counts, target(settings, counts, announced))
    missing: list[int] = PROVIDERS.load(settings.provider).offered(lacking, counts)
    most = budget(settings, sum(counts), image_bytes)
    missing = missing if most is None else scaled(missing, most, counts)
    if not settings.budget_seconds or not seconds_per_image:
        return missing
    return in_batches(missing, int(settings.budget_seconds / (seconds_per_image * batch)), batch, counts)


def weight(settings: GenFedSD, real: Sequence[int], synthetic: Sequence[int]) -> int:
    """What a client counts for in an average, in images."""
    return sum(real) + (sum(synthetic) if settings.weight_by == "augmented" and not settings.histogram_epsilon else 0)


def _rounded(total: int, parts: int) -> int:
    """total / parts to the nearest whole number, halves up."""
    return (2 * total + parts) // (2 * parts)
