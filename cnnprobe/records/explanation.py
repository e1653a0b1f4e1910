"""Why a model crashed and what was tried against it, as plain frozen data: no torch, no model.

A `Repair` says what it was tried on; one that was not tried says so and claims nothing.
"""

from dataclasses import dataclass

from cnnprobe.records.trace import TensorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A change that may mend the crash, and what came of trying it on a shadow of the model."""

    title: str  # what to change, as one sentence: "put nn.Flatten() first in 'classifier'"
    code: str = ""  # what to write: "nn.Flatten()"
    # fqn of the module that it changes, "" the root; None: the input, the loss, the loop
    module: str | None = None
    works: bool = False  # it was tried, and what failed passed
    plausible: bool = False  # what came out looks like what the model is for
    # "the forward passes and gives (2, 10); 1,147,466 parameters unchanged"; "": it was not tried
    tried: str = ""
    outputs: tuple[tuple[int, ...], ...] = ()
    parameters: int | None = None  # of the repaired model; None: not counted
    patch: str = ""  # unified diff of the user's file; "" where the line to change is not known

    @property
    def outcome(self) -> str:
        """What came of trying it, and whether it is what is wanted."""
        doubt = (
            "" if self.plausible or not self.works else " (runs, but probably not what you want)"
        )
        return (self.tried or "not tried") + doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The diagnosis of a crash: its name, the module to blame (not always where torch raised), the
    evidence, the repairs.
    """

    diagnosis: str  # kebab-case name of the fault; "unknown" where the cause is not known
    stage: str  # "forward" | "loss" | "backward" | "step"
    module: (
        str | None
    )  # fqn of the module to blame, "" the root, None: no module (the loss, the data, the loop)
    kind: str = ""  # its class name
    raised_in: str = ""  # what raised: "'classifier.0' (Linear)"
    message: str = ""  # what is wrong, in one sentence
    arithmetic: str = ""  # the numbers that show it
    arrived: tuple[TensorInfo, ...] = ()  # what the failing call was given
    origin: str = ""  # which earlier call made it
    source: str = ""  # the user's line, "file.py:12"
    line: str = ""  # and its text
    repairs: tuple[Repair, ...] = ()  # best first
    evidence: tuple[str, ...] = ()  # further observations, in sentences
    error: str = ""  # exception class and torch's own message
    code: str = ""  # of the cause: "CP001"
    family: str = ""  # the wider name of the fault; the diagnosis itself where there is none
