"""DP-REC: Triastcyn, Reisser, Louizos, "DP-REC: Private & Communication-Efficient Federated Learning", arXiv 2111.05454, 2021."""

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
)
