"""The verdicts of the causes outside the forward, until each is a cause of its own."""

from dataclasses import dataclass

from torch import Tensor

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.losses import differentiated
from cnnprobe.crash.facts.words import read_line
from cnnprobe.explanation import Explanation, Repair
from cnnprobe.recorder.inventory import class_of
from cnnprobe.recorder.values import describe_tensor

__all__ = ["Crash", "Verdict", "differentiated", "told"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came out of the reasoning about a loss, a backward or a step."""

    diagnosis: str
    message: str
    module: str | None = None
    arithmetic: str = ""
    repairs: tuple[Repair, ...] = ()
    evidence: tuple[str, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    raised_in: str = ""


def told(crash: Crash, stage: str, verdict: Verdict) -> Explanation:
    """The explanation of a verdict."""
    module = crash.modules.get(verdict.module) if verdict.module is not None else None
    return Explanation(
        diagnosis=verdict.diagnosis,
        stage=stage,
        module=verdict.module,
        kind=class_of(module).__name__ if module is not None else "",
        raised_in=verdict.raised_in,
        message=verdict.message,
        arithmetic=verdict.arithmetic,
        arrived=tuple(describe_tensor(t, "", None) for t in verdict.tensors),
        source=crash.source,
        line=read_line(crash.source),
        repairs=verdict.repairs,
        evidence=verdict.evidence,
        error=f"{type(crash.error).__name__}: {crash.error}",
    )
