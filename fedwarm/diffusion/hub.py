"""Foundations by their name on the Hugging Face Hub: out of its cache, or downloaded once.

`owner/model` is the newest version, `owner/model@revision` that of a branch, a tag or a commit. Models that ask for consent are
downloaded with the token of `hf auth login` or of the variable HF_TOKEN, by huggingface_hub's own rules.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from fedwarm.core.network import hub_answers
from fedwarm.diffusion.families import family_of
from fedwarm.diffusion.pipeline import ANEW, INDEX, family_in, read_index, variant_of
from fedwarm.settings.fields import SettingError

REPLACED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    **{f"stabilityai/stable-diffusion-{n}": f"sd2-community/stable-diffusion-{n}" for n in ("2", "2-base", "2-1", "2-1-base")},
}
"""Names that their owners took from the Hub (Runway in August 2024, Stability AI in November 2025), and copies under others."""
HALF, CONFIG = "fp16", "config.json"


def version_of(name: str) -> tuple[str, str | None]:
    """A Hub name without its revision, and the revision, if it has one."""
    model, _, revision = name.partition("@")
    return model, revision or None


def named(name: str) -> bool:
    """Whether a foundation's setting is a Hub name, if it is no folder."""
    return name.count("/") == 1 and not name.startswith((".", "/"))


def kept(name: str) -> Path | None:
    """The folder of the Hub's cache that has a model's index; None: it has none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    model, revision = version_of(name)
    try:
        found = try_to_load_from_cache(model, INDEX, revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def require(name: str) -> None:
    """See that a model can be had by its Hub name, without loading it.

    Raises:
        SettingError: it is not kept on this machine, and the Hub has it no longer or does not answer.
    """
    model, _ = version_of(name)
    folder = kept(name)
    family = None if folder is None else family_of((read_index(folder) or {}).get("_class_name"))
    if folder is not None and (family is None or all(variant_of(folder, part) is not None for part in family.models)):
        return  # whole, or what its loader says more of
    if model in REPLACED:
        raise SettingError(f"diffusion.foundation = {name!r} is no longer on the Hub; there is {REPLACED[model]!r} instead")
    if not hub_answers():
        raise SettingError(
            f"diffusion.foundation = {name!r} could not be loaded: the Hub does not answer, and no copy is kept on this machine; "
            "on a machine without network, give the folder of a downloaded Stable Diffusion pipeline"
        )


def describe(name: str) -> None:
    """Have a Hub model's configurations here before its presets are chosen and its memory is counted by them, a few kB.

    Nothing happens where they are here, the name is none of the Hub's, or the Hub does not give them; its loader says why.
    """
    if not named(name) or Path(name).exists():
        return
    from huggingface_hub import snapshot_download

    model, revision = version_of(name)
    folder = kept(name)
    if (folder is None or not (folder / "vae" / CONFIG).is_file()) and hub_answers():
        with suppress(Exception):  # of many libraries' kinds
            snapshot_download(model, revision=revision, allow_patterns=[INDEX, f"*/{CONFIG}", "*/scheduler_config.json"])


def fetched(name: str) -> Path:
    """The folder of a Hub model on this machine; what is missing is downloaded, the fp16 files only where there are no others.

    Raises:
        SettingError: as `require`.
        OSError, ValueError: as diffusers has it; the name is not on the Hub, or no pipeline.
    """
    import diffusers

    require(name)
    model, revision = version_of(name)
    index = index_of(name)
    family = family_in(index, name)
    how = {"revision": revision, "use_safetensors": True, "local_files_only": not hub_answers(), **family.without}
    pipeline = getattr(diffusers, index["_class_name"])
    try:
        folder = Path(pipeline.download(model, **how))
        if all(variant_of(folder, part) is not None for part in family.models):
            return folder
        reason = None
    except OSError as error:
        reason = error
    try:
        return Path(pipeline.download(model, variant=HALF, **how))
    except OSError as error:
        raise reason or error from error


def index_of(name: str) -> dict[str, Any]:
    """What the index of a model on the Hub says, out of the cache or downloaded.

    Raises:
        OSError, ValueError: it has none.
    """
    from huggingface_hub import hf_hub_download

    model, revision = version_of(name)
    path = hf_hub_download(model, INDEX, revision=revision, local_files_only=not hub_answers())
    found = read_index(Path(path).parent)
    if found is None:
        raise ValueError(f"its {INDEX} cannot be read")
    return found


def remedy(error: Exception) -> str:
    """What helps where a model could not be loaded."""
    told = f"{type(error).__name__} {error}".lower()
    if "gated" in told or "401" in told or "403" in told:
        return "accept its terms on its page of the Hub, then `hf auth login`, or set HF_TOKEN to a token that may read it"
    if "safetensors" in told and "could not find" in told:
        return (
            "its repository holds pickled weights only (.bin), which are not read, as they may run code; where you trust them, "
            f"write them as safetensors by {ANEW}, and give NEW"
        )
    if INDEX in told:
        return "name a repository whose top folder is a pipeline, or download the folder that is one, and give that"
    return "on a machine without network, give the folder of a downloaded Stable Diffusion pipeline"
