"""The fault `delay`: an honest reply, late."""

from __future__ import annotations

import time

from fedwarm.core.payload import Payload
from fedwarm.faults import Fault


class Delay(Fault):
    """The reply comes `faults.delay-seconds` late; it is honest, and passes where the deadline is later."""

    refused = False
    uses = ("faults.delay-seconds",)

    def spoil(self, honest: Payload, sent: Payload, earlier: Payload | None) -> Payload:
        time.sleep(self.faults.delay_seconds)
        return honest


COMPONENT = Delay
