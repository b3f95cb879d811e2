"""What only shows when it is tried: whether a key is registered, and how fast this machine trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from fedwarm.core.policy import Policy
from fedwarm.node.finding import Finding, fault, ok, warning
from fedwarm.settings.fields import SettingError

KEY, TRAINING, POLICY = "registered", "training", "policy"
BATCH, SIDE, STEPS, SLOW_SECONDS = 32, 32, 3, 5.0


def look_at_registration(superlink: str, authority: Path, key: Path) -> Finding:
    """Whether the SuperLink lets this key in: the node signs on and off again, as its start and its end would.

    Args:
        superlink: HOST:PORT.
        authority: the CA's certificate.
        key: the node's private key.
    """
    from cryptography.hazmat.primitives import serialization
    from flwr.supernode.fleet_http_connection import http_request_response

    try:
        private = serialization.load_ssh_private_key(key.read_bytes(), None)
        pair = (private, private.public_key())
        with http_request_response(superlink, False, authority.read_bytes(), pair, max_retries=0) as told:  # type: ignore[arg-type]
            return ok(KEY, f"the SuperLink knows this key, as node {told[0]}")
    except Exception as error:
        said = " ".join((getattr(getattr(error, "response", None), "text", "") or str(error)).split())
        if "2004" in said or "activate" in said:
            return fault(
                KEY,
                "the SuperLink does not know this key, or its node runs already; have the line of `node join` registered",
            )
        return fault(KEY, f"the SuperLink does not let this node in ({said[:200] or type(error).__name__})")


def look_at_policy(path: Path) -> Finding:
    """Whether the site's policy can be read, and what it bounds."""
    try:
        policy = Policy.read(path)
    except SettingError as error:
        return fault(POLICY, str(error))
    bounds = [name.replace("_", "-") for name, value in vars(policy).items() if value != getattr(Policy(), name)]
    return ok(POLICY, f"{path} bounds {', '.join(bounds)}" if bounds else f"{path} bounds nothing; every run is allowed")


def look_at_training() -> Iterator[Finding]:
    """The GPU, where there is one, and the time of a small training step."""
    import torch
    from torch import nn

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    parts = nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32 * 64, 10)
    net = nn.Sequential(*parts).to(device)
    inputs, classes = torch.zeros(BATCH, 3, SIDE, SIDE, device=device), torch.zeros(BATCH, dtype=torch.long, device=device)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    times = []
    try:
        for _ in range(STEPS):
            begun = time.monotonic()
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(inputs), classes).backward()
            optimiser.step()
            times.append(time.monotonic() - begun)
    except RuntimeError as error:
        yield fault(TRAINING, f"a training step failed ({str(error).splitlines()[0]}); see torch and the GPU's driver")
        return
    where = torch.cuda.get_device_name() if gpu else "the CPU, as there is no CUDA GPU"
    told = f"a step with {BATCH} pictures of {SIDE} x {SIDE} takes {min(times):.3f} s on {where}"
    yield warning(TRAINING, f"{told}; that is slow") if min(times) > SLOW_SECONDS else ok(TRAINING, told)
