"""A foundation's licence, out of its model card, and what is left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedwarm.catalogue import parse
from fedwarm.diffusion import terms as module
from fedwarm.diffusion.terms import licence_of, terms
from fedwarm.launch.outlook import outlook


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ("---\nlicense: creativeml-openrail-m\ntags: [a]\n---\n# A model\n", "creativeml-openrail-m"),
        ("---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE.md\n---\n", "mine (LICENSE.md)"),
        ("# A model\n", ""),
        ("---\n: [\n---\n", ""),
    ],
)
def test_the_licence_is_the_cards(tmp_path: Path, card: str, told: str) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path / "README.md") == told
    assert licence_of(tmp_path / "none.md") == ""


def test_a_folder_is_told_of_before_a_run(pipeline_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline_folder, tmp_path / "sd"))
    (folder / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    config = parse({"diffusion.foundation": str(folder), "device": "cpu"})
    lines = [line for line in outlook(config, 4) if "licence" in line]
    assert len(lines) == 1 and "its licence is creativeml-openrail-m" in lines[0] and "safety checker is left out" in lines[0]
    assert not [
        line for line in outlook(parse({"method": "fedavg", "diffusion.foundation": str(folder)}), 4) if "licence" in line
    ]


def test_the_embedded_one_is_this_projects_own() -> None:
    assert terms("glyph") == ""


def test_a_hub_that_does_not_answer_leaves_it_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "hub_answers", lambda: False)
    assert "no model card says its licence (usual: CreativeML OpenRAIL" in terms("owner/model")
