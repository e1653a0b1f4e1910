"""Silent faults: every file of this folder adds to `CASES`."""

import importlib
import pkgutil

from bench.case import CASES

__all__ = ["CASES"]

for found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{found.name}")
