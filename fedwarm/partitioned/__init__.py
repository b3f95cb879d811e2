"""Partitions of a network's weights, and hyperparameters that are learned by the loss of a part on data that it has not seen."""
