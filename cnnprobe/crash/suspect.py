"""What a cause suspects, and the candidates against it. Nothing is claimed before it was tried."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from cnnprobe.crash.edits.edit import Edit

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


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A place that a cause blames, with the numbers that show it and what may mend it."""

    module: str | None  # fqn, "" the root; None: the loss, the data, the loop
    message: str  # what is wrong, in one sentence
    arithmetic: str = ""  # the numbers that show it
    candidates: tuple[Candidate, ...] = ()
    weight: int = USUAL
    evidence: tuple[str, ...] = ()  # further observations, in sentences
    needs_proof: bool = False  # it is dropped unless one of its candidates works
    advice: tuple[str, ...] = ()  # shown untried where no candidate gives a plausible output
    tensors: tuple[Tensor, ...] = ()  # outside of the forward: what the failing call was given
    raised_in: str = ""  # outside of the forward: what raised
    cause: "Cause | None" = None  # filled in by the engine


def propose(*edits: Edit, weight: int = USUAL) -> Candidate:
    """A candidate of some edits."""
    return Candidate(edits=edits, weight=weight)
