"""The cases of hollowed_memory.py: random nets of full size, inference, full fine-tuning and the project's own tuning."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SD15: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8,
}  # fmt: skip
PROMPTS = ["a photo of a dog", "a photo of a cat"]

Mark = Callable[[], None]


def filled(module: Any, dtype: Any, device: str) -> Any:
    """A module that was made on the meta device, with small random weights; never twice in memory."""
    import torch

    torch.nn.Module.to(module, dtype).to_empty(device=device)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith("position_ids"):
            tensor.copy_(torch.arange(tensor.shape[-1]))
        elif tensor.ndim > 1:
            bound = (3.0 / tensor[0].numel()) ** 0.5
            tensor.data.uniform_(-bound, bound)
        else:
            tensor.data.fill_(float("norm" in name and "weight" in name))
    return module.requires_grad_(False).eval()


def sd15(given: argparse.Namespace, dtype: Any) -> Any:
    """A pipeline whose U-Net is Stable Diffusion 1.5's; the other parts are, too, with --whole."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from fedwarm.diffusion.pretraining.untrained import build_tokenizer

    tokenizer = build_tokenizer(PROMPTS, 77)
    channels, groups, layers = ((128, 256, 512, 512), 32, 2) if given.whole else ((8, 8, 8, 8), 8, 1)
    words, deep, inner = (49408, 12, 3072) if given.whole else (len(tokenizer), 1, 768)
    text = {
        "vocab_size": words, "hidden_size": 768, "intermediate_size": inner, "num_hidden_layers": deep, "num_attention_heads": 12,
        "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel(sample_size=given.image_size // 8, **SD15),
            "vae": AutoencoderKL(
                block_out_channels=channels, norm_num_groups=groups, layers_per_block=layers, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                sample_size=given.image_size,
            ),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text)),
        }  # fmt: skip
    parts = {name: filled(part, dtype, given.device) for name, part in parts.items()}
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    parts |= {"tokenizer": tokenizer, "scheduler": scheduler, "safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def foundation_of(given: argparse.Namespace) -> Any:
    """What is tuned."""
    import torch

    from fedwarm.diffusion.foundation import PRECISIONS, Foundation, load_foundation
    from fedwarm.diffusion.settings import Diffusion

    dtype = PRECISIONS[given.precision]
    if given.layout == "glyph":
        return load_foundation(Diffusion(precision=given.precision), given.device)
    return Foundation(sd15(given, dtype), torch.device(given.device), dtype, "")


def warm_up() -> None:
    """Import what the cases import, by a tiny tuning run on the CPU."""
    import torch

    from fedwarm.diffusion.foundation import Foundation
    from fedwarm.diffusion.pretraining.untrained import Recipe, build_pipeline, build_tokenizer

    recipe = Recipe(unet_channels=(8, 8), vae_channels=(8, 8), text_width=8, text_layers=1)
    pipe = build_pipeline(recipe, build_tokenizer(PROMPTS, recipe.tokens))
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    tiny = argparse.Namespace(steps=1, batch=1, image_size=32, checkpoints=False, rank=1)
    tune(Foundation(pipe, torch.device("cpu"), torch.float32, ""), tiny, lambda: None, 1, 0)


def infer(foundation: Any, given: argparse.Namespace, mark: Mark) -> None:
    """Guided denoising, and with --whole the decoded image."""
    import torch

    unet, vae = foundation.pipe.unet, foundation.pipe.vae
    side, half = unet.config.sample_size, torch.tensor(500, device=foundation.device)
    with torch.no_grad():
        context = foundation.embed(["", PROMPTS[0]]).repeat_interleave(given.batch, 0)
        latents = torch.randn(given.batch, 4, side, side).to(foundation.device, foundation.dtype)
        for step in range(given.steps):
            without, told = unet(torch.cat([latents, latents]), half, context).sample.chunk(2)
            latents = latents - 0.01 * (without + 7.5 * (told - without))
            if step in (0, given.steps - 1):
                mark()
        if given.whole:
            vae.decode(latents / vae.config.scaling_factor)


def train_all(foundation: Any, given: argparse.Namespace, mark: Mark) -> None:
    """All weights of the U-Net by AdamW."""
    import torch
    import torch.nn.functional as F

    unet = foundation.pipe.unet.requires_grad_(True).train()
    context = foundation.embed(PROMPTS[:1]).repeat(given.batch, 1, 1)
    if given.checkpoints:
        unet.enable_gradient_checkpointing()
    optimiser = torch.optim.AdamW(unet.parameters(), lr=1e-6)
    side, half = unet.config.sample_size, torch.tensor(500, device=foundation.device)
    for step in range(given.steps):
        noisy = torch.randn(given.batch, 4, side, side).to(foundation.device, foundation.dtype)
        loss = F.mse_loss(unet(noisy, half, context).sample.float(), noisy.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step in (0, given.steps - 1):
            mark()


def tune(foundation: Any, given: argparse.Namespace, mark: Mark, rank: int, depth: int) -> None:
    """The project's own tuning; depth -2 is plain LoRA."""
    import torch

    from fedwarm.core.progress import Tick, listening
    from fedwarm.diffusion.settings import Diffusion
    from fedwarm.diffusion.tuners.hollowed.settings import Hollowed
    from fedwarm.diffusion.tuners.hollowed.tune import tune_hollowed
    from fedwarm.diffusion.tuning import Tuning

    settings = Diffusion(
        rank=rank, lora_steps=given.steps, lora_batch_size=given.batch, lora_learning_rate=1e-4,
        gradient_checkpointing=given.checkpoints,
    )  # fmt: skip

    def listen(event: Tick) -> None:
        if event.stage == "adapter" and event.step in (1, event.of):
            mark()

    images = torch.randint(256, (given.batch, 3, given.image_size, given.image_size), dtype=torch.uint8)
    labels = torch.arange(given.batch) % len(PROMPTS)
    with listening(listen), tempfile.TemporaryDirectory() as folder:
        tuning = Tuning(foundation, images, labels, PROMPTS, settings, 0, 0)
        tune_hollowed(tuning, Hollowed(depth=depth), Path(folder))


def work(given: argparse.Namespace, mark: Mark) -> None:
    """Load and do one case; `mark` is called after the first and after the last step."""
    foundation = foundation_of(given)
    kind, _, number = given.case.partition("-")
    if kind == "inference":
        infer(foundation, given, mark)
    elif kind == "full":
        train_all(foundation, given, mark)
    else:
        tune(foundation, given, mark, *((int(number), -2) if kind == "lora" else (given.rank, int(number))))
