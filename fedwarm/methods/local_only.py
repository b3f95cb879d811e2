"""The baseline without federation."""

from fedwarm.methods import Method
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.training.private import hidden


def validate(config: Config) -> None:
    """Refuse a codec that hides what clients hold: nothing is sent by it, and nothing could be told of how good models are.

    Raises:
        SettingError: it does.
    """
    if hidden(config):
        raise SettingError(
            f"method {config.run.method!r} sends no model, and codec = {config.run.codec!r} hides how good clients' own are; "
            "leave codec out"
        )


COMPONENT = Method(
    "LocalOnly",
    "baseline: each client trains alone; nothing is shared",
    averages=False,
    stacks=True,
    validate=validate,
    does=lambda run: {"uploads": False, "averages": False, "weighs": False, "shares": False, "samples": False, "personal": True},
)
