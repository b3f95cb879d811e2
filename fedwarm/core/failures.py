"""How a run ends badly: exceptions whose message is one line."""


class RunError(RuntimeError):
    """The run started and could not go on; what it had recorded is in its folder."""


class Interrupted(BaseException):
    """Somebody ended the work by a signal; the message is one line, `code` what shells expect then."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number, self.code = number, 128 + number
