"""What a client that fails in a private run tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.client_app import CAUSE, worked
from fedwarm.catalogue import parse
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.store import Store
from fedwarm.data.node import Node
from fedwarm.privacy.clipping import UpdateError
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.gate import WithheldError
from fedwarm.settings.fields import SettingError, Value

SAID = "17 of the update's 20 numbers are NaN"


class Failing(BaseClient):
    """One whose rounds fail."""

    error: Exception

    def round(self, payload: Payload) -> Payload:
        raise self.error


def failing(settings: dict[str, Value], error: Exception, folder: Path) -> BaseClient:
    client = Failing(parse({"method": "fedavg", **settings}), Node(0, 2, Store(folder, "ab", 0, 16)))
    client.error = error
    return client


@pytest.mark.parametrize("settings", [{"codec": "dp-rec"}, {"privacy": "dp-sgd"}, {"method": "dp_rec"}], ids=str)
def test_what_tells_of_the_update_stays_with_the_client(settings: dict[str, Value], tmp_path: Path) -> None:
    client = failing(settings, UpdateError(SAID), tmp_path)
    with pytest.raises(WithheldError) as told:
        worked(client, "round", Payload())
    assert "17" not in str(told.value) and CAUSE in str(told.value)
    assert told.value.__cause__ is None and told.value.__context__ is None, "a traceback would have it"
    assert SAID in (client.node.store.folder / CAUSE).read_text()


@pytest.mark.parametrize("error", [SettingError("lower it"), PayloadError("metric 'round' is missing")], ids=str)
def test_what_is_wrong_with_settings_and_messages_is_told(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error), match=str(error)):
        worked(failing({"codec": "dp-rec"}, error, tmp_path), "round", Payload())


def test_all_is_told_where_nothing_is_private(tmp_path: Path) -> None:
    with pytest.raises(UpdateError, match="17 of"):
        worked(failing({}, UpdateError(SAID), tmp_path), "round", Payload())
