"""IFCA's server: each model becomes the mean over those who trained it (arXiv 2006.04088, Alg. 1)."""

from __future__ import annotations

from fedwarm.methods.ifca import Ifca as Settings
from fedwarm.rounds.experts import Experts


class Ifca(Experts):
    """All models go to everyone, one comes back."""

    method = "ifca"

    @property
    def count(self) -> int:
        return self.config.of(Settings).clusters
