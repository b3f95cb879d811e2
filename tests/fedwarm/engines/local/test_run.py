"""The local engine, with small Flower apps written for the purpose: results, isolation, failures, time limits, progress."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import torch
from flwr.app import Context

from fedwarm.core import capacity, progress
from fedwarm.core.compute import torch_threads
from fedwarm.engines.local import run as local
from fedwarm.engines.local import workers
from fedwarm.engines.local.run import make_node_ids, run_local
from fedwarm.flower import app as flower_app
from fedwarm.flower.app import FlowerApp
from fedwarm.settings.fields import SettingError, Value

Make = Callable[..., FlowerApp]
ENGINES = pytest.mark.parametrize("workers", [1, 2])

SERVER = """
import time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

def ask(grid, kind="train", timeout=None, nodes=None, **config):
    nodes = sorted(grid.get_node_ids()) if nodes is None else nodes
    content = RecordDict({"config": ConfigRecord(config)})
    return list(grid.send_and_receive([Message(content, node, kind) for node in nodes], timeout=timeout))

def answers(replies):
    found = {}
    for reply in replies:
        if reply.has_content():
            record = reply.content["answer"]
            found[str(record["client"])] = record["value"]
    return found

def errors(replies):
    failed = [reply for reply in replies if reply.has_error()]
    return {str(reply.metadata.src_node_id): [str(reply.error.code), reply.error.reason] for reply in failed}

@app.main()
def main(grid, context):
    state = context.state
"""
CLIENT = """
import os, signal, sys, time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

def say(message, context, value):
    record = ConfigRecord({"client": context.node_config["partition-id"], "value": value})
    return Message(RecordDict({"answer": record}), reply_to=message)
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Writes an app: the body of the server's main, and the client's functions."""

    def written(server: str, client: str, **config: Value) -> FlowerApp:
        body = textwrap.indent(textwrap.dedent(server).strip(), "    ")
        (tmp_path / "test_app_server.py").write_text(f"{SERVER.rstrip()}\n{body}\n")
        (tmp_path / "test_app_client.py").write_text(f"{CLIENT}\n{textwrap.dedent(client)}\n")
        return FlowerApp("test_app_server:app", "test_app_client:app", config, tmp_path)

    yield written
    flower_app.enter(None)


def found(context: Context, name: str) -> dict[str, Any]:
    return dict(context.state[name])


FEDAVG_SERVER = """
import random
from flwr.serverapp.strategy import FedAvg
random.seed(1)
arrays = ArrayRecord([np.zeros((3, 4), np.float32), np.zeros(5, np.float64)])
result = FedAvg(min_available_nodes=5).start(grid=grid, initial_arrays=arrays, num_rounds=3)
state["arrays"] = result.arrays
state["loss"] = MetricRecord({"loss": [m["loss"] for m in result.evaluate_metrics_clientapp.values()]})
"""
FEDAVG_CLIENT = """
@app.train()
def train(message, context):
    i = context.node_config["partition-id"]
    arrays = [a + (i + 1) * context.run_config["rate"] * message.content["config"]["server-round"]
              for a in message.content["arrays"].to_numpy_ndarrays()]
    metrics = MetricRecord({"num-examples": i + 1})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

