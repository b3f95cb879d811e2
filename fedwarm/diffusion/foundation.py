"""The pre-trained text-to-image model that everybody starts from: the embedded `glyph`, a Hub name or a local folder.

Whatever the size, it is a Stable Diffusion pipeline of diffusers' own classes (Rombach et al., arXiv 2112.10752; Stable
Diffusion 1.5 and 2.1-base are the full-size targets): the code path is one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import torch
from torch import Tensor

from fedwarm.diffusion.hub import fetched
from fedwarm.diffusion.pipeline import MODELS, read_pipeline
from fedwarm.diffusion.settings import Diffusion
from fedwarm.models import device_of
from fedwarm.settings.fields import SettingError

EMBEDDED = ("glyph",)
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
TEXT = ("hidden_act", "layer_norm_eps", "num_attention_heads")  # of a text encoder: what its weights do not show
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Foundation:
    """A loaded pipeline, frozen, on its device.

    Attributes:
        pipe: diffusers' StableDiffusionPipeline.
        device, dtype: where and in what precision it computes.
        fingerprint: a digest of all parts and their weights, the same on every machine and in every precision.
        side: height and width of its images in pixels, where that is not its own; 0: it is.
    """

    pipe: Any
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    side: int = 0

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images that it learns from and draws."""
        return self.side or int(self.pipe.unet.config.sample_size) * int(self.pipe.vae_scale_factor)

    @property
    def latent_size(self) -> int:
        """Height and width of a latent."""
        return self.image_size // int(self.pipe.vae_scale_factor)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        """Text embeddings (n, tokens, width), each computed alone so that it does not depend on its neighbours."""
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        rows = []
        for prompt in prompts:
            ids = tokenizer(prompt, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
            rows.append(encoder(ids.to(self.device))[0])
        return torch.cat(rows)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents (n, c, h, w) at unit scale of images (n, 3, H, W) in [-1, 1], all at once."""
        vae = self.pipe.vae
        latents: Tensor = vae.encode(images.to(self.device, vae.dtype)).latent_dist.mean
        return latents * float(vae.config.scaling_factor)


def asset_folder(name: str) -> Path | None:
    """Where the embedded foundation lies: beside this package, or in the installed one when this is a bundle's copy."""
    candidates = [Path(__file__).parents[1] / "assets" / name]
    try:
        installed = metadata.distribution("fedwarm")
    except metadata.PackageNotFoundError:
        installed = None
    if installed is not None:
        candidates.append(Path(str(installed.locate_file("fedwarm"))) / "assets" / name)
        url = json.loads(installed.read_text("direct_url.json") or "{}").get("url", "")
        if url.startswith("file:"):
            candidates.append(Path(unquote(urlparse(url).path)) / "fedwarm" / "assets" / name)
    return next((c for c in candidates if (c / "model_index.json").is_file()), None)


def locate(name: str) -> str:
    """The folder or Hub name that a foundation setting stands for.

    Raises:
        SettingError: the embedded one is not installed here, or the folder is no Stable Diffusion pipeline.
    """
    if name in EMBEDDED:
        folder = asset_folder(name)
        if folder is None:
            raise SettingError(
                f"diffusion.foundation = {name!r} is not in this installation: install fedwarm on this machine "
                f"(its weights do not travel in a Flower bundle), make it by `fedwarm foundation train {name}`, "
                "or set diffusion.foundation to a pipeline's folder"
            )
        return str(folder)
    path = Path(name)
    if path.is_dir():
        missing = missing_parts(path)
        if missing:
            raise SettingError(
                f"diffusion.foundation = {name!r} is not a Stable Diffusion pipeline: {missing}; give a folder that "
                "`StableDiffusionPipeline.save_pretrained` wrote"
            )
    elif path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise SettingError(
            f"diffusion.foundation = {name!r} is neither a folder nor a Hub name; use 'glyph', an existing folder, or "
            "a name such as 'owner/model'"
        )
    return name


def missing_parts(folder: Path) -> str:
    """What a folder lacks to be a Stable Diffusion pipeline, in words; empty where it has all parts."""
    index = folder / "model_index.json"
    if not index.is_file():
        return "it has no model_index.json"
    try:
        known = json.loads(index.read_text())
    except (ValueError, OSError):
        known = None
    if not isinstance(known, dict):
        return "its model_index.json cannot be read"
    if known.get("_class_name") != "StableDiffusionPipeline":
        return f"its model_index.json names {known.get('_class_name')!r}"
    missing = [part for part in PARTS if part not in known or not (folder / part).is_dir()]
    return f"it lacks {', '.join(missing)}" if missing else ""


def load_foundation(settings: Diffusion, device: str) -> Foundation:
    """Load and freeze the foundation of the settings; kept in memory for the process.

    Raises:
        SettingError: it cannot be had, in one line that says what to install or set.
    """
    where = device_of(device)
    precision = settings.precision
    if precision == "auto":
        precision = "fp16" if where.type == "cuda" and settings.foundation not in EMBEDDED else "fp32"
    return _load(locate(settings.foundation), where, PRECISIONS[precision], settings.image_size)


@lru_cache(maxsize=1)
def _load(source: str, device: torch.device, dtype: torch.dtype, side: int) -> Foundation:
    pipe = _quietly_read(source)
    words, known = len(pipe.tokenizer), pipe.text_encoder.config.vocab_size
    if words != known:
        raise SettingError(
            f"diffusion.foundation = {source!r} has a tokenizer of {words} tokens and a text encoder of {known}; "
            "give a pipeline whose tokenizer folder is complete"
        )
    pipe.set_progress_bar_config(disable=True)
    mark = fingerprint(pipe)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.to(device, dtype).requires_grad_(False).eval()
    check_side(side, pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1))
    return Foundation(pipe, device, dtype, mark, side)


