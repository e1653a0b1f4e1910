"""Graphs of earlier steps that somebody holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping

KEEPERS = 2  # variables that are named


def _loop(kept: bool) -> Mapping[str, Any]:
    history: list[Any] = []

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        history.append(loss if kept else loss.item())

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """A list of losses."""
    return _loop(kept=True)


def healthy() -> Mapping[str, Any]:
    """A list of numbers."""
    return _loop(kept=False)


@rule(
    code="CP508",
    name="graph-kept-alive",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    monitored=True,
)
def graph_kept_alive(evidence: Evidence) -> Iterator[Finding]:
    """The autograd graphs of earlier steps stay in memory: a loss is summed up or kept with its
    graph; or each backward goes through those of all earlier batches again.

    Why it matters: memory grows with every batch until it runs out; of n batches the first counts n
    times, with gradients for weights that have changed since.
    What to do: total += loss.item(), or loss.detach(), and loss.backward() of the batch's own loss.
    Known exceptions: one graph, that of the last step, may be held by a variable.
    Source: PyTorch FAQ, "Don't accumulate history across your training loop".
    """
    yield from _list_sums(evidence)
    alive = [step.alive for step in evidence.steps]
    if len(alive) > 2 and alive[-1] >= 2 and alive[-1] > alive[1]:
        keepers = _list_keepers(evidence.steps[-1].keepers)[:KEEPERS]
        held = f" by {' and '.join(keepers)}" if keepers else ""
        yield Finding(
            module=None,
            message=(
                f"after {len(alive)} steps the graphs of {alive[-1]} earlier ones are still "
                f"held{held} (at most 1 is usual)"
            ),
            fix="keep numbers instead of tensors: total += loss.item(), losses.append(loss.item())",
        )


def _list_sums(evidence: Evidence) -> Iterator[Finding]:
    """The backwards of a sum that grows with each batch."""
    for slip in evidence.texts.slips:
        if slip.kind == "repeated-sum":
            yield Finding(
                module=None,
                message=(
                    f"`{slip.text}` is called with each batch, and `{slip.value}` adds each loss "
                    f"to {slip.name}: it goes through the losses of all earlier batches again"
                ),
                fix=(
                    f"call backward() of the batch's own loss, and keep numbers in {slip.name}: "
                    "total += loss.item()"
                ),
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )


def _list_keepers(keepers: Sequence[str]) -> list[str]:
    """Each variable once: one may hold the loss, and the graph behind it."""
    return list(dict.fromkeys(name.removeprefix("the graph behind ") for name in keepers))