@app.evaluate()
def evaluate(message, context):
    loss = float(message.content["arrays"].to_numpy_ndarrays()[0].sum())
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": loss})}), reply_to=message)
"""


def test_fedavg_is_the_same_in_process_and_in_workers(make: Make) -> None:
    app = make(FEDAVG_SERVER, FEDAVG_CLIENT, rate=0.1)
    contexts = [run_local(app, {"rate": 0.5}, clients=5, workers=workers, run_id=7) for workers in (1, 2, 5)]
    arrays = [context.state["arrays"].to_numpy_ndarrays() for context in contexts]  # type: ignore[union-attr]
    for other in arrays[1:]:
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(arrays[0], other, strict=True))
    step = sum((i + 1) ** 2 for i in range(5)) / sum(i + 1 for i in range(5)) * 0.5
    np.testing.assert_allclose(arrays[0][0], np.full((3, 4), step * (1 + 2 + 3)), rtol=1e-6)
    assert len(found(contexts[0], "loss")["loss"]) == 3
    assert contexts[0].run_config == {"rate": 0.5}
    assert contexts[0].run_id == 7


LEGACY_SERVER = """
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig, ServerApp
from flwr.server.strategy import FedAvg
LOSSES = {}
def server_fn(context):
    class Kept(FedAvg):
        def aggregate_evaluate(self, server_round, results, failures):
            assert not failures
            loss, metrics = super().aggregate_evaluate(server_round, results, failures)
            context.state[str(server_round)] = MetricRecord({"loss": loss})
            return loss, metrics
    strategy = Kept(initial_parameters=ndarrays_to_parameters([np.zeros(3)]))
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))
app = ServerApp(server_fn=server_fn)
"""
LEGACY_CLIENT = """
from flwr.client import NumPyClient
class Old(NumPyClient):
    def get_parameters(self, config):
        return [np.zeros(3)]
    def fit(self, parameters, config):
        return [parameters[0] + 1], 1, {}
    def evaluate(self, parameters, config):
        return float(parameters[0][0]), 1, {}
app = ClientApp(client_fn=lambda context: Old().to_client())
"""


@ENGINES
def test_an_app_of_the_old_kind_runs_too(make: Make, tmp_path: Path, workers: int) -> None:
    app = make("pass", LEGACY_CLIENT)
    (tmp_path / "test_app_server.py").write_text(SERVER + "    pass\n" + LEGACY_SERVER)
    context = run_local(app, {}, clients=4, workers=workers)
    assert {key: record["loss"] for key, record in context.state.items()} == {"1": 1.0, "2": 2.0}


COUNTING = """
@app.train()
def train(message, context):
    seen = context.state.get("seen") or MetricRecord({"times": 0})
    seen["times"] += 1
    context.state["seen"] = seen
    context.run_config["touched"] = True
    return say(message, context, seen["times"])
"""


@ENGINES
def test_a_clients_state_lasts_for_the_run_and_is_its_own(make: Make, workers: int) -> None:
    server = """
    everyone = sorted(grid.get_node_ids())
    ask(grid, nodes=everyone)
    ask(grid, nodes=everyone[:2])
    state["times"] = ConfigRecord(answers(ask(grid)))
    """
    app = make(server, COUNTING)
    first = found(run_local(app, {}, clients=4, workers=workers), "times")
    assert sorted(first.values()) == [2, 2, 3, 3]
    assert found(run_local(app, {}, clients=4, workers=workers), "times") == first


@ENGINES
def test_named_actions_mods_and_who_is_who(make: Make, workers: int) -> None:
    client = """
    def tripled(message, context, call_next):
        reply = call_next(message, context)
        reply.content["answer"]["value"] *= 3
        return reply

    app = ClientApp(mods=[tripled])

    @app.train("adapt")
    def adapt(message, context):
        return say(message, context, context.node_config["num-partitions"] * 10 + context.node_config["extra"])

    @app.query()
    def query(message, context):
        return say(message, context, context.node_id % 1000)
    """
    server = """
    state["adapt"] = ConfigRecord(answers(ask(grid, "train.adapt")))
    state["query"] = ConfigRecord(answers(ask(grid, "query")))
    replies = ask(grid, "query")
    state["right"] = ConfigRecord({"ids": [
        reply.metadata.dst_node_id == context.node_id and reply.metadata.run_id == context.run_id == grid.run.run_id
        and reply.metadata.src_node_id == node and reply.metadata.message_type == "query" and reply.metadata.message_id != ""
        for node, reply in zip(sorted(grid.get_node_ids()), replies)]})
    """
    context = run_local(make(server, client), {}, clients=3, workers=workers, node_config={"extra": 4})
    assert found(context, "adapt") == {"0": 102, "1": 102, "2": 102}
    assert found(context, "query") == {str(i): node % 1000 * 3 for i, node in enumerate(make_node_ids(3))}
    assert found(context, "right") == {"ids": [True, True, True]}


@ENGINES
def test_a_client_that_raises_or_exits_becomes_an_error_reply(make: Make, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    client = """
    @app.train()
    def train(message, context):
        match context.node_config["partition-id"]:
            case 0: raise ValueError("no luck")
            case 1: sys.exit("enough")
            case 2: return None
            case 3: return message
            case 4: return Message(RecordDict({"answer": ConfigRecord({"client": 4, "value": Odd("x")})}), reply_to=message)
        return say(message, context, 1)

    class Odd(str):
        def __reduce__(self):
            raise RuntimeError("stays here")
    """
    server = """
    for turn in "ab":
        replies = ask(grid)
        state["errors" + turn] = ConfigRecord(errors(replies))
        state["answers" + turn] = ConfigRecord(answers(replies))
    """
    app = make(server, client)
    with caplog.at_level(logging.ERROR, "fedwarm"):
        context = run_local(app, {}, clients=6, workers=workers)
    assert found(context, "errorsa") == found(context, "errorsb")
    nodes = make_node_ids(6)
    said = {nodes.index(int(node)): error for node, error in found(context, "errorsa").items()}
    assert said[0] == ["2", "<class 'ValueError'>:<'no luck'>"]
    assert said[1] == ["2", "<class 'SystemExit'>:<'enough'>"]
    assert "returned NoneType" in said[2][1] and "is no reply" in said[3][1]
    assert (4 in said) == (workers == 2)
    assert found(context, "answersa")["5"] == 1
    assert 'raise ValueError("no luck")' in caplog.text and "client 0 failed" in caplog.text


DYING = """
@app.train()
def train(message, context):
    seen = context.state.get("seen") or MetricRecord({"times": 0})
    context.state["seen"] = seen
    seen["times"] += 1
    if context.node_config["partition-id"] == 2 and message.content["config"]["turn"] == 1:
        END
    return say(message, context, seen["times"])
