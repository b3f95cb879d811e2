"""What synthetic images are worth: do they show what was asked for, and how far are they from real ones?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fedwarm.augmentations.gen_fedsd.fill import found
from fedwarm.core.seeds import generator
from fedwarm.data import load_pooled
from fedwarm.data.settings import Data
from fedwarm.data.shards import all_tests
from fedwarm.models import Model, build_model, device_of
from fedwarm.settings.config import Config
from fedwarm.training.evaluate import correct
from fedwarm.training.loop import Plan, fit

LEAST_AGREEMENT = 0.9


@dataclass(frozen=True)
class DomainGap:
    """Accuracies of two classifiers of the run's architecture, each trained on one kind of images alone.

    Attributes:
        real_on_synthetic: trained on real images, measured on synthetic ones: do these show their classes?
        synthetic_on_real: trained on synthetic images, measured on real test images: do these teach them?
        real_on_real: trained on real images, measured on real test images: what either could reach at best.
    """

    real_on_synthetic: float
    synthetic_on_real: float
    real_on_real: float

    def text(self) -> str:
        """Two lines, and a third where the images do not show their classes."""
        lines = [
            f"trained on real images: {self.real_on_real:.1%} on real test images, {self.real_on_synthetic:.1%} on synthetic",
            f"trained on synthetic images alone: {self.synthetic_on_real:.1%} on real test images",
        ]
        return "\n".join([*lines, warning(self.real_on_synthetic, self.real_on_real)]).rstrip()


def audit(
    config: Config, partitions: int, clients: Sequence[int], root: Path, epochs: int | None = None, announced: int = 0
) -> DomainGap | None:
    """What the synthetic images of some clients are worth, by those that lie on this machine; None where there are none.

    Args:
        config: the run's settings.
        partitions: clients of the run, whose real images are all looked at, as only a simulation can.
        clients: those whose synthetic images are.
        root: holds the states of all runs on this machine.
        epochs: of each training; None: `local-epochs`.
        announced: the server's target, of rule `global`.
    """
    filled = [some for k in clients if (some := found(config, k, partitions, root, announced)) is not None]
    if not filled:
        return None
    pooled = load_pooled(config.of(Data), config.run.seed, partitions)
    synthetic = (torch.cat([some.images for some in filled]), torch.cat([some.labels for some in filled]))
    table, rows = all_tests(config.of(Data), config.run.seed, partitions)
    real, test = (pooled.train_images, pooled.train_labels), (table.images(rows), torch.from_numpy(table.label.codes[rows]))
    return domain_gap(config, real, synthetic, test, len(pooled.classes), epochs)


def warning(share: float, known: float = 1.0) -> str:
    """A line for an agreement that is too low; empty where it is not.

    Args:
        share: of the synthetic images, those whose labels the classifier agrees with.
        known: of real test images, those that it is right about, without which it says nothing of the synthetic ones.
    """
    if share >= LEAST_AGREEMENT:
        return ""
    if known < LEAST_AGREEMENT:
        return (
            f"a classifier that is right about {known:.1%} of real test images, less than {LEAST_AGREEMENT:.0%}, does not tell "
            "whether synthetic ones show their classes; look at samples, or raise local-epochs or learning-rate"
        )
    return (
        f"a classifier trained on real images agrees with the labels of {share:.1%} of the synthetic ones, less "
        f"than {LEAST_AGREEMENT:.0%}: the foundation may not know these classes; look at samples, set gen-fedsd.phrases or judge"
    )


def domain_gap(
    config: Config, real: tuple[Tensor, Tensor], synthetic: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int,
    epochs: int | None = None,
) -> DomainGap:  # fmt: skip
    """Train one classifier on real and one on synthetic images, and measure each on the other kind.

    Args:
        config: architecture, optimiser and seed.
        real, synthetic, test: uint8 images (n, 3, S, S) and labels (n,); the test images are real.
        epochs: of each training; None: `local-epochs`.
    """
    on_real, on_synthetic = (
        trained(config, *part, classes, name, epochs) for part, name in ((real, "real"), (synthetic, "drawn"))
    )
    return DomainGap(
        correct(on_real, *synthetic) / len(synthetic[1]),
        correct(on_synthetic, *test) / len(test[1]),
        correct(on_real, *test) / len(test[1]),
    )


def trained(config: Config, images: Tensor, labels: Tensor, classes: int, name: str, epochs: int | None = None) -> nn.Module:
    """A classifier of the run's architecture after the run's local training on these images."""
    run = config.run
    model = build_model(config.of(Model), classes, images.shape[-1], run.seed, say=str).to(device_of(run.device))
    fit(model, images, labels, Plan.of(run, epochs), generator(run.seed, "audit", name), stage=f"audit on {name} images")
    return model
