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
        "coding: random code words; poisson: code words of exactly the noised update, for central views; "
        "gaussian: the noised update, uncompressed; server: a few bits a number, and a central view's server adds the noise; "
        "none: clipped only, no privacy",
        choices=("coding", "poisson", "gaussian", "server", "none"),
    )  # fmt: skip
    bits: int = setting(
        7,
        "b, bits of a block, which name one of 2^b candidates; with mechanism = server: bits of a number, at least 2",
        low=1,
        high=MOST_BITS,
        when=lambda r: r["dp-rec.mechanism"] in ("coding", "server"),
    )
    block_rule: str = setting(
        "fixed_size",
        "division of an update into blocks; fixed_size: the same number of values each; per_tensor: so that no block "
        "crosses tensors; kl_adaptive: equal information, estimated from the last rounds",
        choices=RULES,
        when=lambda r: r["dp-rec.mechanism"] in BLOCKWISE,
    )
    block_norm: float = setting(
        0.6,
        "c, largest norm of a block relative to sigma, for which the division into blocks is planned; compared with 0.6, "
        "0.5 makes code words a third longer and halves the candidates, 0.7 makes them a fifth shorter and doubles the "
        "candidates",
        low=0.05,
        high=1.5,
        when=lambda r: (
            r["dp-rec.mechanism"] == "poisson" and r["dp-rec.block-rule"] != "per_tensor" and not r["dp-rec.block-size"]
        ),
    )
    block_size: int = setting(
        0,
        "numbers in a block, for fixed_size; 0: chosen so that a block's KL divergence fits its bits",
        low=0,
        when=lambda r: r["dp-rec.mechanism"] in BLOCKWISE,
    )
    clip: float = setting(1.0, "C, L2 norm to which a client's update is clipped", low=1e-12)
    sigma: float = setting(
        0.0,
        "standard deviation of the noise; 0: computed from target-epsilon, or else from noise-multiplier",
        low=0.0,
        when=lambda r: r["dp-rec.mechanism"] != "none",
    )
    target_epsilon: float = setting(
        0.0,
        "privacy budget of the whole run: the noise is calibrated to it, and training stops before it is exceeded; 0: no budget",
        low=0.0,
        when=lambda r: r["dp-rec.mechanism"] != "none",
    )
    noise_multiplier: float = setting(
        2.0,
        "z, noise of a sum of n updates relative to C: z = sqrt(n) sigma / C",
        low=1e-6,
        when=lambda r: r["dp-rec.mechanism"] != "none" and not (r["dp-rec.sigma"] or r["dp-rec.target-epsilon"]),
    )
    delta: float = setting(
        1e-5, "delta of the (epsilon, delta) guarantee", low=1e-300, high=0.5, when=lambda r: r["dp-rec.mechanism"] != "none"
    )
    view: str = setting(
        "local",
        "whom the guarantee protects against; local: the server, too; central_certified, central_limit: all but a "
        "trusted server, which keeps seeds and cohorts secret",
        choices=VIEWS,
    )
    adjacency: str = setting(
        "zero_out",
        "neighbouring data sets of the guarantee; zero_out: a client contributes nothing; replacement: a client "
        "contributes any other update",
        choices=ADJACENCIES,
        when=lambda r: r["dp-rec.mechanism"] != "none" or r["dp-rec.view"] != "local",
    )
    rotation: str = setting(
        "auto",
        "random rotation before the division into blocks; auto: hadamard for fixed_size, else none",
        choices=("auto", "none", "hadamard", "qr"),
        when=lambda r: r["dp-rec.mechanism"] in CODED,
    )
    magnitude: str = setting(
        "clip",
        "norm of each block; clip: reduced to a cap where it is larger; scale: always set to the cap",
        choices=MAGNITUDES,
        when=lambda r: r["dp-rec.mechanism"] in BLOCKWISE,
    )
    debias: bool = setting(
        True,
        "correct the known shrinkage of random coding, so that the mean is unbiased",
        when=lambda r: r["dp-rec.mechanism"] == "coding",
    )
    prior: str = setting(
        "zero",
        "centre of the candidates; zero; last: the mean update of the last round, which is public",
        choices=("zero", "last"),
    )
    downlink: str = setting(
        "dense",
        "download of clients; dense: the model; replay: the code words of the last rounds, from which clients compute the "
        "model, where these are smaller (local view alone)",
        choices=("dense", "replay"),
    )  # fmt: skip
    server_learning_rate: float = setting(1.0, "eta, learning rate of the server", low=0.0, when=lambda r: not r.averages)
    server_momentum: float = setting(0.0, "momentum of the server", low=0.0, high=0.9999, when=lambda r: not r.averages)
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
        raise SettingError(
            f"dp-rec.downlink = 'replay' sends clients the code words, which {settings.view} keeps secret; use dense"
        )
    if settings.cut != "fixed_size" and settings.rotation in ("hadamard", "qr"):
        raise SettingError(
            f"dp-rec.rotation = {settings.rotation!r} mixes the tensors that block-rule {settings.block_rule!r} "
            f"keeps apart; use none or auto"
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
    """Reason why the number of rounds cannot change once a run has started; empty if it can."""
    settings = config.of(DpRec)
    if settings.mechanism == "none":
        return ""
    if settings.target_epsilon:
        return f"dp-rec.target-epsilon = {settings.target_epsilon:g}, and {SPENT}"
    if settings.view != "local":
        return f"the guarantee of dp-rec.view = {settings.view!r} is that of the planned number of rounds"
    return ""
