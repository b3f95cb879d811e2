"""What only shows when it is tried: whether a key is registered, and whether a policy can be read."""

from __future__ import annotations

from pathlib import Path

from fedwarm.core.policy import Policy
from fedwarm.node.finding import Finding, fault, ok
from fedwarm.settings.fields import SettingError

KEY, POLICY = "registered", "policy"
HEARTBEAT_SECONDS = 30.0


def look_at_registration(superlink: str, authority: Path, key: Path) -> Finding:
    """Whether the SuperLink lets this key in: the node signs on and off again, as its start and its end would.

    Args:
        superlink: HOST:PORT.
        authority: the CA's certificate.
        key: the node's private key.
    """
    import httpx

    try:
        return ok(KEY, f"the SuperLink knows this key, as node {_signed_on(superlink, authority, key)}")
    except httpx.HTTPStatusError as error:
        said = " ".join(error.response.text.split())
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
    if "2004" in said:
        return fault(KEY, "it is not registered, or its node runs already; have the line of `node join` registered")
    return fault(KEY, f"the SuperLink does not let this node in ({said[:200]})")


def _signed_on(superlink: str, authority: Path, key: Path) -> int:
    """Sign a node on and off; its number at the SuperLink."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    private = serialization.load_ssh_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    signer = NodeAuthHttpInterceptor(private, private.public_key())
    version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
    with FleetHttpClient.from_server_address(superlink, False, authority.read_bytes(), interceptors=[version, signer]) as client:
        public = public_key_to_bytes(private.public_key())
        node = client.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT_SECONDS)).node_id
        client.DeactivateNode(DeactivateNodeRequest(node_id=node))
    return int(node)


def look_at_policy(path: Path) -> Finding:
    """Whether the site's policy can be read, and what it bounds."""
    try:
        policy = Policy.read(path)
    except SettingError as error:
        return fault(POLICY, str(error))
    bounds = [name.replace("_", "-") for name, value in vars(policy).items() if value != getattr(Policy(), name)]
    return ok(POLICY, f"{path} bounds {', '.join(bounds)}" if bounds else f"{path} bounds nothing; every run is allowed")
