"""The work of `head_to_head.py` written for other libraries, as their own examples write it, without a line of this project.

python rivals.py pfl|fluke FOLDER    # FOLDER holds work.pt; the accuracy stands in found.txt afterwards
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

WORK, FOUND = "work.pt", "found.txt"


@lru_cache(maxsize=1)
def work(folder: str) -> dict[str, Any]:
    """What is to be done: `train` [(images uint8 (n, 3, 32, 32), labels)], `test` (the same of all), `state`, numbers, ..."""
    found: dict[str, Any] = torch.load(Path(folder) / WORK, weights_only=True)
    return found


def cnn() -> nn.Sequential:
    """Two convolutions and a linear layer, 34,538 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2048, 10),
    )  # fmt: skip


def floats(images: Tensor) -> Tensor:
    return (images.float() - 127.5) / 127.5


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    device = next(model.parameters()).device
    parts = zip(images.to(device).split(512), labels.to(device).split(512), strict=True)
    return sum(int((model(floats(x)).argmax(1) == y).sum()) for x, y in parts) / len(labels)


# pfl-research


class PflModel(nn.Module):
    """The network with the two methods that pfl asks for; it is given floats."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = cnn()
        self.net.load_state_dict(state)

    def loss(self, x: Tensor, y: Tensor, is_eval: bool = False) -> Tensor:
        self.train(not is_eval)
        return cross_entropy(self.net(x), y.long())  # pfl hands on floats

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor, is_eval: bool = True) -> dict[str, Any]:
        from pfl.metrics import Weighted

        self.eval()
        return {"accuracy": Weighted(int((self.net(x).argmax(1) == y.long()).sum()), len(y))}


def pfl(folder: str) -> float:
    """FedAvg by pfl-research's simulated backend in this process; users are not evaluated on, the test images once a round."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.central_evaluation import CentralEvaluationCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import MinimizeReuseUserSampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    job = work(folder)
    users = {i: [floats(x).numpy(), y.numpy()] for i, (x, y) in enumerate(job["train"])}
    data = FederatedDataset.from_slices(users, MinimizeReuseUserSampler(list(users)))
    tests = Dataset([floats(job["test"][0]).numpy(), job["test"][1].numpy()], eval_kwargs={"is_eval": True})
    module = PflModel(job["state"])

    def local(parameters: Any, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr, job["momentum"])

    model = PyTorchModel(module, local, torch.optim.SGD(module.parameters(), 1.0))
    rounds, clients = job["rounds"], len(users)
    FederatedAveraging().run(
        NNAlgorithmParams(rounds, rounds + 1, clients, None),
        SimulatedBackend(training_data=data, val_data=data),
        model,
        NNTrainHyperParams(job["batch"], job["epochs"], job["rate"]),
        NNEvalHyperParams(512),
        [CentralEvaluationCallback(tests, NNEvalHyperParams(512))],
    )
    return accuracy(module.net, *job["test"])


# fluke


def fluke(folder: str) -> float:
    """FedAvg by fluke in this process, its server's test images measured once a round."""
    from fluke import DDict, FlukeENV
    from fluke.algorithms.fedavg import FedAVG
    from fluke.data import DataSplitter, DummyDataContainer, FastDataLoader
    from fluke.evaluation import ClassificationEval

    job = work(folder)
    batch = job["batch"]
    loaders = [FastDataLoader(floats(x), y, num_labels=10, batch_size=batch, shuffle=True) for x, y in job["train"]]
    tests = FastDataLoader(floats(job["test"][0]), job["test"][1], num_labels=10, batch_size=512)
    model = cnn()
    model.load_state_dict(job["state"])
    settings = DDict(
        {
            "client": {
                "batch_size": batch, "local_epochs": job["epochs"], "loss": nn.CrossEntropyLoss,
                "optimizer": {"name": "SGD", "lr": job["rate"], "momentum": job["momentum"]},
                "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1},
                "persistency": False,  # else a client's momentum goes on from round to round, which no other library's does
            },
            "server": {"weighted": True},
            "model": model,
        }
    )  # fmt: skip
    FlukeENV().set_evaluator(ClassificationEval(eval_every=1, n_classes=10))
    FlukeENV().set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=True)
    clients = len(loaders)
    splitter = DataSplitter(DummyDataContainer(loaders, [None] * clients, tests, 10))
    algorithm = FedAVG(clients, splitter, settings)
    algorithm.run(job["rounds"], 1.0)
    return accuracy(algorithm.server.model, *job["test"])


def main() -> None:
    """Do the work that the command line names."""
    name, folder = sys.argv[1:3]
    (Path(folder) / FOUND).write_text(str({"pfl": pfl, "fluke": fluke}[name](folder)))


if __name__ == "__main__":
    main()
