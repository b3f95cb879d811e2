"""The state of an adapter's tuning on its way: what a crash leaves, and from where the same tuning goes on.

A file for its owner alone beside the client's own state: parameters, optimiser, step size, factor of the loss, generator, step.
On a CPU, and on a GPU with deterministic algorithms, the end is the same bit for bit as without a crash.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedwarm.core.files import DiskError, make_folder, replacing
from fedwarm.diffusion import encoded
from fedwarm.diffusion.rows import EVERY_SECONDS

NAME = "adapter-on-its-way.safetensors"
TOLD = "told"


class Midway:
    """What is kept of a tuning.

    Args:
        folder: the client's own.
        mark: what tells this tuning from others; state under another mark is not used.
        draws: the generator of its batches.
        scaler: the factor of its loss.
    """

    def __init__(self, folder: Path, mark: str, draws: torch.Generator, scaler: torch.amp.GradScaler) -> None:
        self.path, self.mark, self.draws, self.scaler = folder / NAME, mark, draws, scaler
        self.last = time.monotonic()

    def restore(self, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> int:
        """Put back what was kept; the number of steps that are done, 0 where nothing was kept or another tuning's."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                told = json.loads((file.metadata() or {}).get(TOLD, "{}"))
                if told.get("mark") != self.mark:
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except (SafetensorError, OSError, ValueError):
            return 0
        with torch.no_grad():
            for i, parameter in enumerate(_parameters(optimiser)):
                parameter.copy_(tensors[f"parameter.{i}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            number, _, key = rest.partition(".")
            if kind == "state":
                state.setdefault(int(number), {})[key] = tensor
        optimiser.load_state_dict({"state": state, "param_groups": told["groups"]})
        schedule.load_state_dict(told["schedule"])
        if told["scaler"]:
            changing = {name: told["scaler"][name] for name in ("scale", "_growth_tracker")}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **changing})
        self.draws.set_state(tensors["draws"])
        return int(told["step"])

    def due(self) -> bool:
        """Whether so much time has passed that the state is to be kept."""
        return time.monotonic() - self.last >= EVERY_SECONDS

    def keep(self, step: int, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
        """Write the state after so many steps; a disk that takes no more costs the tuning nothing but a warning."""
        from safetensors.torch import save_file

        saved = optimiser.state_dict()
        tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(_parameters(optimiser))}
        tensors |= {f"state.{i}.{key}": torch.as_tensor(v) for i, own in saved["state"].items() for key, v in own.items()}
        told: dict[str, Any] = {
            "mark": self.mark,
            "step": step,
            "groups": saved["param_groups"],
            "scaler": self.scaler.state_dict(),
        }
        told["schedule"] = {name: value for name, value in schedule.state_dict().items() if _plain(value)}
        tensors = {name: t.cpu().contiguous().clone() for name, t in tensors.items()} | {"draws": self.draws.get_state()}
        try:
            make_folder(self.path.parent, 0o700)
            with replacing(self.path, private=True, durable=True) as temporary:
                save_file(tensors, temporary, metadata={TOLD: json.dumps(told)})
        except DiskError as error:
            logging.getLogger("fedwarm").warning("tuning that ends now would begin anew: %s", error)
        self.last = time.monotonic()


def forget(folder: Path) -> None:
    """Remove what was kept, as the adapter is done and kept itself; also what its images were encoded to."""
    (folder / NAME).unlink(missing_ok=True)
    encoded.forget(folder)


def mark_of(facts: object, tensors: Iterable[Tensor]) -> str:
    """A digest of what decides a tuning: facts by their text, and tensors by their bytes."""
    digest = hashlib.sha256(repr(facts).encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _plain(value: object) -> bool:
    return isinstance(value, (bool, int, float, list))
