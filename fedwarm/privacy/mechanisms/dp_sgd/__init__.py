"""DP-SGD: gradients clipped example by example, with Gaussian noise (Abadi et al., arXiv 1607.00133)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedwarm.parts import ClientPart, Part, ServerPart
from fedwarm.privacy import SPENT
from fedwarm.privacy.mechanisms.dp_sgd.account import COVERS, DpSgd
from fedwarm.settings.config import Config


class DpSgdServer(ServerPart):
    """Says what clients' training cost their examples."""

    def __init__(self, settings: DpSgd) -> None:
        self.settings = settings

    def promised(self) -> float:
        return self.settings.target_epsilon

    def statement(self, epsilon: float) -> dict[str, Any]:
        chosen = self.settings
        return {
            "epsilon": epsilon,
            "delta": chosen.delta,
            "view": "example",
            "adjacency": "zero_out",
            "mechanism": "dp-sgd",
            "noise_multiplier": chosen.noise_multiplier if not chosen.target_epsilon else None,
            "clip": chosen.clip,
            "certified": chosen.entropy == "system",
        }


class DpSgdPart(Part):
    """Each training step of a client is private at the level of examples (Abadi et al., 2016)."""

    settings = DpSgd
    covers = COVERS
    layers = "what Opacus' ModuleValidator passes: no BatchNorm, none of torch's own recurrent and attention layers"

    @staticmethod
    def does(run: Any) -> dict[str, bool]:
        """A client does not tell how many images of a class it holds."""
        return {"counts": False, "accounted": True}

    @staticmethod
    def refuse_model(model: Any) -> None:
        """Refuse a model with layers that mix examples, or that Opacus does not cover.

        Raises:
            SettingError: which layer, and what to do.
        """
        from fedwarm.privacy.mechanisms.dp_sgd.gradient import refuse_statistics, refuse_uncovered

        refuse_statistics(model)
        refuse_uncovered(model)

    @staticmethod
    def price(rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
        """Epsilon of an example after so many steps, by the accountant of a run."""
        from fedwarm.privacy.mechanisms.dp_sgd.account import Steps, example_epsilon

        return example_epsilon([Steps(rate, noise_multiplier, steps)], delta)

    @staticmethod
    def together(config: Config, batch_size: int) -> int:
        """Of how many examples of a batch a step has the gradients in memory at a time."""
        return min(config.of(DpSgd).chunk, batch_size)

    def fixed_rounds(self, config: Config) -> str:
        target = config.of(DpSgd).target_epsilon
        return f"dp-sgd.target-epsilon = {target:g}, and {SPENT}" if target else ""

    @staticmethod
    def reach(run: Any, config: Config, clients: int) -> Iterator[str]:
        """Lines before the run: what it can come to."""
        from fedwarm.privacy.mechanisms.dp_sgd.reach import lines

        return lines(run, config, clients)

    def server(self, config: Config) -> DpSgdServer:
        return DpSgdServer(config.of(DpSgd))

    def client(self, config: Config, node: Any) -> ClientPart:
        from fedwarm.privacy.mechanisms.dp_sgd.client import DpSgdClient

        return DpSgdClient(config, node)


COMPONENT = DpSgdPart()
