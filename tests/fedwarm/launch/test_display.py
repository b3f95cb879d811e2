"""What is shown on a terminal: bars of work, and above them one line about the whole run."""

from __future__ import annotations

import pytest

from fedwarm.core.progress import STAGES, Tick, current
from fedwarm.launch import display


def test_the_whole_run_has_a_line_above_the_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes no room from the bars, and is not cut where the terminal is narrow."""
    monkeypatch.setattr(display, "lively", lambda *_: True)
    monkeypatch.setenv("COLUMNS", "80")
    with display.shown("WarmFed"):
        listener = current()
        assert listener is not None
        listener(Tick("server", STAGES, 1, 4, "adapt, then generate, warm start, distill; about 3 min left for all"))
        listener(Tick("client 0", "adapter", 30, 600))
    shown = capsys.readouterr().err
    assert "stage 1 of 4: adapt, then generate, warm start, distill; about 3 min left for all" in " ".join(shown.split())
    (bar,) = (line for line in shown.splitlines() if "adapter" in line)
    assert bar.startswith("client 0   adapter") and "30/600" in bar and STAGES not in shown
