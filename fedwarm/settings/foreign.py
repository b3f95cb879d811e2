"""Somebody's own functions, called so that what they raise is told in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fedwarm.settings.fields import SettingError

T = TypeVar("T")


def outcome(what: str, call: Callable[[], T]) -> T:
    """What a function of somebody's gives; `what` names it, e.g. `data.name = 'mine:load'`.

    Raises:
        SettingError: it fails.
    """
    try:
        return call()
    except SettingError:
        raise
    except Exception as error:  # whatever somebody's code does
        reason = (str(error).splitlines() or [""])[0]
        raise SettingError(f"{what} fails: {type(error).__name__}: {reason}; correct that function") from error
