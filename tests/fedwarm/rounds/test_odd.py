"""What is odd about the clients is said in a line each, and one class in all is refused."""

from __future__ import annotations

import pytest

from fedwarm.catalogue import parse
from fedwarm.launch.run import tell_odd
from fedwarm.rounds.odd import Held, held, of_record, refuse_one_class, remarks
from fedwarm.settings.fields import SettingError, Value


def lines(found: list[Held], **given: Value) -> list[str]:
    flat: dict[str, Value] = {"method": "fedavg", "batch-size": 8}
    flat |= {name.replace("__", ".").replace("_", "-"): value for name, value in given.items()}
    return list(remarks(parse(flat), found))


def client(train: int = 30, test: int = 10, classes: tuple[int, ...] = (0, 1)) -> Held:
    return Held(train, test, frozenset(classes))


def test_nothing_odd_nothing_said() -> None:
    assert lines([client()] * 3) == lines([client()] * 3, method="warmfed", diffusion__lora_batch_size=30) == []


def test_what_clients_hold() -> None:
    found = held(parse({"method": "fedavg"}), 4)
    assert [len(each.classes) for each in found] == [10] * 4
    assert all(each.test == round((each.train + each.test) / 4) for each in found)


def test_clients_without_test_images() -> None:
    found = [client(test=0), client(), client(test=0)]
    assert lines(found, data__test="split") == ["2 of 3 clients (0, 2) have no test images: they count in no accuracy"]
    many = [client(test=0)] * 9
    assert lines(many, data__test="split")[0].startswith("9 of 9 clients (0, 1, 2, 3, 4, ..) have")
    assert lines(many, data__test="central") == []


def test_personal_models_without_test_images() -> None:
    [line] = lines([client(test=0)] * 2, method="warmfed", data__test="central", diffusion__lora_batch_size=8)
    assert line.startswith("personal models are not measured: data.test = 'central' leaves clients no test images")


def test_clients_of_one_class() -> None:
    found = [client(classes=(1,)), client()]
    assert lines(found, method="local_only")[0].startswith("1 of 2 clients (0) has images of one class only")
    assert lines(found) == []


def test_a_share_that_is_nobody() -> None:
    assert lines([client()] * 4, fraction_train=0.1) == [
        "fraction-train = 0.1 of 4 clients is nobody; one client trains in each round"
    ]
    assert lines([client()] * 4, fraction_train=0.2) == lines([client()] * 4, fraction_train=0.1, method="local_only") == []


def test_a_share_for_testing_that_is_no_image() -> None:
    [line] = lines([client(19, 1), client()], data__test_fraction=0.02)
    assert line == "data.test-fraction = 0.02 is less than one image of 1 of 2 clients; one is held out"


def test_batches_that_are_larger_than_a_client() -> None:
    found = [client(5), client(7), client(8)]
    start = "batch-size = 8 is more than 2 of 3 clients hold (the fewest 5): "
    assert lines(found) == [start + "an epoch of theirs is one step on all of them"]
    hidden = "all of them are in every step, which so hides none of them by leaving it out"
    assert lines(found, privacy="dp-sgd") == [start + hidden]
    assert lines(found, method="centralized") == []
    assert list(of_record(parse({"method": "fedavg"}), found)) == [], "who reads the numbers need not know"
    [_, adapters] = lines(found, method="warmfed")
    assert adapters.startswith("diffusion.lora-batch-size = 16 is more than 3 of 3 clients hold (the fewest 5)")


def test_a_warm_up_that_is_longer_than_the_steps_of_a_round() -> None:
    found, warm = [client(16), client(24), client(80)], {"schedule_over": "steps", "local_epochs": 2}
    assert lines(found, schedule_warmup=6, **warm) == [
        "schedule-warmup = 6 is not over in a round of 2 of 3 clients (the fewest steps 4), which never reach learning-rate; "
        "lower it, or set schedule-over = 'rounds'"
    ]
    assert lines(found, schedule_warmup=3, **warm) == lines(found, schedule_warmup=6, local_epochs=2) == []
    assert lines(found, schedule_warmup=6, method="centralized", **warm) == []


def test_one_class_in_all() -> None:
    one = [client(classes=(2,)), client(classes=(2,))]
    with pytest.raises(SettingError, match="all training images are of one class, 'newt', so that every accuracy is 100 %"):
        refuse_one_class(one, ("cat", "dog", "newt"))
    refuse_one_class([client(classes=(2,)), client(classes=(0,))], ("cat", "dog", "newt"))
    refuse_one_class([client(classes=())], ("cat",))
    assert lines(one) == ["all training images are of one class, so that accuracies say nothing"]


def test_the_lines_stand_before_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    tell_odd(parse({"method": "fedavg", "fraction-train": 0.01, "batch-size": 500}), 4)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "fedwarm: fraction-train = 0.01 of 4 clients is nobody; one client trains in each round"
    assert second.startswith("fedwarm: batch-size = 500 is more than 4 of 4 clients hold (the fewest 337): ")
