"""Sparse classifiers: which units can go, groups of weights, gates on them, masks that travel, and networks made smaller."""
