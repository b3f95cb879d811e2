"""Low-rank adapters on a U-Net's attention: W + (alpha / r) B A, A random, B = 0.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, eq. 3; peft does the surgery, and the names of
the tensors are peft's. Only these matrices train and only they travel.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.core.files import order_metadata, replacing
from fedwarm.core.seeds import initialisation
from fedwarm.diffusion.families import Family, usual_family
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from fedwarm.diffusion.foundation import Foundation

ADAPTER = "fedwarm"
FILE = "pytorch_lora_weights.safetensors"  # of a saved adapter
TOLD, FOUNDATION = "lora_adapter_metadata", "foundation"  # in its metadata: its form for diffusers, what it was tuned on
FIRST = "lora-init"
MARK = ".lora_"


def targeted(unet: nn.Module, targets: str) -> dict[str, nn.Linear]:
    """The linear layers of the U-Net whose name ends in one of the comma-separated targets.

    Raises:
        SettingError: a target names no layer, or there is none.
    """
    ends = [t.strip() for t in targets.split(",") if t.strip()]
    if not ends:
        raise SettingError(f"diffusion.targets = {targets!r} names no layer; the default is {Diffusion.targets!r}")
    layers = {name: m for name, m in unet.named_modules() if isinstance(m, nn.Linear)}
    found = {n: m for n, m in layers.items() if any(n == e or n.endswith(f".{e}") for e in ends)}
    for end in ends:
        if not any(n == end or n.endswith(f".{end}") for n in found):
            raise SettingError(
                f"diffusion.targets names {end!r}, but the U-Net has no linear layer of that name; the default is "
                f"{Diffusion.targets!r}"
            )
    return found


def adapter_size(unet: nn.Module, rank: int, targets: str) -> int:
    """Number of parameters of an adapter: rank times the sum over targeted layers of (inputs + outputs)."""
    return rank * sum(m.in_features + m.out_features for m in targeted(unet, targets).values())


@contextmanager
def attached(unet: Any, settings: Diffusion, seed: int, *keys: str | int) -> Iterator[list[nn.Parameter]]:
    """The U-Net with a fresh trainable adapter for the block, and as it was afterwards.

    Args:
        unet: frozen diffusers U-Net.
        settings: rank, alpha and targets.
        seed, keys: what the random A is drawn from.

    Yields:
        The adapter's parameters, float32, the only ones that require a gradient.
    """
    from peft import LoraConfig

    names = list(targeted(unet, settings.targets))
    with initialisation(seed, *keys):
        unet.add_adapter(LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=names), adapter_name=ADAPTER)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    if unet.dtype != torch.float32:
        with initialisation(seed, *keys):
            _draw_exactly(targeted_by_adapter(unet))
        _compute_as_given(targeted_by_adapter(unet))
    try:
        yield parameters
    finally:
        unet.delete_adapters(ADAPTER)
        _unwrap(unet)


def _draw_exactly(layers: list[Any]) -> None:
    """Draw each A as peft does, without rounding it to the net's precision: so it is the same whatever that is."""
    for layer in layers:
        first, second = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        exact = nn.Linear(first.in_features, first.out_features, bias=False)
        nn.Linear(second.in_features, second.out_features, bias=False)  # peft draws it and sets it to zero
        nn.init.kaiming_uniform_(exact.weight, a=5**0.5)
        first.weight.data = exact.weight.data.to(first.weight.device)


class _AsGiven(nn.Linear):
    """Computes in its input's precision, by weights that are kept, and trained, in float32."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype))


def _compute_as_given(layers: list[Any]) -> None:
    """Have the matrices take half precision as it comes: peft makes a float32 copy of each one's input, kept for the gradient."""
    for layer in layers:
        layer.cast_input_dtype_enabled = False
        for matrices in (layer.lora_A, layer.lora_B):
            matrices[ADAPTER].__class__ = _AsGiven


def targeted_by_adapter(unet: nn.Module) -> list[Any]:
    """The layers that hold matrices of the attached adapter, in the net's order."""
    return [module for module in unet.modules() if ADAPTER in getattr(module, "lora_A", {})]


def _unwrap(unet: Any) -> None:
    """Take peft's wrappers off, so that the next adapter finds the plain layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(unet.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent = unet.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
    unet._hf_peft_config_loaded = False
    if hasattr(unet, "peft_config"):
        del unet.peft_config


def adapter_state(unet: Any) -> dict[str, Tensor]:
    """The adapter's matrices by peft's names, float32 copies on the CPU: lora_A (r, in), lora_B (out, r)."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    return {name: t.detach().float().cpu().clone() for name, t in sorted(state.items())}


def first_matrices(foundation: Foundation, settings: Diffusion, seed: int, client: int) -> dict[str, Tensor]:
    """A client's adapter before its training (see `adapter_state`): both sides can draw it."""
    unet = foundation.net
    with attached(unet, settings, seed, FIRST, client):
        return adapter_state(unet)


def targets_of(adapter: Mapping[str, object]) -> str:
    """The layers that an adapter's matrices belong to, as `diffusion.targets`: attached to these it holds exactly its keys.

    Raises:
        ValueError: a layer has one matrix of two.
    """
    layers = Counter(name.partition(MARK)[0] for name in adapter)
    odd = sorted(layer for layer, matrices in layers.items() if matrices != 2)
    if odd:
        raise ValueError(f"adapter matrices come in pairs; of {odd[0]!r} one is missing")
    return ",".join(layers)


def load_adapter(unet: Any, state: Mapping[str, Tensor]) -> None:
    """Put matrices into the attached adapter.

    Raises:
        ValueError: names or shapes differ from the adapter's.
    """
    from peft import set_peft_model_state_dict

    own = adapter_state(unet)
    wrong = [n for n in own.keys() | state.keys() if n not in own or n not in state or own[n].shape != state[n].shape]
    if wrong:
        raise ValueError(f"the adapter does not fit this foundation: {sorted(wrong)[:3]}")
    set_peft_model_state_dict(unet, dict(state), adapter_name=ADAPTER)


def save_adapter(
    folder: Path,
    state: Mapping[str, Tensor],
    rank: int,
    alpha: float,
    targets: str,
    family: Family | None = None,
    fingerprint: str = "",
) -> Path:
    """Write an adapter as the file that `pipe.load_lora_weights(folder)` reads, with its rank and alpha.

    Args:
        family: of the foundation that it was tuned on; None: the usual one.
        fingerprint: of that foundation, which the file's metadata then have.

    Returns:
        the path of `pytorch_lora_weights.safetensors`.
    """
    import diffusers
    from safetensors.torch import save_file

    family, packed, path = family or usual_family(), dict[str, Tensor](), folder / FILE
    getattr(diffusers, family.pipelines[0]).save_lora_weights(
        folder, save_function=lambda tensors, _: packed.update(tensors), **{f"{family.net}_lora_layers": family.saved(state)}
    )
    own = {"r": rank, "lora_alpha": alpha, "target_modules": [t.strip() for t in targets.split(",") if t.strip()]}
    told = {"format": "pt", TOLD: json.dumps({f"{family.net}.{name}": own[name] for name in own}, indent=2, sort_keys=True)}
    with replacing(path) as temporary:
        save_file(packed, temporary, {**told, FOUNDATION: fingerprint} if fingerprint else told)
        order_metadata(temporary)
    return path


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Refuse an adapter that diverged.

    Raises:
        FloatingPointError: a matrix holds NaN or infinity.
    """
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise FloatingPointError(f"{name} holds NaN or infinity; lower diffusion.lora-learning-rate")
