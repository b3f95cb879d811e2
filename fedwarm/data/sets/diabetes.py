"""The embedded table of 442 diabetes patients: ten measures, and how far the disease went on within a year.

B. Efron, T. Hastie, I. Johnstone, R. Tibshirani, "Least Angle Regression", Annals of Statistics 32, 2004, as scikit-learn has it.
Its four sites are planted: rows sorted by age with noise, in equal parts. A task of classes gets three: the measure's thirds.
"""

from __future__ import annotations

import numpy as np

from fedwarm.data.embedded import embedded_table, scikit_file
from fedwarm.data.settings import CLASSES, Data
from fedwarm.data.tables import Table
from fedwarm.settings.registry import component

FEATURES = ("age", "sex", "body mass index", "blood pressure", "s1", "s2", "s3", "s4", "s5", "s6")
THIRDS = ("slow", "middle", "fast")
AGE = 0


@component(uses=("data.standardise",), summary="442 diabetes patients, ten measures each; embedded, at planted sites.")
def diabetes(data: Data) -> Table:
    """442 diabetes patients, ten measures each, and the disease's progress in a year, at four planted sites; embedded."""
    values = np.loadtxt(scikit_file("diabetes_data_raw.csv.gz", "data.name = 'diabetes'"))
    progress = np.loadtxt(scikit_file("diabetes_target.csv.gz", "data.name = 'diabetes'"))
    if data.targets != CLASSES:
        return embedded_table("diabetes", data, values, FEATURES, progress, AGE, ("progress",))
    third = np.searchsorted(np.quantile(progress, (1 / 3, 2 / 3)), progress, side="right")
    return embedded_table("diabetes", data, values, FEATURES, third, AGE, THIRDS)


COMPONENT = diabetes
