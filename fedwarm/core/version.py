"""The version of this package, which stands in `pyproject.toml` and nowhere else."""

from importlib import metadata

UNKNOWN = "0.0.0"


def _installed() -> str:
    """The version of the installed package; `UNKNOWN` where the code runs without one, as within a Flower bundle."""
    try:
        return metadata.version("fedwarm")
    except metadata.PackageNotFoundError:
        return UNKNOWN


VERSION = _installed()


def fits(one: str, other: str) -> bool:
    """Whether two versions have the same major and minor number; one that is not known fits to all."""
    return UNKNOWN in (one, other) or one.split(".")[:2] == other.split(".")[:2]
