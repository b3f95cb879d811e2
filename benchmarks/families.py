"""Families of foundations at full size: loaded, tuned, drawn, saved, and read and drawn again by diffusers alone.

python benchmarks/families.py [sd15 sdxl] [--precision bf16] [--image-size 128] [--folder BIG_DISK] [--out FILE]

Pipelines of diffusers' own classes and of the published models' sizes, with random weights: nothing is downloaded. They are
written in the precision asked for (SDXL in bf16: 7 GB), and deleted at the end. Each part is a process of its own, for its peak
of resident memory: `write`; `ours` loads the folder as a run does, makes some steps of an adapter, draws an image and saves the
adapter; `plain` is diffusers' pipeline with `load_lora_weights`, drawing the same noise. Their images are compared in grey levels
(0 to 255): of as many as a CPU draws together (sixteen of a small foundation, else one), and
drawn alone; `without` is how far the image is from that of no adapter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hollowed_cases import PROMPTS, SD15, filled
from hollowed_memory import resident

VOCABULARY, TOKENS, SEED = 49408, 77, 5
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
TINY = SDXL | {
    "block_out_channels": (32, 32, 32), "transformer_layers_per_block": (1, 1, 1), "attention_head_dim": (2, 2, 2),
    "cross_attention_dim": 48, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 72,
}  # fmt: skip
FIRST = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
SECOND = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, "projection_dim": 1280,
    "hidden_act": "gelu",
}  # fmt: skip
SMALL = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 24}
LAYOUTS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]], tuple[int, ...]]] = {
    "sd15": ("StableDiffusionPipeline", SD15, [FIRST], (128, 256, 512, 512)),
    "sdxl": ("StableDiffusionXLPipeline", SDXL, [FIRST, SECOND], (128, 256, 512, 512)),
    "tiny": ("StableDiffusionXLPipeline", TINY, [SMALL, SMALL], (32, 32, 32, 32)),
}
"""The pipeline's class, the U-Net's configuration, those of the text encoders, and the autoencoder's widths."""

Figures = dict[str, Any]


def wide_tokenizer(words: int) -> Any:
    """A tokenizer of as many tokens as the published ones have; those that no sentence here has stand for nothing."""
    from transformers import CLIPTokenizer

    from fedwarm.diffusion.pretraining.untrained import build_tokenizer

    told = json.loads(build_tokenizer(PROMPTS, TOKENS).backend_tokenizer.to_str())["model"]
    known = list(told["vocab"])
    vocab = {token: i for i, token in enumerate([*known, *(f"{i}</w>spare" for i in range(words - len(known)))])}
    return CLIPTokenizer(vocab=vocab, merges=[tuple(merge) for merge in told["merges"]], model_max_length=TOKENS)


def text_encoder(config: dict[str, Any], tokenizer: Any, projects: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    told = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=TOKENS, **ends, **config)
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(told)