"""


@pytest.mark.parametrize(("end", "code"), [("os._exit(3)", "3"), ("os.kill(os.getpid(), signal.SIGKILL)", "-9")])
def test_a_worker_that_dies_costs_one_reply_and_is_replaced(
    make: Make, end: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = """
    for turn in range(3):
        replies = ask(grid, turn=turn)
        state[f"answers{turn}"] = ConfigRecord(answers(replies))
        state[f"errors{turn}"] = ConfigRecord(errors(replies))
    """
    context = run_local(make(server, DYING.replace("END", end)), {}, clients=5, workers=2)
    assert found(context, "answers0") == dict.fromkeys("01234", 1)
    assert found(context, "answers1") == {"0": 2, "1": 2, "3": 2, "4": 1}
    assert found(context, "answers2") == {"0": 1, "1": 3, "2": 1, "3": 3, "4": 2}
    assert found(context, "errors1") == {str(make_node_ids(5)[2]): ["8", f"its worker process ended with exit code {code}"]}
    assert "what clients [0, 2, 4] kept in their context is lost" in caplog.text


@ENGINES
def test_what_a_client_or_the_server_changes_no_other_sees(make: Make, workers: int) -> None:
    client = """
    @app.train()
    def train(message, context):
        content = message.content
        total = float(content["arrays"]["w"].numpy().sum()) + sum(content["config"]["list"]) + len(content)
        content["arrays"]["w"].data = Array(np.full(3, 100.0)).data
        content["arrays"]["more"] = Array(np.ones(1))
        content["config"]["list"].append(1000)
        content["extra"] = MetricRecord({"x": 1})
        message.metadata.group_id = "changed"
        context.state["kept"] = context.state.get("kept") or MetricRecord({"values": [total]})
        reply = say(message, context, total)
        reply.content["kept"] = context.state["kept"]
        return reply
    """
    server = """
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.ones(3))}), "config": ConfigRecord({"list": [5]})})
    content["arrays"].object_id
    messages = [Message(content, node, "train", group_id="g") for node in grid.get_node_ids()]
    ids = list(grid.push_messages(messages))
    content["config"]["list"].append(7)
    content["arrays"]["w"] = Array(np.zeros(3))
    replies = []
    while len(replies) < len(ids):
        replies += grid.pull_messages(ids)
        time.sleep(0.01)
    state["totals"] = ConfigRecord(answers(replies))
    state["own"] = ConfigRecord({"list": content["config"]["list"], "keys": list(content["arrays"]), "records": list(content)})
    for reply in replies:
        assert reply.metadata.group_id in ("g", "changed")
        reply.content["kept"]["values"].append(-1.0)
    assert all(message.metadata.group_id == "g" for message in messages)
    again = [Message(content, node, "train") for node in grid.get_node_ids()]
    state["kept"] = ConfigRecord({"lengths": [len(reply.content["kept"]["values"]) for reply in grid.send_and_receive(again)]})
    """
    context = run_local(make(server, client), {}, clients=4, workers=workers)
    assert found(context, "totals") == dict.fromkeys("0123", 3.0 + 5 + 2)
    assert found(context, "own") == {"list": [5, 7], "keys": ["w"], "records": ["arrays", "config"]}
    assert found(context, "kept") == {"lengths": [1, 1, 1, 1]}


@ENGINES
def test_messages_that_cannot_be_answered(make: Make, workers: int) -> None:
    server = """
    node = sorted(grid.get_node_ids())[0]
    replies = ask(grid, nodes=[node, 12345])
    state["unknown"] = ConfigRecord(errors(replies))
    state["known"] = ConfigRecord(answers(replies))
    late = Message(RecordDict(), node, "train", ttl=0.001)
    time.sleep(0.01)
    state["late"] = ConfigRecord(errors(grid.send_and_receive([late])))
    state["action"] = ConfigRecord(errors(ask(grid, "train.nothing", nodes=[node])))
    refused = 0
    for bad in (replies[0], replies[1]):
        try:
            grid.push_messages([bad])
        except ValueError:
            refused += 1
    state["refused"] = ConfigRecord({"times": refused, "nothing": list(grid.send_and_receive([])) == []})
    """
    context = run_local(make(server, COUNTING), {}, clients=2, workers=workers)
    node = min(make_node_ids(2))
    assert found(context, "unknown") == {"12345": ["5", "no client has the node id 12345"]}
    assert list(found(context, "known").values()) == [1]
    assert found(context, "late")[str(node)][0] == "3"
    assert "No train function registered with name 'nothing'" in found(context, "action")[str(node)][1]
    assert found(context, "refused") == {"times": 2, "nothing": True}


WAITING = """
@app.train()
def train(message, context):
    while context.node_config["partition-id"] == 1 and message.content["config"].get("wait") and not os.path.exists("GO"):
        time.sleep(0.01)
    return say(message, context, 1)
