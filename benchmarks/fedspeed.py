"""FedSpeed against FedAvg and FedProx on unlike clients, over five seeds, by rounds and by gradients.

    python benchmarks/fedspeed.py                                                        # digits, 10 clients, Dirichlet 0.1
    python benchmarks/fedspeed.py --data path/to/cifar10 --model resnet8 --clients 20 --fraction 0.25 --examples 500 --rounds 40

All send as much up, and take part as often. FedSpeed takes two gradients a step, so FedAvg and FedProx with twice the epochs,
which take as many, stand beside those with as many epochs; without ascent FedSpeed's own share of the gain is seen. In memory,
the server keeps the mean of all clients' drifts, as in the authors' code, and those that take part do not send theirs. Clients
begin with random weights, or with those of `--weights`. Every arm has the step size of the grid that suits it best at another
seed.
"""

from __future__ import annotations

from paired import Arm, accuracy, bench, parser, table

from fedwarm.settings.fields import Value

COMMON: dict[str, Value] = {"momentum": 0.0, "data.image-size": 16, "data.partition": "dirichlet"}


def main() -> None:
    options = parser(__doc__, 10, 40)
    options.add_argument("--model", default="cnn")
    options.add_argument("--weights", default="", help="safetensors file of the first weights")
    options.add_argument("--alpha", type=float, default=0.1)
    options.add_argument("--fraction", type=float, default=0.5, help="share of the clients in a round")
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--rates", nargs="+", type=float, default=[0.03, 0.1, 0.3])
    options.add_argument("--mu", type=float, default=0.1, help="weight of FedProx's term and of FedSpeed's")
    given = options.parse_args()
    once: dict[str, Value] = {"local-epochs": given.epochs}
    twice: dict[str, Value] = {"local-epochs": 2 * given.epochs}
    prox, speed = {"fedprox.mu": given.mu}, {"fedspeed.penalty": given.mu}
    settings: dict[str, Value] = {
        **COMMON, "model.name": given.model, "model.weights": given.weights, "data.alpha": given.alpha,
        "fraction-train": given.fraction,
    }  # fmt: skip
    arms = [
        Arm("fedavg", "fedavg", once),
        Arm("fedprox", "fedprox", {**once, **prox}),
        Arm("fedavg twice the epochs", "fedavg", twice),
        Arm("fedprox twice the epochs", "fedprox", {**twice, **prox}),
        Arm("fedspeed", "fedspeed", {**once, **speed}),
        Arm("fedspeed in memory", "fedspeed", {**once, **speed, "fedspeed.server": "memory"}),
        Arm("fedspeed without ascent", "fedspeed", {**once, **speed, "fedspeed.rho": 0.0}),
    ]
    made = bench(given, "fedspeed", settings)
    chosen = [made.tuned(arm, given.rates, accuracy) for arm in arms]
    print("\n" + table(made.all(chosen, given.seeds), {"accuracy, %": accuracy}))


if __name__ == "__main__":
    main()
