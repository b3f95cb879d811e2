"""The command line in this process, for tests."""

from __future__ import annotations

import sys

import pytest

from fedwarm.cli import app as cli


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `fedwarm ARGUMENTS` in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["fedwarm", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
