"""The files for clusters: Kubernetes' by its own schema; Slurm's, which has none, by the shell and by names of sbatch's options
and forms of their values as its documentation has them. Neither is run.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

CLUSTER = Path(__file__).parents[1] / "docker" / "cluster"
COUNT, JOBS = r"[1-9]\d*", r"(after|afterany|afterok|afternotok|aftercorr|afterburstbuffer)(:\d+(\+\d+)?)+"
OPTIONS = {
    "job-name": r"\S+",
    "ntasks": COUNT,
    "cpus-per-task": COUNT,
    "mem": r"\d+[KMGT]?",  # MB where no unit is given
    "gres": rf"\w+(:\w+)?(:{COUNT}[KMGT]?)?(,\w+(:\w+)?(:{COUNT}[KMGT]?)?)*",
    "time": r"(\d+-)?\d+(:\d{1,2}){0,2}",  # M, M:S, H:M:S, D-H, D-H:M, D-H:M:S
    "signal": r"([RB]:)?(\d{1,2}|(SIG)?[A-Z]+[12]?)(@\d{1,5})?",  # seconds before the end
    "requeue": "",  # takes no value
    "dependency": rf"singleton|{JOBS}([,?]{JOBS})*",
    "output": r"([^\s%]|%\d*[AaJjNnstux]|%%|%b)+",
}
"""The options that the script uses, with what https://slurm.schedmd.com/sbatch.html lets each of them be."""


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


def wrong(script: str) -> list[str]:
    """The lines for sbatch that its documentation does not allow; what comes after the first command is none."""
    head = script.partition("\nset ")[0]
    lines = re.findall(r"^#SBATCH +(.*)$", head, re.MULTILINE)
    found = [re.fullmatch(r"--([a-z-]+)(?:=(\S+))?", line) for line in lines]
    return [
        line for line, said in zip(lines, found, strict=True)
        if said is None or said[1] not in OPTIONS or not re.fullmatch(OPTIONS[said[1]], said[2] or "")
    ]  # fmt: skip


def test_slurms_script_parses_and_asks_for_what_sbatch_knows() -> None:
    script = CLUSTER / "node.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    options = re.findall(r"^#SBATCH --([a-z-]+)", script.read_text(), re.MULTILINE)
    assert {*options} == OPTIONS.keys() and len(options) == len(OPTIONS)
    assert wrong(script.read_text()) == [] and script.read_text().startswith("#!/bin/bash\n")


@pytest.mark.parametrize(
    ("right", "broken"),
    [
        ("--mem=16G", "--mem=16GB"),
        ("--time=24:00:00", "--time=24h"),
        ("--time=24:00:00", "--time=24:00:00:00"),
        ("--cpus-per-task=4", "--cpus-per-task=four"),
        ("--ntasks=1", "--ntasks=0"),
        ("--ntasks=1", "--n-tasks=1"),
        ("--gres=gpu:1", "--gres=gpu:"),
        ("--signal=B:TERM@120", "--signal=B:TERM@2m"),
        ("--requeue", "--requeue=yes"),
        ("--dependency=singleton", "--dependency=single"),
        ("--output=fedwarm-node-%j.log", "--output=fedwarm-node-%q.log"),
    ],
)
def test_an_option_or_a_value_that_sbatch_does_not_know_is_found(right: str, broken: str) -> None:
    script = (CLUSTER / "node.sbatch").read_text()
    assert f"#SBATCH {right}\n" in script
    assert wrong(script.replace(right, broken, 1)) == [broken]


@pytest.mark.parametrize("time", ["30", "30:00", "1:30:00", "2-12", "2-12:30", "2-12:30:00"])
def test_all_forms_of_a_time_are_taken(time: str) -> None:
    assert wrong(f"#!/bin/bash\n#SBATCH --time={time}\n") == []
