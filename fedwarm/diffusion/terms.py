"""What is to be known of a foundation's terms: its licence, as its model card says, and what is left out of its pipeline."""

from __future__ import annotations

from pathlib import Path

from fedwarm.core.network import hub_answers
from fedwarm.diffusion.foundation import EMBEDDED, locate
from fedwarm.diffusion.hub import version_of
from fedwarm.diffusion.pipeline import folder_family

CARD = "README.md"


def terms(name: str) -> str:
    """Licence and what is left out in one line; empty for an embedded foundation, which has this project's own.

    Args:
        name: as in `diffusion.foundation`.

    Raises:
        SettingError: there is no such foundation.
    """
    if name in EMBEDDED:
        return ""
    source = Path(locate(name))
    card = source / CARD if source.is_dir() else _card(name)
    told = licence_of(card) if card is not None else ""
    said = f"its licence is {told}" if told else "no model card says its licence"
    family = folder_family(source if source.is_dir() or card is None else card.parent)
    return f"diffusion.foundation = {name!r}: {said} (usual: {family.licence}); see that its terms allow your use of it"


def licence_of(card: Path) -> str:
    """The licence in the metadata of a model card; empty where it has none."""
    from huggingface_hub.repocard import metadata_load

    try:
        found = metadata_load(card) or {}
    except Exception:  # whatever a damaged card makes the reader of YAML stumble over
        return ""
    name = str(found.get("license_name") or found.get("license") or "")
    link = str(found.get("license_link") or "")
    return f"{name} ({link})" if name and link else name


def _card(name: str) -> Path | None:
    """The model card of a Hub name, out of the cache or downloaded; None where there is none."""
    from huggingface_hub import hf_hub_download

    model, revision = version_of(name)
    try:
        return Path(hf_hub_download(model, CARD, revision=revision, local_files_only=not hub_answers()))
    except (OSError, ValueError):
        return None
