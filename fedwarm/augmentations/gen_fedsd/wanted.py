"""How many images of which classes a client gets, which ones, and whether there is room for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD, amounts, global_target, validated
from fedwarm.augmentations.gen_fedsd.drawn import DRAWS
from fedwarm.augmentations.gen_fedsd.providers import Provider
from fedwarm.core.seeds import numpy_generator
from fedwarm.core.store import MIB
from fedwarm.data import partition_table
from fedwarm.data.settings import Data
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError


def wanted_of(
    config: Config, real: Sequence[int], provider: Provider | None, announced: int = 0, *, measure: bool = True
) -> list[int]:
    """Synthetic images of each class that a client gets; `measure` draws a few where a budget needs the speed."""
    settings, speed, batch = validated(config.of(GenFedSD)), 0.0, 1
    if settings.budget_seconds and provider is not None:
        speed, batch = provider.speed(measure), provider.own_batch
    size = config.of(Data).image_size
    return amounts(settings, real, announced, image_bytes=3 * size**2, seconds_per_image=speed, batch=batch)


def chosen_of(
    config: Config, provider: Provider | None, partition: int, label: int, count: int, classes: Sequence[str]
) -> list[int]:
    """Which images of a class a client takes; without a provider they are its own."""
    repeat, stock = config.of(GenFedSD).allow_repeat, None if provider is None else provider.stock(label)
    return indices(config.run.seed, partition, label, count, stock, repeat, classes[label])


def indices(seed: int, client: int, label: int, count: int, stock: int | None, allow_repeat: bool, name: str = "") -> list[int]:
    """Which images of a class a client takes: the first of a random order of the stock that is its own.

    Args:
        count: how many.
        stock: different images that there are; None: the client's own, numbered from 0.
        allow_repeat: begin another random order when the stock is exhausted.
        name: of the class, for the error.

    Raises:
        SettingError: the stock is too small.
    """
    if stock is None:
        return list(range(count))
    _refuse_short(client, count, stock, allow_repeat, name or label)
    orders = numpy_generator(seed, DRAWS, "pool", client, label)
    rounds = [orders.permutation(stock) for _ in range(-(-count // stock) if stock else 0)]
    return [int(i) for i in np.concatenate(rounds)[:count]] if rounds else []


def _refuse_short(client: int, count: int, stock: int, allow_repeat: bool, name: str | int) -> None:
    if count > stock and (not allow_repeat or stock == 0):
        raise SettingError(
            f"client {client} lacks {count} images of class {name!r} and there are {stock}; raise gen-fedsd.pool or "
            "data.public-share, give more images in gen-fedsd.file, set cap or a budget, or gen-fedsd.allow-repeat = true"
        )


def check_stock(config: Config, partitions: int, classes: Sequence[str], stock: Sequence[int]) -> None:
    """See before any work that there are as many images of each class as any client takes.

    Args:
        config: the settings.
        partitions: how many clients there are.
        classes: their names.
        stock: different images of each that there are.

    Raises:
        SettingError: a class has too few. Where seconds are bounded or the target has noise nothing is known yet.
    """
    settings = config.of(GenFedSD)
    if settings.budget_seconds or (settings.rule == "global" and settings.histogram_epsilon):
        return
    table = partition_table(config.of(Data), config.run.seed, partitions)
    for client, counts in enumerate(table):
        for name, count, there in zip(classes, wanted_of(config, counts, None, global_target(table)), stock, strict=True):
            _refuse_short(client, count, there, settings.allow_repeat, name)


def check_room(config: Config, partitions: int) -> None:
    """See before any work that one machine can keep what all clients together have drawn, as a simulation does.

    Raises:
        SettingError: it cannot, by `client-state-mb`. Where seconds are bounded nothing is known yet.
    """
    settings = config.of(GenFedSD)
    if settings.budget_seconds:
        return
    table, limit = partition_table(config.of(Data), config.run.seed, partitions), config.run.client_state_mb
    image_bytes, announced = 3 * config.of(Data).image_size ** 2, global_target(table)
    images = sum(sum(wanted_of(config, counts, None, announced)) for counts in table)
    if settings.pool:
        images = min(images, settings.pool * len(table[0]))
    if images * image_bytes > limit * MIB:
        raise SettingError(
            f"{partitions} clients have {images:,} images drawn, {images * image_bytes / MIB:,.0f} MB, more than "
            f"client-state-mb = {limit}; raise it, or set gen-fedsd.pool, cap, budget-images or budget-mb"
        )


def check_size(config: Config, partition: int, images: int) -> None:
    """Refuse before anything is drawn what the client could not keep, such as a target that a spoilt histogram set."""
    size, limit = images * 3 * config.of(Data).image_size ** 2, config.run.client_state_mb
    if size > limit * MIB:
        raise SettingError(
            f"client {partition} lacks {images:,} images, {size / MIB:,.0f} MB, more than client-state-mb = {limit}; raise it, "
            "or set gen-fedsd.cap, budget-images or budget-mb"
        )
