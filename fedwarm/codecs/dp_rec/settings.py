"""DP-REC's settings."""

from __future__ import annotations

from dataclasses import dataclass

from fedwarm.coding.blocks import RULES
from fedwarm.coding.codec import MAGNITUDES
from fedwarm.coding.packing import MOST_BITS
from fedwarm.coding.stochastic import FEWEST_BITS
from fedwarm.privacy import SPENT
from fedwarm.privacy.events import ADJACENCIES
from fedwarm.privacy.views import VIEWS, Terms
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting

NO_PRIVACY = "dp-rec.entropy = 'seeded': whoever knows the seed can repeat the private draws; epsilon is what they would cost"
BLOCKWISE = ("coding", "poisson")  # mechanisms whose messages are indices of candidates, a block each
CODED = (*BLOCKWISE, "server")  # whose messages are code words

NEEDS_TRUST = {"poisson": "nothing from those who know its candidates", "server": "nothing from the server, which adds the noise"}


@dataclass(frozen=True)
class DpRec(Group, prefix="dp-rec", used=lambda r: r.uploads):
    """Settings of DP-REC."""

    mechanism: str = setting(
        "coding",
        "coding: random code words; poisson: code words of exactly the update plus noise, in central views; "
        "gaussian: that, uncompressed; server: rounded to a few bits a number, and the server of a central view adds the noise; "
        "none: clipped only, no privacy",
        choices=("coding", "poisson", "gaussian", "server", "none"),
    )  # fmt: skip
    bits: int = setting(
        7,
        "b, bits a block: one of 2^b candidates is named; of server: bits a number, from 2 on",
        low=1,
        high=MOST_BITS,
        when=lambda r: r["dp-rec.mechanism"] in ("coding", "server"),
    )
    block_rule: str = setting(
        "fixed_size", "how an update is cut into blocks", choices=RULES, when=lambda r: r["dp-rec.mechanism"] in BLOCKWISE
    )
    block_norm: float = setting(
        0.6,
        "c, most norm of a block over sigma, by which updates are cut; beside 0.6, with 0.5 code words are a third longer and "
        "half as many candidates are weighed, with 0.7 they are a fifth shorter and twice as many are",
        low=0.05,
        high=1.5,
        when=lambda r: (
            r["dp-rec.mechanism"] == "poisson" and r["dp-rec.block-rule"] != "per_tensor" and not r["dp-rec.block-size"]
        ),
    )
    block_size: int = setting(
        0,
        "numbers a block (fixed_size); 0: so that a block's KL suits its bits",
        low=0,
        when=lambda r: r["dp-rec.mechanism"] in BLOCKWISE,
    )
    clip: float = setting(1.0, "C, the most Euclidean norm of a client's update", low=1e-12)
    sigma: float = setting(
        0.0,
        "scale of the noise; 0: from target-epsilon, else from noise-multiplier",
        low=0.0,
        when=lambda r: r["dp-rec.mechanism"] != "none",
    )
    target_epsilon: float = setting(
        0.0,
        "epsilon of the run: sigma is made for it, and it is never passed; 0: none",
        low=0.0,
        when=lambda r: r["dp-rec.mechanism"] != "none",
    )
    noise_multiplier: float = setting(
        2.0,
        "z = sqrt(n) sigma / C for n updates in a sum",
        low=1e-6,
        when=lambda r: r["dp-rec.mechanism"] != "none" and not (r["dp-rec.sigma"] or r["dp-rec.target-epsilon"]),
    )
    delta: float = setting(
        1e-5, "delta of (epsilon, delta)", low=1e-300, high=0.5, when=lambda r: r["dp-rec.mechanism"] != "none"
    )
    view: str = setting("local", "who the guarantee is against; central views need secret seeds and cohorts", choices=VIEWS)
    adjacency: str = setting(
        "zero_out",
        "what a client is exchanged for: silence, or any other update",
        choices=ADJACENCIES,
        when=lambda r: r["dp-rec.mechanism"] != "none" or r["dp-rec.view"] != "local",
    )
    rotation: str = setting(
        "auto",
        "shared rotation before the cut; auto: hadamard for fixed_size, else none",
        choices=("auto", "none", "hadamard", "qr"),
        when=lambda r: r["dp-rec.mechanism"] in CODED,
    )
    magnitude: str = setting(
        "clip",
        "clip: blocks keep their norm up to a cap; scale: all get the cap's",
        choices=MAGNITUDES,
        when=lambda r: r["dp-rec.mechanism"] in BLOCKWISE,
    )
    debias: bool = setting(
        True, "divide by the known shrinkage of random coding", when=lambda r: r["dp-rec.mechanism"] == "coding"
    )
    prior: str = setting("zero", "centre of the candidates: zero, or the last public mean update", choices=("zero", "last"))
    downlink: str = setting(
        "dense", "dense: the model; replay: the cohorts' code words where they are smaller (local view)",
        choices=("dense", "replay"),
    )  # fmt: skip
    server_learning_rate: float = setting(
        1.0, "eta, step of the server along the mean update", low=0.0, when=lambda r: not r.averages
    )
    server_momentum: float = setting(0.0, "momentum of the server's step", low=0.0, high=0.9999, when=lambda r: not r.averages)
    entropy: str = setting(
        "system",
        "system: private draws from the operating system; seeded: from the run's seed, for experiments, not private",
        choices=("system", "seeded"),
        when=lambda r: r["dp-rec.mechanism"] != "none" or r["dp-rec.view"] != "local",
    )

    @property
    def cut(self) -> str:
        """The block rule that holds: that which is set, where there are blocks."""
        return self.block_rule if self.mechanism in BLOCKWISE else "fixed_size"


def validated(settings: DpRec) -> DpRec:
    """The settings, if they go together.

    Raises:
        SettingError: they do not; the message names the two and says what would be right.
    """
    if settings.view != "local" and settings.downlink == "replay":
        raise SettingError(f"dp-rec.downlink = 'replay' tells clients the code words, not so in {settings.view}; use dense")
    if settings.cut != "fixed_size" and settings.rotation in ("hadamard", "qr"):
        raise SettingError(
            f"dp-rec.rotation = {settings.rotation!r} mixes what block-rule {settings.block_rule!r} tells apart; use none or auto"
        )
    if settings.cut != "fixed_size" and settings.block_size:
        raise SettingError(f"dp-rec.block-size is for fixed_size alone; with {settings.block_rule} it must be 0")
    if settings.mechanism in NEEDS_TRUST and settings.view == "local":
        raise SettingError(
            f"dp-rec.mechanism = {settings.mechanism!r} hides {NEEDS_TRUST[settings.mechanism]}; "
            "set dp-rec.view = 'central_certified', or take coding"
        )
    if settings.mechanism == "server" and settings.bits < FEWEST_BITS:
        raise SettingError(f"dp-rec.bits = {settings.bits}; dp-rec.mechanism = 'server' takes {FEWEST_BITS} to {MOST_BITS}")
    Terms(settings.view, settings.delta, 1, 1, 1, settings.adjacency)
    return settings


def fixed_rounds(config: Config) -> str:
    """Why the number of rounds cannot be another once a run has begun; empty where it can."""
    settings = config.of(DpRec)
    if settings.mechanism == "none":
        return ""
    if settings.target_epsilon:
        return f"dp-rec.target-epsilon = {settings.target_epsilon:g}, and {SPENT}"
    if settings.view != "local":
        return f"the guarantee of dp-rec.view = {settings.view!r} is that of the planned number of rounds"
    return ""
