"""Settings of a text-to-image foundation, its adapters and its sampler."""

from __future__ import annotations

from dataclasses import dataclass

from fedwarm.settings.fields import Group, setting
from fedwarm.settings.kinds import SAMPLERS, TUNERS


@dataclass(frozen=True)
class Diffusion(Group, prefix="diffusion", used=lambda r: r.generates or r.draws):
    """The text-to-image foundation, its adapters and its sampler."""

    foundation: str = setting(
        "glyph",
        "`glyph` (embedded), a Stable Diffusion model's Hub name (owner/model, or owner/model@revision), or a pipeline's folder",
        path=True,
    )
    trainer: str = setting(
        "lora",
        "fine-tuning of the foundation at clients; lora: with the whole model in memory; hollowed: without its "
        "core, which saves memory (hollowed.*)",
        choices=TUNERS,
        when=lambda r: r.attaches,
    )
    image_size: int = setting(
        0,
        "height and width in pixels at which originals are read for tuning and images are generated; 0: the foundation's own",
        low=0,
        high=4096,
    )
    crop: str = setting(
        "center",
        "square that is cut from an original; center: its middle; random: four squares at random places, one in private runs",
        choices=("center", "random"),
        when=lambda r: r.adapts,
    )
    flip: bool = setting(
        False,
        "true: also tune on mirrored originals (in private runs on one of the two, at random); leave it false for digits, "
        "letters and other signs",
        when=lambda r: r.adapts,
    )
    rank: int = setting(8, "rank r of the LoRA matrices", low=1, when=lambda r: r.attaches)
    alpha: float = setting(8.0, "LoRA scale; the product BA is multiplied by alpha / rank", low=1e-6, when=lambda r: r.attaches)
    targets: str = setting(
        "to_q,to_k,to_v,to_out.0", "U-Net layers that get an adapter, by the end of their names", when=lambda r: r.attaches
    )
    lora_steps: int = setting(600, "optimiser steps of a client's adapter", low=1, when=lambda r: r.adapts)
    lora_batch_size: int = setting(16, "images in a step of the adapter", low=1, when=lambda r: r.adapts)
    lora_learning_rate: float = setting(1e-2, "learning rate of the adapter's AdamW", low=1e-12, when=lambda r: r.adapts)
    lora_schedule: str = setting(
        "cosine",
        "learning rate over the adapter's steps; cosine: falls to 0; constant",
        choices=("cosine", "constant"),
        when=lambda r: r.adapts,
    )
    precision: str = setting(
        "auto",
        "numeric precision of the foundation; auto: on a CUDA GPU bf16 where it has it, else fp16 (`glyph`: fp32); on a CPU fp32",
        choices=("auto", "fp32", "fp16", "bf16"),
    )
    gradient_checkpointing: bool = setting(
        False, "true: recompute activations while tuning, which saves memory and takes longer", when=lambda r: r.adapts
    )
    scheduler: str = setting("dpm", "sampler for generated images; foundation: the one that comes with it", choices=SAMPLERS)
    sample_steps: int = setting(
        12,
        "denoising steps of a generated image",
        low=1,
        high=999,
        when=lambda r: r.generates or "diffusion.sample-steps" in r.taken,
    )
    guidance: float = setting(
        1.5, "classifier-free guidance scale; 1: none", low=0.0, when=lambda r: r.generates or "diffusion.guidance" in r.taken
    )
    resize: str = setting(
        "bicubic", "resizing of generated images to data.image-size; bicubic: antialiased; area: mean over areas",
        choices=("bicubic", "area"),
    )  # fmt: skip
    sample_batch_size: int = setting(
        64,
        "generated images that are denoised together on a GPU; more need more memory; the images stay the same",
        low=1,
        when=lambda r: r["device"] != "cpu",
    )
