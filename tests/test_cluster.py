"""The files for clusters: Kubernetes' by its own schema, Slurm's by the shell and sbatch's options. Neither is run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

CLUSTER = Path(__file__).parents[1] / "docker" / "cluster"
OPTIONS = {"job-name", "ntasks", "cpus-per-task", "mem", "gres", "time", "signal", "requeue", "dependency", "output"}
"""Of https://slurm.schedmd.com/sbatch.html."""


@pytest.fixture(scope="module")
def kinds() -> dict[str, Any]:
    found = list(yaml.safe_load_all((CLUSTER / "node.yaml").read_text()))
    return {each["kind"]: each for each in found}


@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "StatefulSet", "NetworkPolicy"])
def test_kubernetes_takes_it_by_its_schema(kinds: dict[str, Any], kind: str) -> None:
    kubernetes_validate.validate(kinds[kind], "1.30", strict=True)
    broken = {**kinds[kind], "spec": {**kinds[kind]["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.30", strict=True)


def test_the_node_runs_from_its_kit_without_rights(kinds: dict[str, Any]) -> None:
    spec = kinds["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    (node,) = pod["containers"]
    assert spec["replicas"] == 1 and node["command"][:5] == ["fedwarm", "node", "run", "--kit", "/site"]
    assert {mount["name"] for mount in node["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert node["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]
    assert "ports" not in node and kinds["NetworkPolicy"]["spec"]["ingress"] == []


def test_slurms_script_parses_and_asks_for_what_sbatch_knows() -> None:
    script = CLUSTER / "node.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    options = re.findall(r"^#SBATCH --([a-z-]+)", script.read_text(), re.MULTILINE)
    assert {*options} == OPTIONS and len(options) == len(OPTIONS)
