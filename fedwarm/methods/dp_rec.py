"""DP-REC: Triastcyn, Reisser, Louizos, "DP-REC: Private & Communication-Efficient Federated Learning", arXiv 2111.05454, 2021.

Its own defaults are those of a run that learns: noise counts by the clients that share it and by the numbers of an update, so
there are many clients, a server that keeps seeds secret, and a classifier of few parameters. Chosen at seeds 101 to 103.
"""

from fedwarm.codecs.dp_rec.reach import of_method
from fedwarm.codecs.dp_rec.settings import DpRec, fixed_rounds, validated
from fedwarm.methods import Method

COMPONENT = Method(
    "DpRec",
    "differentially private updates as a few bits of shared random code (Triastcyn et al., 2021)",
    DpRec,
    averages=False,
    does=lambda run: {"averages": False},
    hides=True,
    fixed_rounds=fixed_rounds,
    validate=lambda config: validated(config.of(DpRec)),
    refuses={"codec": "codes its updates itself"},
    defaults=lambda get: {
        "dp-rec.noise-multiplier": 5.7,
        "dp-rec.clip": 0.75,
        "learning-rate": 0.2,
        "model.name": "edges",
        **(
            {}
            if get("dp-rec.downlink") == "replay" or get("dp-rec.adjacency") == "replacement"
            else {"dp-rec.view": "central_certified"}
        ),
    },
    clients=200,
    reach=of_method,
)
