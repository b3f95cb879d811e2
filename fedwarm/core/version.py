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
