"""Who was in an adapter's training data? Membership by the denoising loss, for each client of a finished WarmFed run.

    fedwarm run warmfed --out runs/w && python benchmarks/membership.py runs/w
    python benchmarks/membership.py runs/study-warmfed_private/private-*-seed-2?        # several: with the mean over runs

The server holds every adapter and has the foundation. It may ask of an image how much better the adapter denoises it than the
bare foundation does: the loss without the adapter less the loss with it, at the same noises and times, averaged over draws.
Carlini et al., "Extracting Training Data from Diffusion Models", arXiv 2301.13188, and Matsumoto, Miura, Yanai, "Membership
Inference Attacks against Diffusion Models", arXiv 2302.03262, use such losses. Printed is, by client, the area under the ROC
curve of training images against as many held-out ones (.5: nothing is told), and the true positive rate at 5 % false positives.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.diffusion.asking import of_client
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.settings import Diffusion
from fedwarm.methods.warmfed import WarmFed
from fedwarm.models import to_input
from fedwarm.record.reading import read_run
from fedwarm.report.paired import difference

FALSE = 0.05


def losses(foundation: Foundation, images: Tensor, sentences: list[str], draws: int, seed: int) -> Tensor:
    """The mean squared error of the predicted noise of each image (n,), over the same times and noises for whoever asks."""
    from diffusers import DDPMScheduler

    pipe, total = foundation.pipe, torch.zeros(len(images))
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    noises = generator(seed, "membership")
    with torch.no_grad():
        latents = foundation.encode(to_input(images))
        words = foundation.embed(sentences)
        for k in range(draws):
            time = torch.full((len(images),), int((k + 0.5) / draws * schedule.config.num_train_timesteps))
            noise = torch.randn(latents.shape, generator=noises)
            noisy = schedule.add_noise(latents, noise, time)
            velocity = schedule.config.prediction_type == "v_prediction"
            target = schedule.get_velocity(latents, noise, time) if velocity else noise
            said = pipe.unet(noisy, time, encoder_hidden_states=words).sample
            total += (said - target).square().flatten(1).mean(1)
    return total / draws


def area(members: Tensor, others: Tensor) -> float:
    """Probability that a member's score is above another's, ties half."""
    gap = members[:, None] - others[None]
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())


def caught(members: Tensor, others: Tensor) -> float:
    """Share of the members above the score that a share `FALSE` of the others reaches."""
    return float((members > torch.quantile(others, 1 - FALSE)).double().mean())


def scores(folder: Path, client: int, images: int = 100, draws: int = 10) -> tuple[Tensor, Tensor]:
    """How much a client's adapter lowers the loss of its training images, and of as many held-out ones: (n,) each.

    Args:
        folder: of a finished run, with its adapters.
        images: of each kind, at most.
        draws: times and noises that a loss is averaged over.
    """
    run = read_run(folder, ledger=False)
    config = parse(run.settings)
    foundation = load_foundation(config.of(Diffusion), "cpu")
    shard = load_shard(config.of(Data), run.seed, client, run.clients)
    count = min(images, len(shard.train_labels), len(shard.test_labels))
    asked = torch.cat([shard.train_images[:count], shard.test_images[:count]])
    labels = torch.cat([shard.train_labels[:count], shard.test_labels[:count]])
    said = of_client(config.of(WarmFed).sentences(config, shard.classes), len(shard.classes), client)
    sentences = [said[int(label)] for label in labels]
    bare = losses(foundation, asked, sentences, draws, run.seed)
    foundation.pipe.load_lora_weights(folder / "adapters" / f"client-{client}")
    gain = bare - losses(foundation, asked, sentences, draws, run.seed)
    foundation.pipe.unload_lora_weights()
    return gain[:count], gain[count:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of warmfed, with their adapters")
    parser.add_argument("--images", type=int, default=100, help="training images of a client, and as many held-out ones")
    parser.add_argument("--draws", type=int, default=10, help="times and noises that a loss is averaged over")
    given = parser.parse_args()
    print("| run | client | images of each kind | area under the ROC curve | caught at 5 % false alarms |\n|---|---|---|---|---|")
    means: list[tuple[float, float]] = []
    for folder in given.runs:
        run, found = read_run(folder, ledger=False), list[tuple[float, float]]()
        for client in range(run.clients):
            members, others = scores(folder, client, given.images, given.draws)
            found.append((area(members, others), caught(members, others)))
            told = f"{found[-1][0]:.3f} | {100 * found[-1][1]:.1f} %"
            print(f"| {folder.name} | {run.called(client)} | {len(members)} | {told} |", flush=True)
        means.append((fmean(each for each, _ in found), fmean(each for _, each in found)))
        print(f"| {folder.name} | mean | | {means[-1][0]:.3f} | {100 * means[-1][1]:.1f} % |", flush=True)
    if len(means) > 1:
        areas, shares = ([*values] for values in zip(*means, strict=True))
        print(f"| all {len(means)} runs | mean [95 % interval] | | {over(areas)} | {over(shares, 100)} % |")


def over(values: Sequence[float], scale: float = 1.0) -> str:
    """Mean and interval of Student's t over runs."""
    found, digits = difference(values, [0.0] * len(values)), 3 if scale == 1 else 1
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main()
