"""The DreamBooth part of hollowed_quality.py: tune on a subject's few images, draw it from prompts, compare by CLIP and DINO.

- dino, clip_image: mean cosine between every drawn and every real image of the subject, by DINO's and CLIP's image embeddings.
- clip_text: mean cosine between drawn images and what was asked for, by CLIP, the subject called by its class alone.
The metrics are those of Ruiz et al., "DreamBooth", arXiv 2208.12242; the prompts are ours unless a file of them is given, one a
line with {subject}. The weights are the user's: folders that transformers' `save_pretrained` wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.core.seeds import derive
from fedwarm.data.hub import hub_table
from fedwarm.data.tables import Table
from fedwarm.diffusion.foundation import load_foundation
from fedwarm.diffusion.lora import FIRST, attached, load_adapter, targets_of
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.settings import NONE, Hollowed
from fedwarm.diffusion.tuners.hollowed.tune import tune_hollowed
from fedwarm.diffusion.tuning import Tuning
from fedwarm.settings.fields import SettingError

TOKEN = "sks"
PROMPTS = (
    "a photo of {subject}",
    "a photo of {subject} on a beach",
    "a photo of {subject} in the snow",
    "a painting of {subject}",
)
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DINO = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Figures = dict[str, float]


@dataclass(frozen=True)
class Eyes:
    """CLIP, its tokenizer and DINO."""

    clip: Any
    tokenizer: Any
    dino: Any

    @staticmethod
    def of(clip: Path | None, dino: Path | None) -> Eyes:
        """Load them; SettingError where a folder is missing or holds something else."""
        from transformers import AutoModel, AutoTokenizer, CLIPModel

        given = {"--clip": clip, "--dino": dino}
        for option, folder in given.items():
            if folder is None or not (folder / "config.json").is_file():
                raise SettingError(f"--dreambooth needs {option} with the folder of its weights (config.json and safetensors)")
        try:
            return Eyes(whole(CLIPModel, clip, "--clip"), AutoTokenizer.from_pretrained(clip), whole(AutoModel, dino, "--dino"))
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, SettingError):
                raise
            raise SettingError(f"--clip or --dino cannot be loaded: {str(error).strip().splitlines()[0][:200]}") from error

    @torch.no_grad()
    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (n, d) by CLIP and (n, d') by DINO of uint8 images (n, 3, S, S)."""
        inputs = _pixels(images, self.clip.config.vision_config, CLIP)
        clip = self.clip.visual_projection(self.clip.vision_model(pixel_values=inputs)[1])
        dino = self.dino(pixel_values=_pixels(images, self.dino.config, DINO)).last_hidden_state[:, 0]
        return F.normalize(clip, dim=1), F.normalize(dino, dim=1)

    @torch.no_grad()
    def read(self, sentences: list[str]) -> Tensor:
        """Unit embeddings (n, d) by CLIP."""
        ids = self.tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
        told = self.clip.text_projection(self.clip.text_model(**ids)[1])
        return F.normalize(told, dim=1)


def whole(kind: Any, folder: Any, option: str) -> Any:
    """A model whose weights were all there: transformers draws at random what a folder lacks.

    Raises:
        SettingError: some are not; `option` is where the folder was given.
    """
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    if missing := sorted(name for name in told["missing_keys"] if not name.startswith("pooler.")):
        raise SettingError(f"{option} = {str(folder)!r} lacks weights of a {type(model).__name__}, e.g. {missing[0]}")
    return model.eval()


def _pixels(images: Tensor, config: Any, scale: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """The input of a vision model, at its own size."""
    mean, spread = (torch.tensor(values).view(3, 1, 1) for values in scale)
    size = (config.image_size, config.image_size)
    return (F.interpolate(images / 255, size, mode="bicubic", antialias=True).clamp(0, 1) - mean) / spread


def subjects(folder: Path, size: int) -> Table:
    """The data set, labelled by subject."""
    return hub_table(str(folder), "", "subject", size)


def rows_of(settings: Diffusion, given: Any, seed: int, subject: str, rows: list[str]) -> Iterator[tuple[str, Figures]]:
    """Each asked row with its figures: `none` (no tuning), `full` (LoRA on the whole net), or a depth."""
    eyes, foundation = Eyes.of(given.clip, given.dino), load_foundation(settings, given.device)
    table = subjects(given.dreambooth, foundation.image_size)
    number = table.label.names.index(subject)
    images = table.images(np.flatnonzero(table.label.codes == number))
    labels = torch.zeros(len(images), dtype=torch.int64)
    word = re.sub(r"\d", "", subject).replace("_", " ").strip()
    asked = [line for line in given.prompts.read_text().splitlines() if line.strip()] if given.prompts else list(PROMPTS)
    called = [p.replace("{subject}", f"{TOKEN} {word}") for p in asked for _ in range(given.per_class)]
    plain = eyes.read([p.replace("{subject}", f"a {word}") for p in asked]).repeat_interleave(given.per_class, 0)
    real = eyes.see(images)
    seeds = [derive(seed, "image", number, i) for i in range(len(called))]
    named = [PROMPTS[0].replace("{subject}", f"{TOKEN} {word}")]
    tuning = Tuning(foundation, images, labels, named, settings, seed, number)
    for row in rows:
        state = {} if row == "none" else tune_hollowed(tuning, Hollowed(depth=NONE if row == "full" else int(row)))
        with ExitStack() as stack:
            if state:
                unet, own = foundation.pipe.unet, replace(settings, targets=targets_of(state))
                stack.enter_context(attached(unet, own, seed, FIRST, number))
                load_adapter(unet, state)
            clip, dino = eyes.see(sample(foundation, called, seeds, settings, foundation.image_size))
        likeness = {"dino": float((dino @ real[1].T).mean()), "clip_image": float((clip @ real[0].T).mean())}
        up = float(sum(t.numel() * t.itemsize for t in state.values()))
        yield row, {**likeness, "clip_text": float((clip * plain).sum(1).mean()), "uplink_bytes": up}
