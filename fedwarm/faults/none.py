"""No fault."""

from __future__ import annotations

from fedwarm.faults import Fault


class Nothing(Fault):
    """Every reply is honest."""

    refused = False


COMPONENT = Nothing