"""
BEFORE_1 = {str(index) for index, node in enumerate(make_node_ids(4)) if index == 3 and node < make_node_ids(4)[1]}


@pytest.mark.processes
def test_late_replies_are_left_out_and_do_not_come_back_later(make: Make, tmp_path: Path) -> None:
    server = """
    ask(grid)
    begun = time.monotonic()
    state["first"] = ConfigRecord(answers(ask(grid, timeout=3.0, wait=True)))
    state["took"] = ConfigRecord({"seconds": time.monotonic() - begun})
    open("GO", "w").close()
    state["second"] = ConfigRecord(answers(ask(grid, wait=True)))
    """
    go = str(tmp_path / "go")
    context = run_local(make(server.replace("GO", go), WAITING.replace("GO", go)), {}, clients=4, workers=2)
    assert set(found(context, "first")) == {"0", "2"} | BEFORE_1
    assert found(context, "took")["seconds"] >= 3.0
    assert found(context, "second") == dict.fromkeys("0123", 1)


@pytest.mark.processes
def test_a_worker_that_never_comes_back_is_replaced_after_a_second_time_limit(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server = """
    ask(grid)
    for turn, wait in enumerate([True, False, False]):
        replies = ask(grid, timeout=3.0 if turn < 2 else 120.0, wait=wait)
        state[f"answers{turn}"] = ConfigRecord(answers(replies))
    """
    context = run_local(make(server, WAITING), {}, clients=4, workers=2)
    assert set(found(context, "answers0")) == {"0", "2"} | BEFORE_1
    assert set(found(context, "answers1")) == {"0", "2"}
    assert set(found(context, "answers2")) == {"0", "1", "2", "3"}
    assert "client 1 did not end within a second time limit" in caplog.text


def test_in_process_the_time_limit_stops_the_next_client(make: Make) -> None:
    client = """
    @app.train()
    def train(message, context):
        if message.content["config"].get("wait"):
            time.sleep(4.0)
        seen = context.state.get("seen") or MetricRecord({"times": 0})
        context.state["seen"] = seen
        seen["times"] += 1
        return say(message, context, seen["times"])
    """
    server = """
    state["first"] = ConfigRecord(answers(ask(grid, timeout=3.0, wait=True)))
    state["none"] = ConfigRecord(answers(ask(grid, timeout=0.0)))
    state["second"] = ConfigRecord(answers(ask(grid, timeout=300.0)))
    """
    context = run_local(make(server, client), {}, clients=4, workers=1)
    assert found(context, "first") == {}
    assert found(context, "none") == {}
    assert sorted(found(context, "second").values()) == [1, 1, 1, 2]


@ENGINES
def test_ticks_of_clients_reach_the_listener_of_the_caller(make: Make, workers: int) -> None:
    client = """
    from fedwarm.core.progress import tick
    @app.train()
    def train(message, context):
        for step in range(1, 4):
            tick("fit", step, 3, "going")
        return say(message, context, 1)
    """
    server = """
    from fedwarm.core.progress import tick
    tick("server", 1, 1)
    ask(grid)
    """
    seen: list[progress.Tick] = []
    with progress.listening(seen.append):
        run_local(make(server, client), {}, clients=3, workers=workers)
    assert progress.Tick("server", "server", 1, 1) in seen
    for index in range(3):
        steps = [tick.step for tick in seen if tick.who == f"client {index}"]
        assert steps[0] == 1 and steps[-1] == 3
    assert progress.Tick("client 0", "fit", 3, 3, "going") in seen


DRAWING = """
import random
SEEDING
@app.train()
def train(message, context):
    return say(message, context, [float(np.random.rand()), random.random()])
