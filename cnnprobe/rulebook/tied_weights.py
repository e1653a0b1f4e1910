"""Two layers of a chain that share one weight."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, operation_of_module
from cnnprobe.diagnosis.evidence.questions import owner, spoken
from cnnprobe.rulebook.material import classifying, layers


def _net(tied: bool) -> Mapping[str, Any]:
    model = layers(*_parts())
    if tied:
        model[3].weight = model[1].weight
    return classifying(model)


def _parts() -> tuple[Any, ...]:
    from torch import nn

    return (
        nn.Flatten(),
        lambda: nn.Linear(64, 64),
        nn.ReLU(),
        lambda: nn.Linear(64, 64),
        nn.ReLU(),
        lambda: nn.Linear(64, 4),
    )


def sick() -> Mapping[str, Any]:
    """Two linear layers of equal size got the same weight."""
    return _net(tied=True)


def healthy() -> Mapping[str, Any]:
    """Each has its own."""
    return _net(tied=False)


@rule(code="CP311", name="tied-weights", severity=Severity.WARNING, examples=(sick, healthy))
def tied_weights(evidence: Evidence) -> Iterator[Finding]:
    """Two layers of the same kind, one behind the other, share one weight.

    Why it matters: they compute the same map, and their gradients add up.
    What to do: give each layer its own parameter.
    Known exceptions: an embedding and its decoder, an encoder and its transposed decoder: they
    differ in kind or use the weight transposed.
    Source: Press and Wolf 2017, arXiv:1608.05859, for the tying that is right.
    """
    flow = Flow(evidence.trace)
    kinds = {m.fqn: m for m in evidence.trace.modules}
    for parameter in evidence.trace.parameters:
        owners = [owner(name) for name in (parameter.fqn, *parameter.aliases)]
        distinct = [
            o
            for o in dict.fromkeys(owners)
            if o in kinds and operation_of_module(kinds[o]) in PROJECTIONS
        ]
        if (
            parameter.kind != "parameter"
            or len(parameter.shape) < 2
            or len(distinct) < 2
            or len({kinds[o].kind for o in distinct}) > 1
        ):
            continue
        rows = [i for i in flow.primitives() if flow.calls[i].fqn in distinct]
        if len({flow.calls[i].fqn for i in rows}) > 1 and any(
            rows[0] in flow.before(i) for i in rows[1:]
        ):
            yield Finding(
                module=distinct[0],
                message=(
                    f"{' and '.join(distinct)} ({kinds[distinct[0]].kind}) share one weight of "
                    f"shape {parameter.shape}"
                ),
                fix=f"give {spoken(evidence, distinct[-1])} a weight of its own",
            )
