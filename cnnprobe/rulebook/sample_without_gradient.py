"""A draw from a learned distribution that no gradient goes through."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    ARRANGING,
    FORWARDING,
    PROJECTIONS,
    Evidence,
    Flow,
    describe,
    operation,
)
from cnnprobe.rulebook.material import classifying


def _net(reparametrised: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.spread, self.fc = (nn.Linear(*n) for n in ((64, 8), (64, 8), (8, 4)))

        def forward(self, x: Any) -> Any:
            x = x.flatten(1)
            drawn: Any = torch.distributions.Normal(self.mean(x), self.spread(x).exp())
            return self.fc(drawn.rsample() if reparametrised else drawn.sample())

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """sample() of a normal distribution whose mean and deviation are learned."""
    return _net(False)


def healthy() -> Mapping[str, Any]:
    """rsample()."""
    return _net(True)


@rule(
    code="CP213",
    name="sample-without-gradient",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("no-grad-path", "no-grad-params", "eval-nondeterminism"),
)
def sample_without_gradient(evidence: Evidence) -> Iterator[Finding]:
    """A layer gets a draw from a normal distribution whose mean is learned, made without gradient;
    or the row of a table that is nearest to what was computed, as it is.

    Why it matters: what is behind the draw never tells the layers before it how to be better.
    What to do: rsample() in place of sample(), or mean + std * torch.randn_like(std); of a nearest
    row the straight-through estimator, z + (row - z).detach().
    Known exceptions: draws that go to no layer, such as the actions of a policy.
    Source: Kingma & Welling 2014, "Auto-Encoding Variational Bayes", section 2.4;
    torch.distributions, "rsample()"; van den Oord et al. 2017, arXiv:1711.00937, section 3.2.
    """
    if not evidence.steps:
        return
    flow = Flow(evidence.steps[0].trace)
    for i in flow.primitives({"normal"}):
        call = flow.calls[i]
        if not call.outputs or call.outputs[0].requires_grad or flow.owner(i) is None:
            continue
        learned = any(
            operation(flow.calls[j]) in PROJECTIONS and flow.calls[j].outputs[0].requires_grad
            for j in flow.before(i)
        )
        if learned and any(operation(flow.calls[j]) in PROJECTIONS for j in flow.after(i)):
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{describe(call)} draws by a mean or deviation that is learned, and no "
                    "gradient goes back through what it gives"
                ),
                fix="rsample() in place of sample(), or mean + std * torch.randn_like(std)",
                source=flow.line(i),
                subject=describe(call),
            )
            return
    yield from _find_nearest_rows(flow)


def _find_nearest_rows(flow: Flow) -> Iterator[Finding]:
    """Rows of a table that a layer gets, chosen by their distance from what was computed."""
    for i in flow.primitives({"argmin", "argmax"}):
        call, before = flow.calls[i], flow.before(i)
        learned = any(operation(flow.calls[j]) in PROJECTIONS for j in before)
        if not learned or not call.inputs[0].requires_grad or flow.owner(i) is None:
            continue
        given = [t.source for j in before for t in flow.calls[j].inputs]
        tables = {source for source in given if isinstance(source, str)}
        for j in flow.passes_on(i):
            taker = _find_taker(flow, j)
            if taker is not None and _list_tables(flow, j) & tables:
                (table, *_) = _list_tables(flow, j) & tables
                yield Finding(
                    module=flow.owner(j),
                    message=(
                        f"{describe(flow.calls[taker])} gets rows of {table}, chosen by "
                        f"{describe(call)}, as they are: no gradient goes back to the layers "
                        "whose output chose them"
                    ),
                    fix=(
                        "pass it straight through: q = z + (q - z).detach(), where z is what the "
                        "rows are nearest to"
                    ),
                    source=flow.line(j),
                    subject=describe(call),
                    kind="nearest",
                )
                return


def _list_tables(flow: Flow, row: int) -> set[str]:
    """The weights that a row takes rows of."""
    call = flow.calls[row]
    if operation(call) not in ("embedding", "getitem", "index_select"):
        return set()
    own = {f"{call.fqn}.weight"} if call.fqn is not None else set()
    return own | {t.source for t in call.inputs if isinstance(t.source, str)}


def _find_taker(flow: Flow, row: int) -> int | None:
    """The layer that gets what a row gives, as it is."""
    found = flow.passes_on(row, ARRANGING | FORWARDING)
    return next((i for i in found if operation(flow.calls[i]) in PROJECTIONS), None)
