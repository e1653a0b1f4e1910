"""Healthy set-ups: every file of this folder adds to `DESIGNS`."""

import importlib
import pkgutil

from bench.design import DESIGNS

__all__ = ["DESIGNS"]

for found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{found.name}")
