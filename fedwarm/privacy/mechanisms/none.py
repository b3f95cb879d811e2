"""No mechanism."""

from fedwarm.parts import Part


class Nothing(Part):
    """No privacy mechanism in local training."""


COMPONENT = Nothing()
