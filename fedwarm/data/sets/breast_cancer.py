"""The embedded table of 569 breast tumours: 30 measures of cell nuclei in a picture, and whether the tumour is malignant.

W. Wolberg, O. Mangasarian, N. Street, W. Street, Breast Cancer Wisconsin (Diagnostic), UCI, 1993, as scikit-learn has it. Its
four sites are planted: rows sorted by mean radius with noise, in equal parts, so that shares of malignant tumours differ.
"""

from __future__ import annotations

import numpy as np

from fedwarm.data.embedded import embedded_table, scikit_file
from fedwarm.data.settings import Data
from fedwarm.data.tables import Table
from fedwarm.settings.registry import component

CLASSES = ("malignant", "benign")
MEASURES = (
    "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points", "symmetry",
    "fractal dimension",
)  # fmt: skip
RADIUS = 0


@component(uses=("data.standardise",), summary="569 breast tumours, 30 measures of cell nuclei each; embedded, at planted sites.")
def breast_cancer(data: Data) -> Table:
    """569 breast tumours with 30 measures of cell nuclei each, malignant or benign, at four planted sites; embedded."""
    values = np.loadtxt(scikit_file("breast_cancer.csv", "data.name = 'breast-cancer'"), delimiter=",", skiprows=1)
    features = [f"{kind} {measure}" for kind in ("mean", "error of", "worst") for measure in MEASURES]
    return embedded_table("breast_cancer", data, values[:, :30], features, values[:, 30].astype(np.int64), RADIUS, CLASSES)


COMPONENT = breast_cancer
