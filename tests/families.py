"""Tiny pipelines of every family, of diffusers' own classes, with random weights, by the class that their index names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedwarm.core.seeds import initialisation
from fedwarm.diffusion.pretraining.untrained import build_pipeline, build_tokenizer
from tests.pipelines import SMALL

WIDTH, TOKENS, TIMES, WHOLE = 16, 20, 8, 24
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline")
SENTENCES = ["a photo of a one", "a photo of a two", "a photo of a three"]


def text(tokenizer: Any, projected: int = 0) -> Any:
    """A text encoder of two layers; `projected`: the width of what it says of a whole sentence, 0: it says nothing of it."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS, projection_dim=projected or WIDTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def autoencoder(**more: Any) -> Any:
    """Latents of a quarter of an image's side."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4, layers_per_block=1, norm_num_groups=8, sample_size=32, **more,
    )  # fmt: skip


def large(tokenizer: Any) -> Any:
    """Stable Diffusion XL, tiny."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, cross_attention_dim=2 * WIDTH,
        attention_head_dim=(2, 4), norm_num_groups=8, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=TIMES, projection_class_embeddings_input_dim=6 * TIMES + WHOLE,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025, force_upcast=True), text_encoder=text(tokenizer), tokenizer=tokenizer,
        text_encoder_2=text(tokenizer, WHOLE), tokenizer_2=tokenizer, unet=unet, scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip


def transformer(tokenizer: Any) -> Any:
    """Stable Diffusion 3, tiny."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    net = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=2 * WHOLE, pos_embed_max_size=8,
    )  # fmt: skip
    parts = {"text_encoder": text(tokenizer, WHOLE), "text_encoder_2": text(tokenizer, WHOLE), "text_encoder_3": None}
    words = {"tokenizer": tokenizer, "tokenizer_2": tokenizer, "tokenizer_3": None}
    vae, scheduler = autoencoder(scaling_factor=1.5, shift_factor=0.06), FlowMatchEulerDiscreteScheduler(shift=3.0)
    return StableDiffusion3Pipeline(transformer=net, scheduler=scheduler, vae=vae, **parts, **words)


def write_pipeline(name: str, folder: Path) -> Path:
    """The pipeline of a class in a folder, the same each time."""
    tokenizer = build_tokenizer(SENTENCES, TOKENS)
    with initialisation(0, "test-family"):
        made = {PIPELINES[0]: lambda: build_pipeline(SMALL, tokenizer), PIPELINES[1]: lambda: large(tokenizer)}.get(
            name, lambda: transformer(tokenizer)
        )()
    made.save_pretrained(folder, safe_serialization=True)
    return folder
