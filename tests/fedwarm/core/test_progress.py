"""Signs of life: who hears them, how often, and what is written to the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from fedwarm.core.progress import LOG_SECONDS_VARIABLE, STAGES, Log, Pace, Tick, heard, listening, tick


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Lines that reach Flower's log."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    target, handler = logging.getLogger("flwr"), Handler()
    level = target.level
    target.addHandler(handler)
    target.setLevel(logging.INFO)
    yield lines
    target.removeHandler(handler)
    target.setLevel(level)


def test_nobody_listens() -> None:
    tick("train", 1, 2)


def test_the_listener_hears_who_and_what() -> None:
    heard: list[Tick] = []
    with listening(heard.append, "client 3"):
        tick("train", 1, 2, "loss 1.5")
    tick("train", 2, 2)
    assert heard == [Tick("client 3", "train", 1, 2, "loss 1.5")]
    with listening(heard.append):
        tick("tune", 1, 1)
    assert heard[-1].who == "server"


def test_at_most_five_a_second_but_always_the_first_and_the_last(clock: Clock) -> None:
    heard: list[Tick] = []
    with listening(heard.append, now=clock):
        for step in range(1, 1001):
            clock.now += 0.01
            tick("train", step, 1000)
    steps = [t.step for t in heard]
    assert steps[0] == 1 and steps[-1] == 1000
    assert 45 <= len(steps) <= 52


def test_no_stage_is_left_out_however_short_the_one_before_was(clock: Clock) -> None:
    heard: list[Tick] = []
    with listening(heard.append, now=clock):
        for step in (1, 2, 3, 4):
            tick(STAGES, step, 4)
    assert [event.step for event in heard] == [1, 2, 3, 4]


def test_stages_and_workers_are_counted_apart(clock: Clock) -> None:
    heard: list[Tick] = []
    for who in ("client 0", "client 1"):
        with listening(heard.append, who, now=clock):
            tick("a", 5, 10)
            tick("b", 5, 10)
            tick("a", 6, 10)
    assert [(t.who, t.stage) for t in heard] == [(c, s) for c in ("client 0", "client 1") for s in ("a", "b")]


def test_blocks_nest_and_end() -> None:
    outer: list[Tick] = []
    inner: list[Tick] = []
    with listening(outer.append, "server"):
        with listening(inner.append, "client 1"):
            tick("x", 1, 1)
        with pytest.raises(KeyError), listening(inner.append, "client 2"):
            raise KeyError
        tick("x", 1, 1)
        with listening(None):
            tick("x", 1, 1)
    assert [t.who for t in inner] == ["client 1"] and [t.who for t in outer] == ["server"]


def test_a_fallback_listener_stands_back() -> None:
    display: list[Tick] = []
    fallback: list[Tick] = []
    with listening(display.append), listening(fallback.append, "client 1", only_if_nobody_listens=True):
        tick("x", 1, 1)
    with listening(fallback.append, "client 2", only_if_nobody_listens=True):
        tick("x", 1, 1)
    assert [t.who for t in display] == ["client 1"] and [t.who for t in fallback] == ["client 2"]


def test_the_log_gets_a_line_in_ten_seconds_and_one_at_the_end(clock: Clock, log: list[str]) -> None:
    with listening(Log(clock), "client 1", now=clock):
        for step in range(1, 101):
            clock.now += 0.25
            tick("adapter", step, 100)
    assert [line.split(",")[0] for line in log] == [
        "client 1: adapter 41/100", "client 1: adapter 81/100", "client 1: adapter 100/100",
    ]  # fmt: skip
    assert log[0].split(", ")[1].startswith("14 s left") or log[0].split(", ")[1].startswith("15 s left")


def test_short_stages_are_not_logged(clock: Clock, log: list[str]) -> None:
    with listening(Log(clock), now=clock):
        tick("train", 1, 2)
        tick("train", 2, 2)
    assert log == []


def test_every_round_is_logged_and_short_work_where_the_environment_asks(
    clock: Clock, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(Log(clock), "server", now=clock):
        for number in (1, 1, 2, 2):  # training and evaluation of two rounds
            tick("rounds", number, 2, f"accuracy 0.{number}")
    assert log == [f"server: rounds {n}/2 accuracy 0.{n}" for n in (1, 1, 2, 2)]
    log.clear()
    monkeypatch.setenv(LOG_SECONDS_VARIABLE, "1")
    with listening(Log(clock), "client 1", now=clock):
        tick("train", 1, 2)
        clock.now += 1.5
        tick("train", 2, 2)
    assert [heard(line) for line in log] == [Tick("client 1", "train", 2, 2)]


@pytest.mark.parametrize("event", [
    Tick("client 12", "train", 3, 10), Tick("server", "clients drawn", 4, 4, "of 9/9, 5 s left"), Tick("server", "rounds", 1, 2),
])  # fmt: skip
def test_a_line_is_heard_as_the_tick_that_it_told_of(clock: Clock, event: Tick) -> None:
    pace = Pace(0.0, clock)
    pace.line(Tick(event.who, event.stage, 0, event.of))
    clock.now += 2.0
    line = pace.line(event)
    assert line is not None and heard(line) == event and heard(f"12:00 INFO :      {line}") == event
    assert heard("INFO :      Starting Flower SuperNode 3/4") is None and heard("client 3: did not answer") is None


def test_the_time_left_counts_from_the_stages_own_beginning(clock: Clock, log: list[str]) -> None:
    """A second pass of a stage must not count the time since the first one."""
    with listening(Log(clock), "client 1", now=clock):
        for _ in range(2):
            for step in range(1, 41):
                clock.now += 1.0
                tick("train", step, 40)
            clock.now += 1000.0
    begun_again = [line for line in log if "40/40" not in line][-1]
    seconds = float(begun_again.split(", ")[1].split(" s left")[0])
    assert seconds <= 40
