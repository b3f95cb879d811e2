"""How a run ends badly: one exception whose message is one line."""


class RunError(RuntimeError):
    """The run started and could not go on; what it had recorded is in its folder."""
