"""What a cause suspects, and the candidates against it. Nothing is claimed before it was tried."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.outside import Advice

if TYPE_CHECKING:
    from cnnprobe.crash.cause import Cause

STRONG, USUAL, POSSIBLE, LAST = 3, 2, 1, 0  # how well the evidence singles it out
FALLBACK = -1  # of the causes that say what is known where no other applies


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One or more edits that may mend the crash together."""

    edits: tuple[Edit, ...]
    weight: int = USUAL
    summary: str = ""  # what the edits come to, where there are many

    @property
    def title(self) -> str:
        """What to change, in words."""
        return self.summary or ", and ".join(edit.title for edit in self.edits)


Candidates = Iterator[Candidate]


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A place that a cause blames, with the numbers that show it and what may mend it."""

    message: str  # what is wrong, in one sentence
    module: str | None = None  # fqn, "" the root; None: the loss, the data, the loop
    arithmetic: str = ""  # the numbers that show it
    candidates: tuple[Candidate, ...] = ()
    weight: int = STRONG
    evidence: tuple[str, ...] = ()  # further observations, in sentences
    needs_proof: bool = False  # it is dropped unless one of its candidates works
    advice: tuple[str, ...] = ()  # shown untried where no candidate gives a plausible output
    tensors: tuple[Tensor, ...] = ()  # outside of the forward: what the failing call was given
    raised_in: str = ""  # outside of the forward: what raised
    cause: "Cause | None" = None  # filled in by the engine


def propose(*edits: Edit, weight: int = USUAL) -> Candidate:
    """A candidate of some edits."""
    return Candidate(edits=edits, weight=weight)


def blame(
    module: str | None,
    message: str,
    *candidates: Candidate | Edit | str | None,
    arithmetic: str = "",
    weight: int = STRONG,
    evidence: tuple[str, ...] = (),
    needs_proof: bool = False,
    advice: tuple[str, ...] = (),
    tensors: tuple[Tensor, ...] = (),
    raised_in: str = "",
) -> Suspect:
    """A suspect. An edit by itself is a strong candidate, a text is advice; None is left out."""
    given = (propose(Advice(title=c)) if isinstance(c, str) else c for c in candidates)
    found = (propose(c, weight=STRONG) if isinstance(c, Edit) else c for c in given)
    return Suspect(
        module=module,
        message=message,
        candidates=tuple(c for c in found if c is not None),
        arithmetic=arithmetic,
        weight=weight,
        evidence=evidence,
        needs_proof=needs_proof,
        advice=advice,
        tensors=tensors,
        raised_in=raised_in,
    )
