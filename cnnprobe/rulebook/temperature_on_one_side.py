"""A distillation whose teacher and student have different temperatures."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import perceptron, stepping

SOFT = frozenset({"softmax", "log_softmax"})


def _loop(both: bool) -> Mapping[str, Any]:
    import copy

    import torch
    from torch.nn import functional

    model = perceptron()
    teacher = copy.deepcopy(model).eval()

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        with torch.no_grad():
            wanted = (teacher(inputs) / 4.0).softmax(1)
        output = model(inputs)
        given = (output / 4.0 if both else output).log_softmax(1)
        soft = functional.kl_div(given, wanted, reduction="batchmean")
        optimizer.zero_grad()
        (loss_fn(output, targets) + 16.0 * soft).backward()
        optimizer.step()

    return stepping(model, loop)


def sick() -> Mapping[str, Any]:
    """The teacher alone is softened."""
    return _loop(both=False)


def healthy() -> Mapping[str, Any]:
    """Both are."""
    return _loop(both=True)


@rule(
    code="CP461",
    name="temperature-on-one-side",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def temperature_on_one_side(evidence: Evidence) -> Iterator[Finding]:
    """A divergence compares probabilities that were softened by different temperatures.

    Why it matters: the student is taught to be as unsure as the softened teacher, and its
    predictions become flat.
    What to do: divide the logits of both by the same temperature; multiply the term by its square.
    Known exceptions: targets that are sharpened, by a temperature below 1; losses other than
    kl_div.
    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    """
    for loss in loss_calls(evidence):
        if loss.operation != "kl_div" or loss.target is None:
            continue
        mine = _read_temperature(loss.flow, loss.prediction)
        wanted = _read_temperature(loss.flow, loss.target)
        if mine is None or wanted is None or mine == wanted or max(mine, wanted) <= 1:
            continue
        if min(mine, wanted) >= 1:
            yield Finding(
                module=None,
                message=(
                    f"kl_div compares logits divided by {mine:g} with targets whose logits are "
                    f"divided by {wanted:g}: the temperatures differ"
                ),
                fix=f"divide both by {max(mine, wanted):g}, and multiply the term by its square",
                source=loss.call.source,
            )


def _read_temperature(flow: Flow, info: TensorInfo) -> float | None:
    """What the logits of a softmax are divided by; 1 where they are not; None of anything else."""
    row = flow.origin(info, ARRANGING | {"detach"})
    if row is None or operation(flow.calls[row]) not in SOFT:
        return None
    data = flow.data(row)
    scaled = flow.origin(data, ARRANGING | {"detach"}) if data is not None else None
    if scaled is None or flow.owner(scaled) is not None:
        return 1.0
    call = flow.calls[scaled]
    kind = operation(call)
    if kind not in ("div", "mul"):  # the last row of a teacher that is no part of the model
        return 1.0
    numbers = [v for v in call.arguments.values() if isinstance(v, int | float)]
    if len(numbers) != 1 or not numbers[0]:
        return None
    return float(numbers[0]) if kind == "div" else 1 / float(numbers[0])
