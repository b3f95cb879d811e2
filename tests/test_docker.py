"""The image and the compose files, read: what is installed and published, what each service may do and gets to see."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
LEFT_OUT = {"torchvision", "tensorboard"}
ONCE = {"setup", "register", "admin", "demo"}
NODES = ("supernode-0", "supernode-1", "supernode-2")


def compose(name: str) -> dict[str, Any]:
    """A compose file, with its anchors resolved."""
    loaded = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def services(name: str) -> dict[str, dict[str, Any]]:
    return {key: dict(value) for key, value in compose(name)["services"].items()}


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Named volumes of a service by where they are mounted."""
    return {each.split(":")[1]: each.split(":")[0] for each in service.get("volumes", [])}


def test_the_image_installs_what_the_package_needs_less_what_no_node_uses() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted = {each.replace("flwr[simulation]", "flwr") for each in project if re.split(r"[>=<\[]", each)[0] not in LEFT_OUT}
    lines = (DOCKER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == wanted


def test_no_compiler_and_no_tool_reaches_the_last_stage() -> None:
    stages = (DOCKER / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")
    last = stages[-1]
    assert "apt-get" not in last and "pip" not in last and "USER app" in last
    assert re.findall(r"COPY --from=(\S+)", last) == ["dependencies", "package"]
    assert "USER app" in next(stage for stage in stages if "AS proxy" in stage.splitlines()[0])


@pytest.mark.parametrize("name", ["compose.yaml", "compose.dev.yaml", "site.yaml"])
def test_services_may_do_little(name: str) -> None:
    for key, service in services(name).items():
        if name == "compose.dev.yaml" and key == "proxy":
            continue
        assert service["init"] is True and service["read_only"] is True, key
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], key
        assert "privileged" not in service and "user" not in service, key
        if key not in ONCE:  # a node that is refused ends with exit code 0
            assert service["restart"] == "unless-stopped" and ("healthcheck" in service or key == "proxy"), key
            assert "mem_limit" in service and service["logging"]["options"]["max-size"], key
            assert service["stop_grace_period"] == "30s", key


@pytest.mark.parametrize("name", ["compose.yaml", "compose.dev.yaml", "site.yaml"])
def test_a_proxy_of_the_host_does_not_come_between(name: str) -> None:
    for key, service in services(name).items():
        if "environment" not in service:
            assert (name, key) == ("compose.dev.yaml", "proxy")
            continue
        for variable in ("NO_PROXY", "no_proxy"):
            told = service["environment"][variable]
            assert {"localhost", "127.0.0.1"} <= set(told.split(",")), key
            assert name == "site.yaml" or {"superlink", "proxy"} <= set(told.split(",")), key


def test_only_the_proxy_is_published_and_control_on_loopback_alone() -> None:
    for name in ("compose.yaml", "compose.dev.yaml", "site.yaml"):
        assert {key for key, service in services(name).items() if "ports" in service} <= {"proxy"}
    assert services("compose.yaml")["proxy"]["ports"] == ["${FEDWARM_PORT:-127.0.0.1:8443}:8443"]
    assert all(each.startswith("127.0.0.1:") for each in services("compose.dev.yaml")["proxy"]["ports"])
    inside = {key for key, service in services("compose.yaml").items() if "inner" in service.get("networks", [])}
    assert inside == {"superlink", "superexec", "proxy", "register", "admin"}
    assert compose("compose.yaml")["networks"]["inner"] == {"internal": True}


def test_the_proxy_lets_the_outside_at_the_nodes_part_alone() -> None:
    text = (DOCKER / "nginx.conf").read_text(encoding="utf-8")
    servers = dict(re.findall(r"listen (\d+) ssl;(.*?\n)    }", text, re.S))
    places = {port: re.findall(r"location (?:= )?(\S+) \{(.*?)\}\n", body) for port, body in servers.items()}
    assert {port: [place for place, _ in found] for port, found in places.items()} == {
        "8443": ["/v1/fleet/", "/health", "/openapi.json", "/"], "8444": ["/v1/control/", "/health", "/"],
    }  # fmt: skip
    assert all(dict(found)["/"].strip() == "return 403;" for found in places.values())
    assert "client_max_body_size 0;" in text and "proxy_request_buffering off;" in text and "proxy_ssl_verify on;" in text


def test_who_holds_which_keys() -> None:
    found = {key: mounts(service) for key, service in services("compose.yaml").items()}
    holders: dict[str, set[str]] = {}
    for key, places in found.items():
        for volume in places.values():
            holders.setdefault(volume, set()).add(key)
    assert holders["authority"] == {"setup"}
    assert holders["key-superlink"] == {"setup", "superlink"} and holders["key-superexec"] == {"setup", "superexec"}
    assert holders["key-proxy"] == {"setup", "proxy"} and holders["key-admin"] == {"setup", "register", "admin"}
    for number, node in enumerate(NODES):
        assert holders[f"key-{number}"] == {"setup", node} and holders[f"cache-{number}"] == {node}
    assert holders["state"] == {"superlink"} and holders["runs"] == {"superexec", "admin"}
    written = {key for key, service in services("compose.yaml").items() for each in service.get("volumes", []) if "key-" in each
               and not each.endswith(":ro")}  # fmt: skip
    assert written == {"setup"}


def test_nodes_have_a_partition_each() -> None:
    told = [services("compose.yaml")[node]["command"][-1] for node in NODES]
    assert told == [f'site="node-{number}" partition-id={number} num-partitions=3' for number in range(3)]


@pytest.mark.parametrize("path", sorted(path.name for path in DOCKER.iterdir() if path.is_file()))
def test_no_secret_is_in_a_file(path: str) -> None:
    text = (DOCKER / path).read_text(encoding="utf-8")
    assert "PRIVATE KEY" not in text and not re.search(r"\b[0-9a-f]{40,}\b", text)
    assert not re.search(r"(?i)(password|token)\s*[:=]\s*\S", text)
