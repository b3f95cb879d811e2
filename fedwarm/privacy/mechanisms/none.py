"""No mechanism."""

from fedwarm.parts import Part


class Nothing(Part):
    """Training steps are as they are."""


COMPONENT = Nothing()
