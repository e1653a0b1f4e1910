"""An option, an argument, a buffer or a skip connection that nothing reads."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import complete, spoken
from cnnprobe.diagnosis.evidence.texts import UnreadName
from cnnprobe.rulebook.material import classifying, images


def _net(block: Any) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return classifying(
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), block(8), block(8),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        ),
        inputs=images(),
    )  # fmt: skip


def sick() -> Mapping[str, Any]:
    """A block that keeps `use_skip` and adds no skip."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels: int, use_skip: bool = True) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
            self.use_skip = use_skip

        def forward(self, x: Any) -> Any:
            return self.conv(x).relu()

    return _net(Block)


def healthy() -> Mapping[str, Any]:
    """It is added where the option says so."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels: int, use_skip: bool = True) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
            self.use_skip = use_skip

        def forward(self, x: Any) -> Any:
            made = self.conv(x).relu()
            return made + x if self.use_skip else made

    return _net(Block)


@rule(
    code="CP322",
    name="unread-name",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "constant-targets",
        "ignored-input",
        "constant-output",
        "vanishing-gradient",
        "vanishing-activation",
    ),
)
def unread_name(evidence: Evidence) -> Iterator[Finding]:
    """An option of a constructor, an argument of a forward or a buffer that nothing reads, or an
    input that a forward keeps as `residual`, `identity` or `skip` and never adds.

    Why it matters: the skip, the dropout, the mask or the normalisation that it stands for is not
    in the network, and the code reads as if it were.
    What to do: use it where it was meant, or remove it.
    Known exceptions: names that begin with an underscore, a switch that is off, and a default that
    says nothing of what is missing; a skip that the caller adds. An option whose effect the class
    has without it is info.
    Source: the text of the user's classes, and what their forwards are given; He et al. 2016,
    arXiv:1512.03385, section 3.2, on what a block without its shortcut is.
    """
    if not complete(evidence):
        return
    for found in evidence.texts.unread:
        if found.kind in _SAID:
            yield Finding(
                module=found.module,
                severity=Severity.INFO if found.is_present else None,
                message=_SAID[found.kind](evidence, found),
                fix=_FIXES[found.kind](evidence, found),
                source=found.source,
                kind=found.kind,
                subject=found.name,
            )


def _say_option(evidence: Evidence, found: UnreadName) -> str:
    return (
        f"{found.function} takes {found.name}, and nothing reads it: "
        f"{found.name}={found.value} of {spoken(evidence, found.module)} has no effect"
    )


def _say_argument(evidence: Evidence, found: UnreadName) -> str:
    return (
        f"{found.function} is given {found.name}, {found.value}, and its text never reads it: it "
        f"changes nothing in {spoken(evidence, found.module) if found.module else 'the step'}"
    )


def _say_buffer(evidence: Evidence, found: UnreadName) -> str:
    return (
        f"{spoken(evidence, found.module)} registers the buffer {found.name}, {found.value}, and "
        "nothing reads it"
    )


def _say_skip(evidence: Evidence, found: UnreadName) -> str:
    return (
        f"{found.function} keeps its input as {found.name}, and nothing reads it: "
        f"{spoken(evidence, found.module)} has no skip connection"
    )


def _use_skip(_evidence: Evidence, found: UnreadName) -> str:
    return f"add it to what {found.function} returns: + {found.name}; or remove the line"


def _use_option(_evidence: Evidence, found: UnreadName) -> str:
    forward = found.function.replace("__init__", "forward")
    return f"build or apply what {found.name} asks for in {forward}, or remove the option"


def _use_argument(_evidence: Evidence, found: UnreadName) -> str:
    return f"apply {found.name} in {found.function}, or do not pass it"


def _use_buffer(_evidence: Evidence, found: UnreadName) -> str:
    forward = found.function.replace("__init__", "forward")
    return f"apply self.{found.name} in {forward}, or remove the buffer"


_SAID = {"option": _say_option, "argument": _say_argument, "buffer": _say_buffer, "skip": _say_skip}
_FIXES = {
    "option": _use_option,
    "argument": _use_argument,
    "buffer": _use_buffer,
    "skip": _use_skip,
}
