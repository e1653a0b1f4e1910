"""A penalty on gradients that trains nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.rulebook.material import perceptron, stepping

SIZING = frozenset({"norm", "pow", "abs"})
SUMS = frozenset({"add", "sub"})


def _loop(kept: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        import torch

        x = inputs.clone().requires_grad_()
        loss: Any = loss_fn(model(x), targets)
        slope: Any = torch.autograd.grad(model(x).sum(), x, create_graph=kept)[0]
        optimizer.zero_grad()
        (loss + (slope.flatten(1).norm(dim=1) - 1).square().mean()).backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The gradient of the input is taken without a graph of its own."""
    return _loop(False)


def healthy() -> Mapping[str, Any]:
    """With create_graph=True."""
    return _loop(True)


@rule(code="CP431", name="constant-penalty", severity=Severity.ERROR, examples=(sick, healthy))
def constant_penalty(evidence: Evidence) -> Iterator[Finding]:
    """A term of the loss is made of a gradient that was taken without create_graph=True.

    Why it matters: the term is a number to autograd: it is added to the loss and trains nothing.
    What to do: torch.autograd.grad(..., create_graph=True).
    Known exceptions: gradients that go into an input, as in adversarial training.
    Source: torch.autograd.grad, "create_graph"; Gulrajani et al. 2017, arXiv:1704.00028.
    """
    if not evidence.steps:
        return
    step = evidence.steps[0]
    if not any(event.kind == "grad" and not event.effective for event in step.events):
        return
    flow = Flow(step.trace)
    for loss in step.losses:
        row = loss.call
        while row is not None and operation(flow.calls[row]) in SUMS:
            given = flow.calls[row].inputs
            for info in given:
                made = flow.producer(info)
                if not info.requires_grad and info.shape == () and _is_size(flow, made):
                    yield Finding(
                        module=None,
                        message=(
                            f"a term of the loss, by {describe(flow.calls[made or 0])}, has no "
                            "gradient: torch.autograd.grad was called without create_graph=True"
                        ),
                        fix="torch.autograd.grad(..., create_graph=True)",
                        source=flow.line(row),
                    )
                    return
            row = next((flow.producer(t) for t in given if t.requires_grad), None)


def _is_size(flow: Flow, row: int | None) -> bool:
    """Whether a value is the size of something that no row has made."""
    if row is None:
        return False
    rows = flow.before(row) | {row}
    is_sized = any(operation(flow.calls[i]) in SIZING for i in rows)
    return is_sized and not any(flow.calls[i].fqn is not None for i in rows)
