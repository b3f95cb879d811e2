"""A small Stable Diffusion pipeline before its training: the recipe of its sizes, its tokenizer and its random weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fedwarm.diffusion.pretraining.glyphs import SIZE


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the foundation's weights.

    Attributes:
        hands: handwritings by `pen` that the embedded foundation sees beside fonts, by the law `glyphs.BY_HAND`; 0: fonts alone.
        contours: weight of the error of differences between neighbouring pixels in the autoencoder's loss: thin strokes stay.
        snr: most signal-to-noise ratio that counts for a noise level's weight (min-SNR, Hang et al., arXiv 2303.09556, Eq. 5; 5
            there); 0: each level's squared error of the noise counts the same.
    """

    seed: int = 0
    threads: int = 2
    vae_channels: tuple[int, ...] = (16, 32, 48)
    vae_steps: int = 1800
    vae_learning_rate: float = 2e-3
    kl_weight: float = 5e-4
    unet_channels: tuple[int, ...] = (48, 96)
    unet_steps: int = 6500
    unet_learning_rate: float = 1e-3
    images: int = 60_000
    batch_size: int = 64
    text_width: int = 64
    text_layers: int = 2
    tokens: int = 20
    caption_dropout: float = 0.1
    ema: float = 0.998
    hands: int = 0
    contours: float = 0.0
    snr: float = 0.0


EMBEDDED_RECIPE = Recipe(vae_steps=2000, unet_steps=12_000, images=100_000, hands=1000, contours=1.0, snr=5.0)
"""Of the foundation `glyph`."""


def build_tokenizer(captions: list[str], length: int) -> Any:
    """A CLIP tokenizer whose byte-pair merges are learned from the captions; any other text falls back to bytes."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [f"{c}</w>" for c in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=1280,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        special_tokens=ends,  # numbered before the words are read, in an order that hashes decide, as numbers break ties
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = alphabet + ends + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def build_pipeline(recipe: Recipe, tokenizer: Any) -> Any:
    """A randomly initialised `StableDiffusionPipeline` of the recipe's sizes."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    levels = len(recipe.vae_channels)
    vae = AutoencoderKL(
        block_out_channels=recipe.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIZE,
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2 ** (levels - 1),
        block_out_channels=recipe.unet_channels,
        down_block_types=("CrossAttnDownBlock2D",) * len(recipe.unet_channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(recipe.unet_channels),
        layers_per_block=1,
        cross_attention_dim=recipe.text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=2 * recipe.text_width,
            num_hidden_layers=recipe.text_layers,
            num_attention_heads=4,
            max_position_embeddings=recipe.tokens,
            projection_dim=recipe.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
