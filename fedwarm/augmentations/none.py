"""No augmentation."""

from fedwarm.parts import Part


class Nothing(Part):
    """Clients train on what they hold."""


COMPONENT = Nothing()
