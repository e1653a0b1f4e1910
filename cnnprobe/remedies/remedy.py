"""What a remedy is, and how the remedies of a rule are found."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.remedies.program import UserProgram
from cnnprobe.remedies.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One change of model, loss, optimizer, loop or data that answers a finding."""

    title: str  # what to change, in the user's own names
    change: Callable[[Subject], None]  # makes it; what it changes is put back by the trials
    # what is seen where it helps: "every sample depends on its own input alone"; "": the loss
    shows: str = ""
    by_loss: bool = False  # the loss alone judges; else the rule does, by a second observation
    is_comparable: bool = True  # the loss with it measures the same as the loss without it
    # what the loss has to be at the end, beside the rule's word: "lower", "other", "moved" (not
    # the same to the digit); "": anything
    loss_ends: str = ""
    is_meant: bool = False  # what the user's own line asks for in vain, whatever the loss does
    tidies: bool = False  # it takes away what has no effect, and mends no number
    lays_bare: tuple[str, ...] = ()  # rules whose finding the fault hid, which is no new fault
    is_everywhere: bool = False  # for several findings of a rule: one change of all places
    written: Callable[[], list[TextChange]] | None = (
        None  # how the user's file changes, where known
    )
    # the same, for what is found in the user's step or where the optimizer is made
    edited: Callable[[UserProgram], list[TextChange]] | None = None

    def write(self, program: UserProgram) -> list[TextChange]:
        """The changes of the user's files.

        Raises:
            UnknownPlaceError: the lines to change are not known for certain.
        """
        if self.written is not None:
            return self.written()
        if self.edited is not None:
            return self.edited(program)
        raise UnknownPlaceError


Source = Callable[[Finding, Evidence, Any], Iterable[Remedy]]
_SOURCES: dict[str, Source] = {}


def answers(*rules: str) -> Callable[[Source], Source]:
    """Make a function the source of remedies for the findings of some rules, the likeliest
    first.
    """

    def decorate(source: Source) -> Source:
        for rule in rules:
            _SOURCES[rule] = source
        return source

    return decorate


def all_sources() -> dict[str, Source]:
    """The sources of remedies, by rule.

    >>> "no-zero-grad" in all_sources()
    True
    """
    from cnnprobe.remedies import kinds

    for found in pkgutil.iter_modules(kinds.__path__):
        importlib.import_module(f"{kinds.__name__}.{found.name}")
    return _SOURCES


def list_remedies(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """What can be tried against a finding, the likeliest first; nothing where its fix is advice."""
    source = all_sources().get(finding.rule)
    if source is not None:
        yield from source(finding, evidence, model)
