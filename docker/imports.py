"""Import every module of fedwarm: what was left out of the image must be nothing that one of them needs."""

import importlib
import pkgutil

import fedwarm

names = [module.name for module in pkgutil.walk_packages(fedwarm.__path__, "fedwarm.")]
for name in names:
    importlib.import_module(name)
print(f"{len(names)} modules of fedwarm {fedwarm.__version__} are imported")
