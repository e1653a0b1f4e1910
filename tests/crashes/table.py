"""How a crashing model is written down: `build(fixed)` gives the model and its arguments, sick or
corrected.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Sick:
    """One crash: what it is called, which modules may be blamed, and what the repairs must say."""

    name: str
    build: Callable
    diagnosis: str
    blames: tuple
    repair: str
    on_meta: bool


TABLE: list[Sick] = []


def crashes(diagnosis, *blames, repair, on_meta=True):
    """Register a builder. `blames` are the fqns of which one must be blamed (None: no module)."""

    def register(build):
        TABLE.append(Sick(build.__name__, build, diagnosis, blames, repair, on_meta))
        return build

    return register
