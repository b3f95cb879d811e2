"""Foundations by their name on the Hugging Face Hub: out of its cache, or downloaded once.

`owner/model` is the newest version, `owner/model@revision` that of a branch, a tag or a commit. Models that ask for consent are
downloaded with the token of `hf auth login` or of the variable HF_TOKEN, by huggingface_hub's own rules.
"""

from __future__ import annotations

from pathlib import Path

from fedwarm.core.network import hub_answers
from fedwarm.diffusion.pipeline import LEFT_OUT, MODELS, variant_of
from fedwarm.settings.fields import SettingError

REPLACED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    **{f"stabilityai/stable-diffusion-{n}": f"sd2-community/stable-diffusion-{n}" for n in ("2", "2-base", "2-1", "2-1-base")},
}
"""Names that their owners took from the Hub (Runway in August 2024, Stability AI in November 2025), and copies under others."""
HALF = "fp16"


def version_of(name: str) -> tuple[str, str | None]:
    """A Hub name without its revision, and the revision, if it has one."""
    model, _, revision = name.partition("@")
    return model, revision or None


def require(name: str) -> None:
    """See that a model can be had by its Hub name, without loading it.

    Raises:
        SettingError: it is not kept on this machine, and the Hub has it no longer or does not answer.
    """
    from huggingface_hub import try_to_load_from_cache

    model, revision = version_of(name)
    if isinstance(try_to_load_from_cache(model, "model_index.json", revision=revision), str):
        return
    if model in REPLACED:
        raise SettingError(f"diffusion.foundation = {name!r} is no longer on the Hub; there is {REPLACED[model]!r} instead")
    if not hub_answers():
        raise SettingError(
            f"diffusion.foundation = {name!r} could not be loaded: the Hub does not answer, and no copy is kept on this machine; "
            "on a machine without network, give the folder of a downloaded Stable Diffusion pipeline"
        )


def fetched(name: str) -> Path:
    """The folder of a Hub model on this machine; what is missing is downloaded, the fp16 files only where there are no others.

    Raises:
        SettingError: as `require`.
        OSError, ValueError: as diffusers has it; the name is not on the Hub, or no pipeline.
    """
    from diffusers import StableDiffusionPipeline

    require(name)
    model, revision = version_of(name)
    how = {"revision": revision, "use_safetensors": True, "local_files_only": not hub_answers(), **LEFT_OUT}
    try:
        folder = Path(StableDiffusionPipeline.download(model, **how))
        if all(variant_of(folder, part) is not None for part in MODELS):
            return folder
        reason = None
    except OSError as error:
        reason = error
    try:
        return Path(StableDiffusionPipeline.download(model, variant=HALF, **how))
    except OSError as error:
        raise reason or error from error
