"""What came of a fix that was tried: the sentence, the verdict, and the losses with and without it.
No torch here.
"""

import enum
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """What a trial showed of a fix.

    >>> Verdict.PROVEN.rank < Verdict.UNTRIED.rank < Verdict.USELESS.rank
    True
    """

    PROVEN = "proven"  # what the rule judges is mended, or the loss falls further
    UNTRIED = "untried"  # there was no way, or no budget, to try it
    USELESS = "useless"  # it changes nothing
    WORSE = "worse"  # something else breaks
    FAILED = "failed"  # it raises

    @property
    def rank(self) -> int:
        """The place among findings that are equal otherwise: the proven first, then those nobody
        knows of.
        """
        return {"proven": 0, "untried": 1}.get(self.value, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One fix and what came of it."""

    title: str  # what was changed: "call optimizer.zero_grad() before each step"
    verdict: Verdict
    said: str = ""  # what was seen: "after 20 steps the loss is 0.41; as it is, 2.3"
    losses: tuple[float, ...] = ()  # of the steps with it
    as_it_is: tuple[float, ...] = ()  # of the same steps without it
    own_step: bool = False  # the steps are those of the user's train_step
    clears: tuple[str, ...] = ()  # rules that find nothing any more
    patch: str = ""  # the unified diff that makes it, where its line is known
    tidies: bool = False  # it changes no number: left out of the patch of a report

    @property
    def sentence(self) -> str:
        """How a report shows it."""
        if self.verdict is Verdict.PROVEN:
            return f"tried: {self.said}"
        if self.verdict is Verdict.UNTRIED:
            return f"not tried: {self.said}"
        return f"tried: {self.title}: {self.said}"
