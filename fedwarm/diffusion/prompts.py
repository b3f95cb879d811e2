"""What a foundation is asked for: one sentence per class."""

from __future__ import annotations

from collections.abc import Sequence

from fedwarm.settings.fields import SettingError


def prompts(template: str, classes: Sequence[str]) -> list[str]:
    """The template with each class name in place of `{class}`.

    Raises:
        SettingError: the template has no `{class}`.
    """
    if "{class}" not in template:
        raise SettingError(f"prompt {template!r} does not say where the class stands; write {{class}} there")
    return [template.replace("{class}", name.replace("_", " ")) for name in classes]
