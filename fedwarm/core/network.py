"""Whether the Hugging Face Hub answers, asked once and shortly, before its libraries try six times over half a minute."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

PATIENCE_SECONDS = 5.0


def hub_answers() -> bool:
    """Whether the Hub's endpoint (or `HF_ENDPOINT`) answers, be it by an error; by the environment's proxy where there is one."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE_SECONDS).close()
    except (urllib.error.HTTPError, HTTPException, ValueError):
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # somebody answered; whom to trust is the libraries' own matter
    except OSError:
        return False
    return True


@contextmanager
def calm_hub(path: str) -> Iterator[None]:
    """Within, `datasets` looks at its cache alone unless the Hub answers; a folder asks for nothing.

    Raises:
        ConnectionError: something was asked for that is not in the cache.
    """
    import datasets
    from huggingface_hub import constants

    if os.path.isdir(path) or hub_answers():
        yield
        return
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    except ConnectionError as error:
        raise ConnectionError(f"the Hub does not answer, and no copy of {path} is kept on this machine") from error
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