def check_side(side: int, step: int) -> None:
    """Refuse a side of images that the net cannot halve as often as it does; `step` is what it must be a multiple of."""
    if side % step:
        near = max(step, round(side / step) * step)
        raise SettingError(f"diffusion.image-size = {side} is no multiple of {step}, as this foundation needs; set it to {near}")


def _quietly_read(source: str) -> Any:
    """The pipeline of a folder or Hub name, in float32; whatever a library has to say of it becomes one line."""
    from diffusers.utils import logging
    from safetensors import SafetensorError
    from transformers.utils import logging as of_transformers

    logging.disable_progress_bar()
    of_transformers.disable_progress_bar()
    logging.set_verbosity_error()
    of_transformers.set_verbosity_error()
    try:
        folder = Path(source) if Path(source).is_dir() else fetched(source)
        return read_pipeline(folder, source)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, SettingError):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise SettingError(
            f"diffusion.foundation = {source!r} could not be loaded ({reason}); on a machine without network, "
            "give the folder of a downloaded Stable Diffusion pipeline"
        ) from error


def fingerprint(pipe: Any) -> str:
    """SHA-256 over what draws an image: every model's configuration, names, shapes and first 256 values of its weights (an
    adapter's are left out), the words of the tokenizer and the scheduler's configuration."""
    digest = hashlib.sha256()
    for part in MODELS:
        model = getattr(pipe, part)
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                continue
            own = name.replace(".base_layer", "").removeprefix("text_model.")  # a name of transformers' that comes and goes
            head = parameter.detach().flatten()[:256].float().cpu().numpy().tobytes()
            digest.update(f"{part}.{own}{tuple(parameter.shape)}".encode() + head)
    text = {key: getattr(pipe.text_encoder.config, key) for key in TEXT}
    told = [_told(pipe.unet), _told(pipe.vae), _told(pipe.scheduler), text, sorted(pipe.tokenizer.get_vocab().items())]
    digest.update(json.dumps(told, sort_keys=True).encode())
    return digest.hexdigest()


def _told(part: Any) -> dict[str, Any]:
    """A configuration of diffusers' without notes of its own and without what is its class's default."""
    usual = {name: parameter.default for name, parameter in inspect.signature(type(part).__init__).parameters.items()}
    plain = {key: value for key, value in part.config.items() if not key.startswith("_") and value != usual.get(key)}
    return {"class": type(part).__name__, **json.loads(json.dumps(plain, default=str))}
