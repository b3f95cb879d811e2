"""What is odd about who holds what in a run, in a line each: before the run on the terminal, and in its record.

A run with such clients is right, but its numbers are easily misread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedwarm.data.settings import Data
from fedwarm.data.testing import CENTRAL, HELD_OUT
from fedwarm.diffusion.settings import Diffusion
from fedwarm.relevance import Run
from fedwarm.rounds.fleet import Member
from fedwarm.schedules import ROUNDS, STEPS
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import PRIVACY
from fedwarm.training.plan import steps_of


@dataclass(frozen=True)
class Held:
    """What one client holds.

    Attributes:
        train, test: images for training and for testing.
        classes: of its training images; empty where it does not tell.
    """

    train: int
    test: int
    classes: frozenset[int]


def held(config: Config, clients: int) -> list[Held]:
    """What the clients of a simulation hold; no image is decoded."""
    from fedwarm.data.shards import count_tests, open_table, partition_table

    data, seed = config.of(Data), config.run.seed
    counts, tests = partition_table(data, seed, clients), count_tests(data, seed, clients)
    if not open_table(data).classed:
        return [Held(sum(row), test, frozenset()) for row, test in zip(counts, tests, strict=True)]
    return [Held(sum(row), test, frozenset(c for c, n in enumerate(row) if n)) for row, test in zip(counts, tests, strict=True)]


def refuse_one_class(found: Sequence[Held], names: Sequence[str]) -> None:
    """Refuse training images that are all of one class: whatever is measured on them would be 100 %.

    Raises:
        SettingError: they are.
    """
    classes = frozenset[int]().union(*(client.classes for client in found))
    if len(classes) == 1:
        raise SettingError(
            f"all training images are of one class, {names[next(iter(classes))]!r}, so that every accuracy is 100 % and says "
            "nothing; give data of two classes or more (data.label-column names the column), or deal them otherwise"
        )


def remarks(config: Config, found: Sequence[Held]) -> Iterator[str]:
    """A line for each thing that is odd, for who begins the run."""
    yield from of_record(config, found)
    sizes = [client.train for client in found]
    for each in (_about_batches, _about_steps):
        yield from each(config, sizes if Run.of(config).apart else [sum(sizes)])


def of_fleet(config: Config, members: Sequence[Member]) -> Iterator[str]:
    """`of_record` of the clients of a run; nothing where they do not tell, or must not."""
    if not Run.of(config).hides and all(m.known for m in members):
        yield from of_record(config, [Held(m.examples, m.tests, frozenset(m.present)) for m in members])


def of_record(config: Config, found: Sequence[Held]) -> Iterator[str]:
    """A line for each thing that who reads the run's numbers must know."""
    yield from _about_tests(config, found)
    yield from _about_cohorts(config, len(found))


def _about_tests(config: Config, found: Sequence[Held]) -> Iterator[str]:
    data, personal = config.of(Data), Run.of(config).personal
    if len(frozenset[int]().union(*(client.classes for client in found))) == 1:
        yield "all training images are of one class, so that accuracies say nothing"
    if data.test == CENTRAL and personal:
        yield "personal models are not measured: data.test = 'central' leaves clients no test images; 'split' gives them some"
    none = [k for k, client in enumerate(found) if not client.test]
    if none and data.test != CENTRAL:
        yield f"{_of(none, found)} no test images: they count in no accuracy"
    rounded = [k for k, client in enumerate(found) if round((client.train + client.test) * data.test_fraction) < 1]
    if rounded and data.test == HELD_OUT and not data.max_examples:
        share, some = f"data.test-fraction = {data.test_fraction:g}", f"{len(rounded)} of {len(found)} clients"
        yield f"{share} is less than one image of {some}; one is held out"
    single = [k for k, client in enumerate(found) if len(client.classes) == 1]
    if single and personal:
        yield f"{_of(single, found)} images of one class only: a personal model that always names it is right there"


def _about_cohorts(config: Config, clients: int) -> Iterator[str]:
    share = config.run.fraction_train
    if round(share * clients) < 1 and Run.of(config).samples:
        yield f"fraction-train = {share:g} of {clients} clients is nobody; one client trains in each round"


def _about_batches(config: Config, sizes: Sequence[int]) -> Iterator[str]:
    run, diffusion, does = config.run, config.of(Diffusion), Run.of(config)
    batches = [("batch-size", run.batch_size, "an epoch of theirs is one step on all of them")]
    if does.adapts:
        batches.append(("diffusion.lora-batch-size", diffusion.lora_batch_size, "their batches hold images more than once"))
    for key, batch, so in batches:
        if small := [n for n in sizes if n < batch]:
            if run.privacy != PRIVACY.first:
                so = "all of them are in every step, which so hides none of them by leaving it out"
            yield f"{key} = {batch} is more than {len(small)} of {len(sizes)} clients hold (the fewest {min(small)}): {so}"


def _about_steps(config: Config, sizes: Sequence[int]) -> Iterator[str]:
    run, warmup = config.run, config.run.schedule_warmup
    steps = [steps_of(n, run.batch_size, run.local_epochs) for n in sizes if n]
    if warmup and run.schedule_over == STEPS and Run.of(config).trains and (short := [n for n in steps if n <= warmup]):
        yield (
            f"schedule-warmup = {warmup} is not over in a round of {len(short)} of {len(sizes)} clients (the fewest steps "
            f"{min(short)}), which never reach learning-rate; lower it, or set schedule-over = {ROUNDS!r}"
        )


def _of(which: Sequence[int], found: Sequence[Held]) -> str:
    """`2 of 10 clients (3, 7) have`."""
    named = ", ".join(map(str, which[:5])) + (", .." if len(which) > 5 else "")
    return f"{len(which)} of {len(found)} clients ({named}) {'has' if len(which) == 1 else 'have'}"
