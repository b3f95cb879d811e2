"""The work of `head_to_head.py` as an app of Flower's, as its quick start writes one; `folder` in its settings has the work."""

from __future__ import annotations

from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from rivals import FOUND, accuracy, cnn, floats, work
from torch.nn.functional import cross_entropy

server = ServerApp()
client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Two epochs on a client's images."""
    job = work(str(context.run_config["folder"]))
    device, model = torch.device(job["device"]), cnn()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    model.to(device)
    images, labels = (t.to(device) for t in job["train"][int(context.node_config["partition-id"])])
    optimiser = torch.optim.SGD(model.parameters(), job["rate"], job["momentum"])
    for _ in range(job["epochs"]):
        for rows in torch.randperm(len(labels)).to(device).split(job["batch"]):
            optimiser.zero_grad()
            cross_entropy(model(floats(images[rows])), labels[rows]).backward()
            optimiser.step()
    records = {"arrays": ArrayRecord(model.cpu().state_dict()), "metrics": MetricRecord({"num-examples": len(labels)})}
    return Message(RecordDict(records), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """The rounds; the server measures after each."""
    folder = str(context.run_config["folder"])
    job = work(folder)
    nodes, last = len(job["train"]), [0.0]

    def measured(number: int, arrays: ArrayRecord) -> MetricRecord:
        net = cnn()
        net.load_state_dict(arrays.to_torch_state_dict())
        last[0] = accuracy(net.to(job["device"]), *job["test"]) if number else 0.0
        return MetricRecord({"accuracy": last[0]})

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    strategy.start(grid, ArrayRecord(job["state"]), num_rounds=job["rounds"], evaluate_fn=measured)
    (Path(folder) / FOUND).write_text(str(last[0]))
