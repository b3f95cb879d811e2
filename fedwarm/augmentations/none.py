"""No augmentation."""

from fedwarm.parts import Part


class Nothing(Part):
    """No augmentation: clients train on their own data."""


COMPONENT = Nothing()
