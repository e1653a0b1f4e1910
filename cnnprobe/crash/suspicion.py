"""What the reasoning suspects: a named fault with the candidates against it. Nothing is claimed before it was tried."""

from dataclasses import dataclass

from cnnprobe.crash.edits import Edit

STRONG, USUAL, POSSIBLE, LAST = 3, 2, 1, 0  # how well the evidence singles a candidate out


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
class Suspicion:
    """A fault that the recorded facts point to, and what may mend it."""

    diagnosis: str
    module: str | None
    message: str
    arithmetic: str = ""
    candidates: tuple[Candidate, ...] = ()
    weight: int = USUAL
    evidence: tuple[str, ...] = ()
    needs_proof: bool = False  # it is dropped unless one of its candidates works
    advice: tuple[
        str, ...
    ] = ()  # what mends it but cannot be tried here, as it is for the user to fill in


def candidate(*edits: Edit, weight: int = USUAL) -> Candidate:
    """A candidate of some edits."""
    return Candidate(edits=edits, weight=weight)
