"""SCAFFOLD-M's server: SCAFFOLD's, which tells the direction of the round before, too."""

from fedwarm.methods.scaffold import Scaffold as Plain
from fedwarm.methods.scaffold_m import ScaffoldM as Settings

from .fedavg_m import Directed
from .scaffold import Scaffold


class ScaffoldM(Directed, Scaffold):
    """SCAFFOLD with equal weights and the step 1 along the mean update (arXiv 2306.16504, Alg. 2)."""

    method = "scaffold_m"
    mixture = Settings

    @property
    def settings(self) -> Plain:
        return Plain()
