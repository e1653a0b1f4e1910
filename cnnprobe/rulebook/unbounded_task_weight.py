"""A learned weight of a loss that nothing keeps from vanishing."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import owner, spoken, trainable
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import classifying, perceptron

LARGEST = 64  # elements: a weight for each of a few tasks


def _training(kept: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.log_variance = perceptron(), nn.Parameter(torch.zeros(1))

        def forward(self, x: Any) -> Any:
            return self.body(x), self.log_variance

    def loss_fn(output: Any, targets: Any) -> Any:
        scores, s = output
        weighed = torch.exp(-s) * nn.functional.cross_entropy(scores, targets)
        return (weighed + s if kept else weighed).sum()

    return classifying(Weighted(), loss_fn=loss_fn)


def sick() -> Mapping[str, Any]:
    """exp(-s) * loss."""
    return _training(False)


def healthy() -> Mapping[str, Any]:
    """exp(-s) * loss + s."""
    return _training(True)


@rule(
    code="CP429", name="unbounded-task-weight", severity=Severity.WARNING, examples=(sick, healthy)
)
def unbounded_task_weight(evidence: Evidence) -> Iterator[Finding]:
    """A loss is multiplied by exp(-s) of a trained s that stands nowhere else in it.

    Why it matters: the loss falls as s grows, until the weight of every task is 0 and nothing is
    learned any more.
    What to do: exp(-s) * loss + s.
    Known exceptions: a parameter that something else reads too.
    Source: Kendall, Gal, Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses",
    arXiv:1705.07115, equation 7.
    """
    if not evidence.steps:
        return
    flow = Flow(evidence.steps[0].trace)
    for name, parameter in trainable(evidence).items():
        if parameter.numel > LARGEST:
            continue
        found = find_product(flow, name, parameter.shape)
        if found is not None:
            place = spoken(evidence, owner(name))
            variable = f"{place}.{name.rpartition('.')[2]}"
            yield Finding(
                module=owner(name),
                message=(
                    f"the loss is multiplied by exp(-s) of {variable}, and nothing else of it "
                    "depends on it: it falls as that grows, whatever the model gives"
                ),
                fix="exp(-s) * loss + s",
                source=flow.line(found),
            )


def find_product(flow: Flow, name: str, shape: tuple[int, ...]) -> int | None:
    """The row that multiplies by exp(-parameter) outside of the model, where all that reads the
    parameter does so.
    """
    first = [
        i
        for i in flow.primitives()
        if any(_is_parameter(flow, t, name, shape) for t in flow.calls[i].inputs)
    ]
    if not first or any(operation(flow.calls[i]) != "neg" for i in first):
        return None
    powers = [j for i in first for j in flow.passes_on(i)]
    products = [k for j in powers for k in flow.passes_on(j)]
    is_weight = (
        bool(products)
        and all(operation(flow.calls[j]) == "exp" for j in powers)
        and all(operation(flow.calls[k]) == "mul" for k in products)
    )
    return products[0] if is_weight and flow.owner(products[0]) is None else None


def _is_parameter(flow: Flow, info: TensorInfo, name: str, shape: tuple[int, ...]) -> bool:
    """Whether a value is the parameter, also as the model hands it out as it is."""
    source = flow.outer(info).source
    if not isinstance(source, int) or flow.is_primitive[source]:
        return source == name
    handed = [made for made in flow.calls[source].outputs if made.source == source]
    return info.shape == shape and any(made.shape == shape for made in handed)
