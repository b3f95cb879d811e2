"""Import every module of fedwarm, and what they import late: what was left out of the image must be needed by none of them."""

import importlib
import pkgutil

import fedwarm

LATE = ("pyarrow.parquet", "pandas", "datasets", "flwr_datasets", "sklearn.datasets", "PIL.Image", "opacus", "peft", "diffusers")
names = [module.name for module in pkgutil.walk_packages(fedwarm.__path__, "fedwarm.")]
for name in (*names, *LATE):
    importlib.import_module(name)
print(f"{len(names)} modules of fedwarm {fedwarm.__version__} are imported")
