"""Test images that are kept at the server: what cannot be measured there is refused before a run."""

from __future__ import annotations

from fedwarm.data.settings import Data
from fedwarm.data.testing import CENTRAL
from fedwarm.measures.widths import Evaluate, widths
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError


def check_measured(config: Config) -> None:
    """Refuse to keep the test images at the server where something is measured at the clients.

    Raises:
        SettingError: something is.
    """
    if config.of(Data).test != CENTRAL:
        return
    if not Run.of(config).shares:
        raise SettingError(
            f"data.test = 'central' measures the global model at the server, and {config.run.method} has none; take "
            "data.test = 'split' or 'held-out'"
        )
    if widths(config):
        raise SettingError(
            f"data.test = 'central' with evaluate.bit-widths = {config.of(Evaluate).bit_widths!r}: models at other widths are "
            "measured at the clients, by ranges of their training images; take data.test = 'split' or 'held-out'"
        )
