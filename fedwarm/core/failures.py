"""How a run ends badly: exceptions whose message is one line."""

from collections.abc import Sequence


class RunError(RuntimeError):
    """A run that had started, or a process that it needs, failed; what was recorded is in the run's folder.

    Attributes:
        lines: the last of the log, where there is one.
    """

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(" ".join(message.split()) if "\n" in message else message)
        self.lines = tuple(lines)
        if self.lines:
            self.add_note("\n".join(("last log lines:", *self.lines)))


class Interrupted(BaseException):
    """Somebody ended the work by a signal; the message is one line, `code` what shells expect then."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number, self.code = number, 128 + number
