"""A threshold that stands on another scale than the values that it is compared with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.metrics import (
    KEEPING,
    THRESHOLDS,
    find_logits,
    find_origin,
    find_output,
    name_row,
    read_number,
)
from cnnprobe.diagnosis.evidence.questions import loss_calls
from cnnprobe.rulebook.material import images, layers

# Steps behind which the values of an output are still its values.
SAME = KEEPING | {"squeeze", "unsqueeze", "view", "reshape", "flatten", "view_as", "ravel"}
BINARY, CLASSES = "binary_cross_entropy_with_logits", "cross_entropy"


def _loop(squashes: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn
    from torch.nn import functional

    model = layers(nn.Flatten(), lambda: nn.Linear(64, 16), nn.ReLU(), lambda: nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(inputs: Any, targets: Any) -> Any:
        output = model(inputs)
        loss: Any = functional.binary_cross_entropy_with_logits(output, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = (output.sigmoid() if squashes else output) > 0.5
        return (right == targets).float().mean().item()

    given = images()
    return {
        "model": model, "inputs": given, "targets": (given[:, :1, 0, 0] > 0).float(),
        "optimizer": optimizer, "train_step": train_step,
    }  # fmt: skip


def sick() -> Mapping[str, Any]:
    """Logits are compared with 0.5."""
    return _loop(squashes=False)


def healthy() -> Mapping[str, Any]:
    """It is the probability that is."""
    return _loop(squashes=True)


@rule(code="CP749", name="threshold-misplaced", severity=Severity.WARNING, examples=(sick, healthy))
def threshold_misplaced(evidence: Evidence) -> Iterator[Finding]:
    """Logits are compared with a probability, or logarithms and probabilities with what none of
    them can be.

    Why it matters: a prediction, a metric or the choice of pseudo-labels follows another threshold
    than the one that is written, or none.
    What to do: sigmoid or softmax before the threshold; or 0 for logits, which is 0.5.
    Known exceptions: thresholds inside the model; a number outside of 0 to 1, which is one of
    logits. Of code that the steps do not run, only what calls the model itself is read.
    Source: torch.nn.BCEWithLogitsLoss "combines a Sigmoid layer and the BCELoss"; sigmoid(0) = 0.5.
    """
    found = [*_list_run(evidence), *_list_read(evidence)]
    yield from {finding.source: finding for finding in reversed(found)}.values()


def _list_run(evidence: Evidence) -> Iterator[Finding]:
    """What the steps compare."""
    flow, logits = Flow(evidence.trace), find_logits(evidence)
    for i in flow.primitives(THRESHOLDS | {"round"}):
        call = flow.calls[i]
        if flow.owner(i) is not None or len(call.inputs) != 1:
            continue
        row, is_largest = find_origin(flow, call.inputs[0])
        if row is not None:
            made = operation(flow.calls[row])
            loss = logits.get(name_row(flow, row), "")
            use = _Use(
                kind=operation(call), value=read_number(call), name=describe(call),
                source=call.source, is_largest=is_largest,
            )  # fmt: skip
            yield from _judge(use, made, loss)


def _list_read(evidence: Evidence) -> Iterator[Finding]:
    """The same in the text, of what the steps do not run."""
    loss = _find_loss(evidence)
    for read in evidence.texts.outputs:
        steps = [step for step in read.steps if step not in SAME]
        is_largest = steps[-1:] == ["max"]
        before = steps[:-1] if is_largest else steps
        use = _Use(
            kind=read.kind, value=read.value, name=f"`{read.text}`", source=read.source,
            is_largest=is_largest,
        )  # fmt: skip
        yield from _judge(use, before[-1] if before else "", "" if before else loss)


def _find_loss(evidence: Evidence) -> str:
    """The loss of logits that the whole output of the model goes to; "" for none."""
    output = find_output(evidence)
    for loss in loss_calls(evidence):
        if output is None or loss.origin is None or loss.operation not in (BINARY, CLASSES):
            continue
        made = loss.flow.calls[loss.origin].outputs
        if loss.flow.owner(loss.origin) is not None and made and made[0].shape == output.shape:
            return loss.operation
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """A comparison with a number, or a round()."""

    kind: str
    value: float | None
    name: str
    source: str
    is_largest: bool  # of the largest of several


def _judge(use: _Use, made: str, loss: str) -> Iterator[Finding]:
    """What is wrong with a comparison of what `made` gives, or of the logits of a loss."""
    if use.kind == "round":
        if loss == BINARY:
            yield _find(
                use, f"rounds logits, which {_TAKES[BINARY]}, to whole numbers", _FIX[BINARY]
            )
    elif use.value is not None and use.kind in THRESHOLDS:
        if made in ("log_softmax", "logsigmoid") and use.value >= 0:
            answer = "always" if use.kind in ("lt", "le") else "never"
            said = f"logarithms of probabilities, which are at most 0, with {use.value:g}"
            fix = "compare with the logarithm of the threshold, or take exp() before it"
            yield _find(use, f"compares {said}: it is {answer} true", fix)
        elif made == "sigmoid" and use.value == 0:
            answer = "never" if use.kind in ("lt", "le") else "always"
            said = "what sigmoid gives, which is between 0 and 1, with 0"
            yield _find(use, f"compares {said}: it is {answer} true", "compare with 0.5")
        elif loss == (CLASSES if use.is_largest else BINARY) and 0 < use.value < 1:
            said = f"logits, which {_TAKES[loss]}, with {use.value:g}, a probability"
            yield _find(use, f"compares {said}", _FIX[loss])


_TAKES = {BINARY: "the loss takes before the sigmoid", CLASSES: "the loss takes before the softmax"}
_FIX = {
    BINARY: "apply sigmoid before it, or compare with 0, the logit of 0.5",
    CLASSES: "apply softmax(1) before the max",
}


def _find(use: _Use, said: str, fix: str) -> Finding:
    return Finding(module=None, message=f"{use.name} {said}", fix=fix, source=use.source)
