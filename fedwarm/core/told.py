"""Arrays that travel beside a model under a prefix of their own: what a server tells its clients, or they it."""

from __future__ import annotations

from collections.abc import Mapping

from fedwarm.core.arrays import Arrays


def joined(model: Arrays, told: Arrays, part: str) -> Arrays:
    """Both in one, as they travel; the told ones as `<part>/<name>`."""
    return {**model, **{f"{part}/{name}": array for name, array in told.items()}}


def split(arrays: Arrays, part: str) -> tuple[Arrays, Arrays]:
    """(all others, those told as `part` by their own names): the inverse of `joined`."""
    own = f"{part}/"
    others = {name: array for name, array in arrays.items() if not name.startswith(own)}
    return others, {name.removeprefix(own): array for name, array in arrays.items() if name.startswith(own)}


def in_one(models: Mapping[int, Arrays], part: str) -> Arrays:
    """All in one as `<part>-<number>/<name>`: the inverse of `numbered`."""
    return {f"{part}-{number}/{name}": array for number, model in models.items() for name, array in model.items()}


def numbered(arrays: Arrays, part: str) -> dict[int, Arrays]:
    """Those told as `<part>-<number>`, by number, ascending; each by its own names."""
    found: dict[int, Arrays] = {}
    for name, array in arrays.items():
        head, slash, own = name.partition("/")
        number = head.removeprefix(f"{part}-")
        if slash and number != head and number.isdecimal():
            found.setdefault(int(number), {})[own] = array
    return {number: found[number] for number in sorted(found)}
