"""A model that gives something else each time."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, describe, operation
from cnnprobe.operations import select_groups
from cnnprobe.rulebook.functional_dropout import drops_on_purpose
from cnnprobe.rulebook.material import classifying

DIFFERENT = 1e-4  # greatest difference of two runs over the output's magnitude
PRODUCTS = frozenset({"matmul", "einsum", "addmm", "baddbmm"})
RANDOM = select_groups(trait="random") - {"dropout"}
# Those that draw by probabilities that they are given.
SAMPLING = frozenset(
    {"bernoulli", "multinomial", "gumbel_softmax", "normal", "poisson", "binomial"}
)


def _net(guarded: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(64, 4)

        def forward(self, x: Any) -> Any:
            if self.training or not guarded:
                x = x + 0.3 * torch.randn_like(x)
            return self.body(x.flatten(1))

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """Noise that is also added in eval mode."""
    return _net(guarded=False)


def healthy() -> Mapping[str, Any]:
    """Noise in train mode alone."""
    return _net(guarded=True)


@rule(code="CP704", name="eval-nondeterminism", severity=Severity.WARNING, examples=(sick, healthy))
def eval_nondeterminism(evidence: Evidence) -> Iterator[Finding]:
    """Two passes of the same batch in eval mode differ.

    Why it matters: a prediction is not reproducible, and is not the one that validation measured.
    What to do: make noise and sampling depend on self.training.
    Known exceptions: sampling by a learned scale or learned probabilities, as in a variational
    auto-encoder, and a model that gives its own loss or target beside or in place of a prediction,
    or the mask that it drew, are info, as is an F.dropout with training=True; one that writes to
    its own buffers in eval mode, such as a queue of keys, is not judged.
    Source: two forward passes in eval mode with different seeds.
    """
    gap = evidence.probes.repeat
    trace = evidence.evaluation
    if gap is None or gap < DIFFERENT or trace is None or evidence.probes.keeps_state:
        return
    flow = Flow(trace)
    place = next(
        (
            i
            for i in flow.primitives()
            if operation(flow.calls[i]) in RANDOM
            or (operation(flow.calls[i]) == "dropout" and flow.calls[i].fqn is None)
        ),
        None,
    )
    learned = place is not None and (
        _has_learned_scale(flow, place) or _has_learned_probabilities(flow, place)
    )
    meant = (
        learned
        or (place is not None and drops_on_purpose(flow.calls[place]))
        or _is_objective(flow)
        or _is_handed_out(flow, place)
    )
    what = f": {describe(flow.calls[place])} is random" if place is not None else ""
    yield Finding(
        module=flow.owner(place) if place is not None else "",
        severity=Severity.INFO if meant else None,
        message=(
            f"two passes in eval mode differ by {gap:.1e} of the output's size (more than "
            f"{DIFFERENT:g}){what}"
        ),
        kind="meant" if meant else "",
        fix="nothing where predictions are samples, else do it only `if self.training:`"
        if meant
        else "do it only `if self.training:`",
        source=flow.line(place),
    )


def _has_learned_scale(flow: Flow, place: int) -> bool:
    """Whether the noise is multiplied by what a layer computes, or by a parameter."""
    for reader in flow.passes_on(place):
        sources = [t.source for t in flow.calls[reader].inputs if t.source != place]
        before = {j for s in sources if isinstance(s, int) for j in {*flow.before(s), s}}
        is_scaled = operation(flow.calls[reader]) in ("mul", "addcmul")
        of_parameter = any(isinstance(s, str) for s in sources) or any(
            isinstance(t.source, str) for j in before for t in flow.calls[j].inputs
        )
        if is_scaled and (of_parameter or any(_is_learned(flow, j) for j in before)):
            return True
    return False


def _is_learned(flow: Flow, index: int) -> bool:
    """Whether a row is a layer, or multiplies by a parameter: a @ (x @ self.weight)."""
    call = flow.calls[index]
    return operation(call) in PROJECTIONS or (
        operation(call) in PRODUCTS and any(isinstance(info.source, str) for info in call.inputs)
    )


def _has_learned_probabilities(flow: Flow, place: int) -> bool:
    """Whether it draws by what a layer computes."""
    return operation(flow.calls[place]) in SAMPLING and any(
        _is_learned(flow, j) for j in flow.before(place)
    )


def _is_handed_out(flow: Flow, place: int | None) -> bool:
    """Whether the model gives the choice that it drew, such as a mask, beside what it computes."""
    given = [info for i in flow.roots() for info in flow.calls[i].outputs]
    sources = {flow.producer(info) for info in given}
    return len(sources) > 1 and any(
        j is not None and place in flow.before(j) | {j} and not _has_layers(flow, j)
        for j in sources
    )


def _has_layers(flow: Flow, index: int) -> bool:
    return any(operation(flow.calls[j]) in PROJECTIONS for j in flow.before(index) | {index})


def _is_objective(flow: Flow) -> bool:
    """Whether the model gives a loss, or the noise itself that another output is to be compared
    with: what is random is what it is trained on.
    """
    given = [
        info
        for i in flow.roots()
        for info in flow.calls[i].outputs
        if info.dtype.startswith(("float", "bfloat"))
    ]
    return any(info.shape == () for info in given) or any(
        origin is not None and operation(flow.calls[origin]) in RANDOM
        for origin in map(flow.origin, given)
    )
