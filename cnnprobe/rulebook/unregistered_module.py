"""Layers in a plain Python list."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, Hidden, describe
from cnnprobe.diagnosis.evidence.containers import write_container
from cnnprobe.diagnosis.evidence.questions import spoken, traces
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying

INIT = "torch.nn.init."  # a layer's __init__ draws its weights by these


def _net(registered: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            blocks = [nn.Linear(64, 32), nn.Linear(32, 32)]
            self.blocks = nn.ModuleList(blocks) if registered else blocks
            self.head = nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = x.flatten(1)
            for block in self.blocks:
                x = torch.relu(block(x))
            return self.head(x)

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """`self.blocks = [Linear, Linear]`."""
    return _net(registered=False)


def healthy() -> Mapping[str, Any]:
    """`self.blocks = nn.ModuleList([Linear, Linear])`."""
    return _net(registered=True)


@rule(
    code="CP301",
    name="unregistered-module",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "unregistered-parameter",
        "unoptimized-params",
        "cannot-overfit",
        "batch-leak",
        "eval-nondeterminism",
        "train-eval-gap",
    ),
)
def unregistered_module(evidence: Evidence) -> Iterator[Finding]:
    """The forward uses a layer that the model does not know: it sits in a list, tuple or dict, or
    is made in the forward itself.

    Why it matters: its parameters are not in parameters() and are never trained; .to(device),
    .eval() and state_dict() pass it by.
    What to do: use nn.ModuleList or nn.ModuleDict, and make every layer in __init__.
    Known exceptions: a hidden module whose parameters are all frozen (a perceptual loss, a teacher)
    may be hidden on purpose.
    Source: torch.nn.ModuleList, "modules it contains are properly registered, and will be visible
    by all Module methods".
    """
    groups: dict[tuple[str, str], list[Hidden]] = {}
    for hidden in evidence.hidden:
        if hidden.kind == "module" and hidden.used and hidden.trainable:
            groups.setdefault((hidden.owner, hidden.name.partition("[")[0]), []).append(hidden)
    for (place, attribute), members in groups.items():
        kinds = ", ".join(dict.fromkeys(m.type for m in members))
        name = f"{spoken(evidence, place)}.{attribute}"
        yield Finding(
            module=place,
            message=(
                f"{name} holds {format_counted(len(members), 'trainable module')} ({kinds}) in a "
                f"plain container: 0 of them are registered"
            ),
            fix=write_container(attribute, members[0].containers, "Module"),
            subject=attribute,
        )
    yield from _made_anew(evidence)


def _made_anew(evidence: Evidence) -> Iterator[Finding]:
    """A layer whose weights every forward draws again: one that made them once and kept them would
    not do so in the next pass.
    """
    passes = traces(evidence)
    if len(passes) < 2 or not all(_drawn(Flow(trace)) for trace in passes):
        return
    flow = Flow(evidence.trace)
    for reader, made in _drawn(flow).items():
        shapes = ", ".join(
            str(info.shape) for info in flow.calls[reader].inputs if info.source in made
        )
        place = spoken(evidence, flow.owner(reader))
        yield Finding(
            module=flow.owner(reader),
            message=(
                f"{describe(flow.calls[reader])} uses weights, of shape {shapes}, that are drawn "
                f"anew in each of {format_counted(len(passes), 'pass', 'passes')}: 0 of them are "
                "registered"
            ),
            fix=(
                f"make the layer once, in __init__ of {place} (self.layer = ...), and only call "
                "it in the forward"
            ),
            source=flow.line(reader),
            subject=describe(flow.calls[reader]),
        )


def _drawn(flow: Flow) -> dict[int, set[int]]:
    """The rows inside of the model that read trainable tensors of an initialisation within the same
    forward, and the rows of that.
    """
    found: dict[int, set[int]] = {}
    for i in flow.primitives():
        if flow.owner(i) is None or flow.calls[i].kind.startswith(INIT):
            continue
        for info in flow.calls[i].inputs:
            if (
                info.requires_grad
                and isinstance(info.source, int)
                and flow.calls[info.source].kind.startswith(INIT)
            ):
                found.setdefault(i, set()).add(info.source)
    return found