"""


def test_workers_do_not_share_their_random_streams(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = 'state["drawn"] = ConfigRecord(answers(ask(grid)))'
    for seeding in ("np.random.seed(3); random.seed(3)", ""):
        app = make(server, DRAWING.replace("SEEDING", seeding))
        runs = []
        for _ in range(2):
            flower_app.enter(None)
            if seeding:
                monkeypatch.setattr(workers, "_pools", itertools.count())
            runs.append(found(run_local(app, {}, clients=4, workers=2), "drawn"))
        drawn = [number for pair in runs[0].values() for number in pair]
        assert len(set(drawn)) == len(drawn)
        assert (runs[0] == runs[1]) == bool(seeding)


@pytest.mark.processes
def test_a_reply_says_how_long_its_client_worked(make: Make) -> None:
    """Two that work at once took as long each, though the server waits for the first alone."""
    client = """
@app.train()
def train(message, context):
    time.sleep(0.2)
    return say(message, context, 0)
"""
    server = """
sent = [Message(RecordDict({"config": ConfigRecord({})}), node, "train") for node in sorted(grid.get_node_ids())]
took = [reply.took_seconds for reply in grid.stream(sent, 60.0)]
state["took"] = ConfigRecord({"seconds": took})
"""
    context = run_local(make(server, client), {}, clients=2, workers=2)
    seconds = found(context, "took")["seconds"]
    assert len(seconds) == 2 and min(seconds) >= 0.2


def test_workers_have_their_share_of_the_threads(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    client = """
    from threadpoolctl import threadpool_info
    @app.train()
    def train(message, context):
        return say(message, context, [int(os.environ["OMP_NUM_THREADS"]), *[lib["num_threads"] for lib in threadpool_info()]])
    """
    for name in capacity.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(capacity, "cores", lambda: 6)
    monkeypatch.setattr(capacity, "free_bytes", lambda: 10**12)
    app = make('state["threads"] = ConfigRecord(answers(ask(grid)))', client)
    context = run_local(app, {}, clients=3, workers=0)
    assert all(threads[0] == 2 for threads in found(context, "threads").values())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = run_local(app, {}, clients=3, workers=0)
    assert {number for threads in found(context, "threads").values() for number in threads} == {1}


def test_workers_may_also_be_spawned(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "start_method", lambda: "spawn")
    app = make(FEDAVG_SERVER, FEDAVG_CLIENT, rate=0.1)
    spawned, here = (run_local(app, {}, clients=5, workers=workers).state["arrays"] for workers in (2, 1))
    assert spawned == here


def test_workers_compute_with_threads_after_their_caller_did(make: Make) -> None:
    """A notebook's case: torch has computed here with all its threads, and clients are to have two."""
    client = """
    import torch
    @app.train()
    def train(message, context):
        torch.set_num_threads(2)
        return say(message, context, float((torch.ones(300, 300) @ torch.ones(300, 300))[0, 0]))
    """
    app = make('state["sums"] = ConfigRecord(answers(ask(grid, timeout=30)))', client)
    with torch_threads(2):
        torch.ones(300, 300) @ torch.ones(300, 300)
        context = run_local(app, {}, clients=2, workers=2)
    assert found(context, "sums") == {"0": 300.0, "1": 300.0}


