"""A site's node that notes the size of each of its HTTP requests: `python benchmarks/counted_node.py FILE --kit FOLDER`.

One JSON array a line: when it began and ended (this machine's monotonic clock), path, and bytes of the request's head and body
and of the response's head and body, before TLS; of a request that failed, the response's are none. `slow_links.py` starts its
nodes so, and `on_the_line.py` reads it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from fedwarm.node.starting import started_with
from fedwarm.node.supernode import main

LINE_ENDS = 4


def head(first: str, headers: httpx.Headers) -> int:
    """Bytes of a head: its first line, each header's, and the empty line."""
    return len(first) + LINE_ENDS + sum(len(name) + len(value) + LINE_ENDS for name, value in headers.raw)


class Counted(httpx.Client):
    """A client that notes what each exchange takes."""

    file = Path()

    def send(self, request: httpx.Request, **named: Any) -> httpx.Response:
        began, told, got = time.monotonic(), 0, 0
        asked = head(f"{request.method} {request.url.raw_path.decode()} HTTP/1.1", request.headers)
        try:
            response = super().send(request, **named)
            told = head(f"HTTP/1.1 {response.status_code} {response.reason_phrase}", response.headers)
            got = len(response.content)
        finally:
            path = request.url.path.rpartition("/")[2]
            noted = [began, time.monotonic(), path, asked, len(request.content), told, got]
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(noted) + "\n")
        return response


if __name__ == "__main__":
    Counted.file = Path(sys.argv[1])
    vars(httpx).update(Client=Counted)
    main(started_with(sys.argv[2:]))
