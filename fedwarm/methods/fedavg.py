"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv 1602.05629."""

from fedwarm.methods import Method

COMPONENT = Method("FedAvg", "weighted average of locally trained weights (McMahan et al., 2017)", stacks=True)
