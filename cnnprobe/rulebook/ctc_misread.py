"""A CTC loss that reads its output or its labels as something else."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import FORWARDING, Evidence, Flow, operation, option
from cnnprobe.diagnosis.evidence.questions import find_given, input_stats, stat
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import layers

_ABOVE_LOG = 1e-3  # the log of a probability is at most 0, up to rounding


def _reading(first: int) -> Mapping[str, Any]:
    import torch
    from torch import nn
    from torch.nn import functional

    net = layers(lambda: nn.Linear(6, 16), nn.ReLU(), lambda: nn.Linear(16, 5))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(first, first + 4, (8, 3), generator=generator)

    def loss_fn(output: Any, labels: Any) -> Any:
        steps = functional.log_softmax(output, dim=2).transpose(0, 1)
        lengths = torch.full((8,), 9), torch.full((8,), 3)
        return functional.ctc_loss(steps, labels, *lengths, blank=0, zero_infinity=True)

    return {
        "model": net,
        "inputs": torch.randn(8, 9, 6, generator=generator),
        "targets": labels,
        "loss_fn": loss_fn,
        "optimizer": torch.optim.Adam(net.parameters(), 1e-3),
    }


def sick() -> Mapping[str, Any]:
    """Labels from 0, where 0 is the blank."""
    return _reading(0)


def healthy() -> Mapping[str, Any]:
    """Labels from 1."""
    return _reading(1)


@rule(
    code="CP334",
    name="ctc-misread",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("negative-loss", "loss-not-decreasing", "cannot-overfit"),
)
def ctc_misread(evidence: Evidence) -> Iterator[Finding]:
    """A CTC loss gets the blank among its labels, values that are no log-probabilities, or those of
    a softmax over another dim than the classes.

    Why it matters: the blank means "no label here", so a label that is the blank cannot be told
    from nothing; and the loss adds up probabilities only where each step's add up to 1.
    What to do: keep an index for the blank, one class more than there are labels; log_softmax over
    the last dim of (T, N, C).
    Known exceptions: labels that are padded with the blank behind their length.
    Source: torch.nn.CTCLoss, "targets cannot be blank", "The logarithmized probabilities of the
    outputs (e.g. obtained with torch.nn.functional.log_softmax())".
    """
    flow = Flow(evidence.trace)
    for i in flow.primitives({"ctc_loss"}):
        call = flow.calls[i]
        if len(call.inputs) < 2:
            continue
        found = _judge_output(flow, call) or _judge_labels(evidence, flow, call)
        if found is not None:
            message, fix, at = found
            yield Finding(
                module=None if at is None else flow.owner(at),
                message=message,
                fix=fix,
                source=flow.line(i if at is None else at),
            )
            return


def _judge_output(flow: Flow, call: ModuleCall) -> tuple[str, str, int | None] | None:
    given = call.inputs[0]
    high = stat(input_stats(flow, given), "max")
    if high > _ABOVE_LOG:
        said = "CTC takes log-probabilities, which are at most 0, but gets values up to"
        fix = f"F.log_softmax(output, dim={len(given.shape) - 1}) in front of the loss"
        return f"{said} {high:.3g}", fix, None
    made = flow.origin(given, FORWARDING)
    if made is None or operation(flow.calls[made]) != "log_softmax":
        return None
    shape = flow.calls[made].outputs[0].shape
    dim = option(flow.trace, flow.calls[made], "dim")
    classes = given.shape[-1]
    if not isinstance(dim, int) or shape[dim] == classes or classes not in shape:
        return None
    said = f"the log_softmax in front of the CTC loss runs over dim {dim} of {shape}"
    place = shape.index(classes)
    return f"{said}, but the {classes} classes are in dim {place}", f"dim={place}", made


def _judge_labels(
    evidence: Evidence, flow: Flow, call: ModuleCall
) -> tuple[str, str, int | None] | None:
    labels = find_given(evidence, flow, call.inputs[1])
    blank = option(flow.trace, call, "blank", 0)
    if labels is None or not isinstance(blank, int) or not _are_whole(evidence, flow, call):
        return None
    low, high = stat(labels, "min"), stat(labels, "max")
    if blank not in (low, high):
        return None
    said = (
        f"the blank of the CTC loss is {blank}, and the labels range from {low:.0f} to {high:.0f}"
    )
    last = call.inputs[0].shape[-1] - 1
    fix = "an index of its own for the blank: labels + 1, blank=0, and one class more"
    fix = f"blank={last}" if blank == low and high < last else fix
    return f"{said}: a label that is the blank cannot be told from nothing", fix, None


def _are_whole(evidence: Evidence, flow: Flow, call: ModuleCall) -> bool:
    """Whether no label is padding: one behind the other, or each row as long as its length."""
    labels = call.inputs[1]
    listed = option(flow.trace, call, "target_lengths")
    if len(labels.shape) == 1:
        return True
    if isinstance(listed, tuple):
        return set(listed) == {labels.shape[1]}
    lengths = next((t for t in call.inputs[2:] if t.path in ("[3]", "target_lengths")), None)
    given = None if lengths is None else find_given(evidence, flow, lengths)
    return given is not None and stat(given, "min") == labels.shape[1]
