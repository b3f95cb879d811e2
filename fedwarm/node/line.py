"""How a site's node speaks with its SuperLink over a slow line: connections stay open between requests, and arrays go in pieces.

Flower closes a connection after 5 s without a request, so that a node opens one for most of its messages and heartbeats: 3 kB and
two or three round trips each. It sends arrays in pieces of 5 MiB, two at a time, and a piece that is not written after 30 s is
sent again from its beginning: on a line of 1 Mbit/s for ever. Pieces of 1 MiB that have two minutes pass at 150 kbit/s, and less
is sent again where a line breaks.
"""

from __future__ import annotations

from typing import Any

import httpx

KEPT_SECONDS = 60.0
"""Less than proxies (nginx: 75 s) and fedwarm's SuperLink wait, so that no request goes to a connection that is just closed."""
PIECE_SECONDS = 120.0
PIECE_VARIABLE, PIECE_BYTES = "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 2**20
PIECES = {PIECE_VARIABLE: str(PIECE_BYTES)}
"""What processes have in their environment that make arrays into messages."""


def kept(base: Any) -> Any:
    """Flower's class of those that call a SuperLink's fleet interface, with connections that stay."""

    class Client(base):  # type: ignore[misc]
        _client: httpx.Client

        def __init__(self, base_url: str, *, verify: Any = True, timeout: float = 30.0, **named: Any) -> None:
            super().__init__(base_url, verify=verify, timeout=timeout, **named)
            self._client.close()
            limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEPT_SECONDS)
            patience = httpx.Timeout(timeout, read=PIECE_SECONDS, write=PIECE_SECONDS)
            self._client = httpx.Client(verify=verify, timeout=patience, follow_redirects=True, limits=limits)

    return Client