def write(given: argparse.Namespace) -> Figures:
    """The pipeline in its folder, part by part, so that no more than one is in memory."""
    import diffusers
    import torch

    from fedwarm.diffusion.foundation import PRECISIONS

    name, unet, texts, widths = LAYOUTS[given.layout]
    large = len(texts) > 1
    tokenizer = wide_tokenizer(VOCABULARY if given.layout != "tiny" else 0)
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": diffusers.UNet2DConditionModel(sample_size=128 if large else 64, **unet),
            "vae": diffusers.AutoencoderKL(
                block_out_channels=widths, layers_per_block=2, latent_channels=4, sample_size=1024 if large else 512,
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                scaling_factor=0.13025 if large else 0.18215, force_upcast=large,
            ),
        }  # fmt: skip
        for number, config in enumerate(texts):
            parts["text_encoder_2" if number else "text_encoder"] = text_encoder(config, tokenizer, bool(number))
    kind = diffusers.EulerDiscreteScheduler if large else diffusers.DDIMScheduler
    own = {"timestep_spacing": "leading"} if large else {"clip_sample": False, "set_alpha_to_one": False}
    scheduler = kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, **own)
    others = {"tokenizer": tokenizer, "scheduler": scheduler} | ({"tokenizer_2": tokenizer} if large else {})
    absent = {} if large else {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    folder = Path(given.work) / "pipeline"
    getattr(diffusers, name)(**parts, **others, **absent).save_config(folder)
    torch.manual_seed(0)
    count = {part: sum(p.numel() for p in model.parameters()) for part, model in parts.items()}
    for part in list(parts):
        filled(parts.pop(part), PRECISIONS[given.precision], "cpu").save_pretrained(folder / part, max_shard_size="1GB")
    for part, made in others.items():
        made.save_pretrained(folder / part)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    return {"parameters": count, "bytes on disk": size}


def settings_of(given: argparse.Namespace) -> Any:
    """Two steps of an adapter so large that it is seen, and two of denoising."""
    from fedwarm.diffusion.settings import Diffusion

    return Diffusion(
        foundation=str(Path(given.work) / "pipeline"), precision=given.precision, image_size=given.image_size, rank=4, alpha=4.0,
        lora_steps=2, lora_batch_size=1, lora_learning_rate=0.05, lora_schedule="constant", scheduler="foundation",
        sample_steps=2, guidance=1.0,
    )  # fmt: skip


def ours(given: argparse.Namespace) -> Figures:
    """What a run does with a foundation."""
    import torch
    from safetensors.torch import save_file

    from fedwarm.diffusion.foundation import load_foundation
    from fedwarm.diffusion.lora import adapter_size, save_adapter
    from fedwarm.diffusion.merged import drawing
    from fedwarm.diffusion.sampling import sample, start_latents
    from fedwarm.diffusion.tuning import Tuning, tune_adapter

    settings, took, work = settings_of(given), {}, Path(given.work)

    def clocked(name: str, part: Callable[[], Any]) -> Any:
        begun, spent = time.perf_counter(), time.process_time()
        found = part()
        took[name] = [round(time.perf_counter() - begun, 2), round(time.process_time() - spent, 2)]
        return found

    foundation = clocked("load", lambda: load_foundation(settings, "cpu"))
    after = resident()
    side = given.image_size
    images = torch.randint(256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tuning = Tuning(foundation, images, torch.arange(2), PROMPTS, settings, 0, 0)
    state = clocked(f"{settings.lora_steps} steps of an adapter, and what is encoded for it", lambda: tune_adapter(tuning))
    with drawing(foundation.net, settings, state):
        image = clocked(f"drawing {foundation.exact_rows}", lambda: sample(foundation, PROMPTS[:1], [SEED], settings, side))
    path = save_adapter(work / "adapter", state, settings.rank, settings.alpha, settings.targets, foundation.family)
    save_file({"image": image, "latents": start_latents(foundation, SEED)}, work / "ours.safetensors")
    numbers = sum(t.numel() for t in state.values())
    assert numbers == adapter_size(foundation.net, settings.rank, settings.targets)
    kinds = {"class": type(foundation.pipe).__name__, "adapter numbers": numbers, "adapter bytes": path.stat().st_size}
    return kinds | {"seconds by the clock and of the process": took, "peak MB after loading": round(after)}


def plain(given: argparse.Namespace) -> Figures:
    """The same image by diffusers alone."""
    import diffusers
    import torch
    from safetensors.torch import load_file

    from fedwarm.diffusion.foundation import PRECISIONS
    from fedwarm.diffusion.sizes import rows_in

    settings, work, held = settings_of(given), Path(given.work), load_file(Path(given.work) / "ours.safetensors")
    nothing = {"safety_checker": None, "requires_safety_checker": False} if given.layout == "sd15" else {}
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        settings.foundation, dtype=PRECISIONS[given.precision], local_files_only=True, **nothing
    )
    pipe.set_progress_bar_config(disable=True)
    noise = held["latents"].to(PRECISIONS[given.precision])

    def drawn(rows: int) -> torch.Tensor:
        images = pipe(
            PROMPTS[:1] * rows, height=given.image_size, width=given.image_size, num_inference_steps=settings.sample_steps,
            guidance_scale=settings.guidance, latents=noise.repeat(rows, 1, 1, 1), output_type="pt",
        ).images[:1]  # fmt: skip
        assert torch.isfinite(images).all()
        pixels: torch.Tensor = 255 * images.float()
        return pixels

    def apart(one: torch.Tensor) -> dict[str, float]:
        found = (one - held["image"].float()).abs()
        return {"most": round(float(found.max()), 2), "mean": round(float(found.mean()), 4)}

    bare = drawn(1)
    pipe.load_lora_weights(work / "adapter")
    return {"together": apart(drawn(rows_in(Path(settings.foundation)))), "alone": apart(drawn(1)), "without": apart(bare)}


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {"write": write, "ours": ours, "plain": plain}


def measured(layout: str, argv: list[str], work: str) -> Figures:
    """All parts of a layout, each with its seconds and its peak of memory."""
    found: Figures = {}
    for part in PARTS:
        begun = time.perf_counter()
        command = [sys.executable, __file__, *argv, "--part", part, "--layout", layout, "--work", work]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return {**found, part: {"failed": done.stderr.strip().splitlines()[-1:]}}
        found[part] = json.loads(done.stdout.splitlines()[-1]) | {"seconds in all": round(time.perf_counter() - begun, 1)}
        print(layout, part, found[part], flush=True)
    return found


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", nargs="*", help=f"{', '.join(LAYOUTS)}; none: sd15 and sdxl")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16", help="of the weights, on disk as well")
    parser.add_argument("--image-size", type=int, default=128, help="pixels a side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where pipelines are written for the time; none: the system's")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    for hidden in ("part", "layout", "work"):
        parser.add_argument(f"--{hidden}", default="", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    given = arguments(argv)
    if given.part:
        import torch

        torch.set_num_threads(given.threads)
        found = PARTS[given.part](given)
        print(json.dumps({**found, "peak MB": round(resident())}))
        return 0
    rows = {}
    for layout in given.layouts or ["sd15", "sdxl"]:
        with tempfile.TemporaryDirectory(dir=given.folder) as work:
            rows[layout] = measured(layout, [word for word in argv if word not in LAYOUTS], work)
    if given.out:
        told = {"precision": given.precision, "image size": given.image_size, "threads": given.threads}
        given.out.write_text(json.dumps({"settings": told, "rows": rows}, indent=2) + "\n")
    return int(any("failed" in part for row in rows.values() for part in row.values()))


if __name__ == "__main__":
    sys.exit(main())
