"""The pre-trained text-to-image model that everybody starts from: the embedded `glyph`, a Hub name or a local folder.

Whatever the size, it is a pipeline of diffusers' own classes, of one of the families: the code path is one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote, urlparse

import torch
from torch import Tensor

from fedwarm.diffusion import autoencoder
from fedwarm.diffusion.checks import check_sampler, check_side
from fedwarm.diffusion.families import Family, Net, family_of, known_pipelines, usual_family
from fedwarm.diffusion.fingerprints import fingerprint
from fedwarm.diffusion.hub import fetched, remedy
from fedwarm.diffusion.offload import give_back, working
from fedwarm.diffusion.pipeline import INDEX, hush, read_index, read_pipeline
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.sizes import EXACT_ROWS, exact_rows
from fedwarm.models import device_of
from fedwarm.settings.fields import SettingError

EMBEDDED = ("glyph",)
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Foundation:
    """A loaded pipeline, frozen, on its device, or resting in the host's memory (`wake`, `rest`).

    Attributes:
        pipe: diffusers' pipeline.
        device, dtype: where and in what precision it computes.
        fingerprint: a digest of all parts and their weights, the same on every machine and in every precision.
        side: height and width of its images in pixels, where that is not its own; 0: it is.
    """

    pipe: Any
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    side: int = 0

    @cached_property
    def family(self) -> Family:
        """Its family."""
        return family_of(type(self.pipe).__name__) or usual_family()

    @property
    def net(self) -> Any:
        """The part that denoises, which adapters are attached to."""
        return getattr(self.pipe, self.family.net)

    @property
    def models(self) -> list[Any]:
        """The parts with weights."""
        return [getattr(self.pipe, part) for part in self.family.models]

    def wake(self) -> None:
        """Bring its models to its device, wherever they are, but for those that come when a sentence is read; a CPU has all."""
        for part in self.family.models:
            if self.device.type != "cpu" and part not in self.family.encoders:
                getattr(self.pipe, part).to(self.device)

    def rest(self) -> None:
        """Leave the device's memory to others until it is woken; on a CPU nothing is done."""
        if self.device.type != "cpu":
            for model in self.models:
                model.to("cpu")
            give_back()

    @property
    def small(self) -> bool:
        """Whether it computes on a CPU so fast that one thread is best, and many processes can hold it."""
        return self.device.type == "cpu" and self.exact_rows == EXACT_ROWS

    @property
    def exact_rows(self) -> int:
        """How many images a CPU draws together, always: with other numbers an image would be another in its last bits."""
        return exact_rows(sum(parameter.numel() for parameter in self.net.parameters()))

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images that it learns from and draws."""
        return self.side or int(self.net.config.sample_size) * int(self.pipe.vae_scale_factor)

    @property
    def latent_size(self) -> int:
        """Height and width of a latent."""
        return self.side // int(self.pipe.vae_scale_factor) if self.side else int(self.net.config.sample_size)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        """Text embeddings (n, tokens, width), each computed alone so that it does not depend on its neighbours.

        The text encoders are on the device for this alone.
        """
        with working([getattr(self.pipe, part) for part in self.family.encoders], self.device):
            return torch.cat([self.family.embed(self.pipe, prompt, self.device) for prompt in prompts])

    def predict(self, noisy: Tensor, time: Tensor, context: Tensor, net: Net | None = None) -> Tensor:
        """What the net says of noisy latents (n, c, h, w) at a time or at times (n,), by rows of `embed`.

        Args:
            net: another function with the net's arguments.
        """
        return self.family.predict(self.pipe, net or self.net, noisy, time, context, self.image_size)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (n, c, h, w) at unit scale of images (n, 3, H, W) in [-1, 1], all at once."""
        return autoencoder.encoded(self.pipe.vae, images).to(self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (n, 3, H, W), about in [-1, 1] and float32, of latents (n, c, h, w) at unit scale, all at once."""
        return autoencoder.decoded(self.pipe.vae, latents)

    def together(self, most: int) -> int:
        """How many images, of at most so many, the autoencoder takes at a time."""
        return autoencoder.together(self.pipe.vae, self.image_size, most)


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
        SettingError: the embedded one is not installed here, or the folder is no pipeline of a known family.
    """
    if name in EMBEDDED:
        folder = asset_folder(name)
        if folder is None:
            raise SettingError(
                f"diffusion.foundation = {name!r} is not in this installation: install fedwarm on this machine "
                f"(its weights do not travel in a Flower bundle), or make it by `fedwarm foundation train {name}` "
                f"and set diffusion.foundation='foundations/{name}', or to any pipeline's folder"
            )
        return str(folder)
    path = Path(name)
    if path.is_dir():
        missing = missing_parts(path)
        if missing:
            raise SettingError(
                f"diffusion.foundation = {name!r} is not a Stable Diffusion pipeline: {missing}; give a folder that "
                "diffusers' `save_pretrained` wrote"
            )
    elif path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise SettingError(
            f"diffusion.foundation = {name!r} is neither a folder nor a Hub name; use 'glyph', an existing folder, or "
            "a name such as 'owner/model' (a pipeline in a repository's folder must be downloaded, and its folder given)"
        )
    return name


def missing_parts(folder: Path) -> str:
    """What a folder lacks to be a pipeline of a known family, in words; empty where it has all parts."""
    if not (folder / INDEX).is_file():
        return f"it has no {INDEX}"
    known = read_index(folder)
    if known is None:
        return f"its {INDEX} cannot be read"
    family = family_of(known.get("_class_name"))
    if family is None:
        return f"its {INDEX} names {known.get('_class_name')!r}, and there are {', '.join(known_pipelines())}"
    missing = [part for part in family.parts if part not in known or not (folder / part).is_dir()]
    return f"it lacks {', '.join(missing)}" if missing else ""


def load_foundation(settings: Diffusion, device: str, awake: bool = True) -> Foundation:
    """Load and freeze the foundation of the settings; the process keeps one for each device.

    Args:
        awake: its models are on the device; false: they are where they are, at first in the host's memory, as nothing is to be
            computed with them now.

    Raises:
        SettingError: it cannot be had, in one line that says what to install or set.
    """
    where = device_of(device)
    precision = PRECISIONS[precision_of(settings, where.type)]
    found = _load(locate(settings.foundation), where, precision, settings.image_size)
    check_sampler(found.family, settings)
    if awake:
        found.wake()
    return found


def precision_of(settings: Diffusion, device: str) -> str:
    """The precision by its name: what `auto` stands for is that of a type of device, and of a foundation."""
    if settings.precision != "auto":
        return settings.precision
    if device != "cuda" or settings.foundation in EMBEDDED:
        return "fp32"
    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if able else "fp16"


_kept: dict[torch.device, tuple[object, Foundation]] = {}
_loading = Lock()  # one at a time: the loaders set torch's default type to that of the files, for all threads, and back


def _load(source: str, device: torch.device, dtype: torch.dtype, side: int) -> Foundation:
    """The device's, as it was kept, or in the host's memory."""
    key = source, dtype, side
    with _loading:
        if device not in _kept or _kept[device][0] != key:
            _kept.pop(device, None)
            _kept[device] = key, _loaded(source, device, dtype, side)
        return _kept[device][1]


def _loaded(source: str, device: torch.device, dtype: torch.dtype, side: int) -> Foundation:
    pipe = _quietly_read(source)
    family = family_of(type(pipe).__name__) or usual_family()
    for tokenizer, encoder in zip(family.tokenizers, family.encoders, strict=True):
        words, known = len(getattr(pipe, tokenizer)), getattr(pipe, encoder).config.vocab_size
        if words != known:
            raise SettingError(
                f"diffusion.foundation = {source!r} has a {tokenizer} of {words} tokens and a {encoder} of {known}; "
                "give a pipeline whose tokenizer folder is complete"
            )
    family.refuse_schedule(pipe.scheduler, source)
    autoencoder.refuse_unknown(pipe.vae.config, source)
    pipe.set_progress_bar_config(disable=True)
    mark = fingerprint(pipe)
    for name in family.models:
        part = getattr(pipe, name)
        wide = name == "vae" and family.is_wide(part)
        part.to(torch.float32 if wide else dtype).requires_grad_(False).eval()
    check_side(side, family.step(pipe), family.largest(pipe))
    return Foundation(pipe, device, dtype, mark, side)


def _quietly_read(source: str) -> Any:
    """The pipeline of a folder or Hub name; whatever a library has to say of it becomes one line."""
    from safetensors import SafetensorError

    hush()
    try:
        folder = Path(source) if Path(source).is_dir() else fetched(source)
        return read_pipeline(folder, source)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, SettingError):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise SettingError(f"diffusion.foundation = {source!r} could not be loaded ({reason}); {remedy(error)}") from error