def test_a_client_may_start_processes_of_its_own(make: Make) -> None:
    client = """
    from multiprocessing import get_context
    @app.train()
    def train(message, context):
        child = get_context("fork").Process(target=print)
        child.start()
        child.join()
        return say(message, context, child.exitcode)
    """
    context = run_local(make('state["ends"] = ConfigRecord(answers(ask(grid)))', client), {}, clients=2, workers=2)
    assert found(context, "ends") == {"0": 0, "1": 0}


def test_settings_that_make_no_sense_are_refused(make: Make) -> None:
    app = make("pass", "", rounds=1)
    with pytest.raises(SettingError, match=r"unknown setting 'round' \(did you mean rounds\?\)"):
        run_local(app, {"round": 2}, clients=2)
    with pytest.raises(SettingError, match="clients = 0"):
        run_local(app, {}, clients=0)
    with pytest.raises(SettingError, match="workers = -1"):
        run_local(app, {}, clients=1, workers=-1)
    with pytest.raises(SettingError, match="is a ServerApp; the clients' part must be a ClientApp"):
        run_local(FlowerApp(app.server, app.server, {}, app.folder), {}, clients=1)
    with pytest.raises(SettingError, match="is a ClientApp; the server's part must be a ServerApp"):
        run_local(FlowerApp(app.client, app.client, {}, app.folder), {}, clients=2)


def test_what_the_server_raises_comes_out_and_no_process_stays(make: Make) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ZeroDivisionError):
        run_local(make("ask(grid)\n1 / 0", COUNTING), {}, clients=2, workers=2)
    assert set(psutil.Process().children()) <= before


def test_a_closed_terminal_is_the_run_s_alone_to_heed(make: Make) -> None:
    """It tells all processes of its group, and workers are forked with the run's own handler."""
    client = """
    @app.train()
    def train(message, context):
        return say(message, context, signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)
    """
    before = signal.signal(signal.SIGHUP, lambda number, frame: None)
    try:
        context = run_local(make('state["answers"] = ConfigRecord(answers(ask(grid)))', client), {}, clients=2, workers=2)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found(context, "answers") == {"0": True, "1": True}


PROGRAM = """
import signal, sys
from pathlib import Path
from fedwarm.flower.app import FlowerApp
from fedwarm.engines.local.run import run_local
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_local(FlowerApp("test_app_server:app", "test_app_client:app", {}, Path(sys.argv[1])), {}, clients=2, workers=2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signals and processes as Linux has them")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_when_the_run_is_ended_its_busy_workers_end_too(make: Make, tmp_path: Path, sign: signal.Signals) -> None:
    client = """
    @app.train()
    def train(message, context):
        os.write(1, b"busy\\n")  # in one piece, whoever else writes
        time.sleep(600)
    """
    make("ask(grid)", client)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == [b"busy\n", b"busy\n"]
            workers = psutil.Process(process.pid).children()
            assert len(workers) == 2, workers
            begun = time.monotonic()
            if sign is signal.SIGINT:
                os.killpg(process.pid, sign)
            else:
                process.send_signal(sign)
            assert process.wait(timeout=30) != 0
            _, alive = psutil.wait_procs(workers, timeout=30)
            assert not alive
            assert time.monotonic() - begun < 20
        finally:
            process.kill()


def test_the_engine_is_light_to_import() -> None:
    code = "import sys, fedwarm.engines.local.run; assert not {'torch', 'ray', 'diffusers', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
