"""Training without federation: what is refused, and how it ends where training diverges."""

from __future__ import annotations

import pytest

from fedwarm.launch.preflight import check_run
from fedwarm.settings.fields import SettingError


def test_a_codec_that_would_hide_how_good_own_models_are_is_refused() -> None:
    with pytest.raises(SettingError, match="sends no model, and codec = 'dp-rec' hides .*; leave codec out"):
        check_run({"method": "local_only", "codec": "dp-rec"}, 4)
    check_run({"method": "local_only", "codec": "stochastic-rounding"}, 4)
