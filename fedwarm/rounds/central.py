"""The test split that the server may keep (`data.test = "central"`), and the runs that cannot be measured on it."""

from __future__ import annotations

from fedwarm.data.settings import Data
from fedwarm.data.testing import CENTRAL
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.tasks import task_of


def check_measured(config: Config) -> None:
    """Refuse to keep the test images at the server where there is no global model to measure.

    Raises:
        SettingError: there is none, or it is measured by what clients hold.
    """
    if config.of(Data).test != CENTRAL:
        return
    if not task_of(config.run).answers:
        raise SettingError(
            f"data.test = 'central' with task = {config.run.task!r}, which is measured by neighbours among a client's own "
            "examples; take data.test = 'split' or 'held-out'"
        )
    if not Run.of(config).shares:
        raise SettingError(
            f"data.test = 'central' measures the global model at the server, and {config.run.method} has none; take data.test = "
            "'split' or 'held-out'"
        )
