"""Samples that are their own negatives, their own nearest positives, or both views of a pair."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, Flow, argument, describe, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls, spoken, stat
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import images, layers

# What hands on the places of a matrix, and turns none of them off.
WHOLE = frozenset(
    {"div", "mul", "clone", "contiguous", "float", "double", "half", "to", "log_softmax", "type"}
)
SELECTING = frozenset({"getitem", "masked_select", "index_select", "gather", "diagonal", "diag"})
TURNED = (ARRANGING - SELECTING) | {"detach", "normalize"}
PAIR = 2
NEAR = 0.01  # of the mean distance; cdist rounds what would be 0


def _loop(masks: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn
    from torch.nn import functional

    model = layers(nn.Flatten(), lambda: nn.Linear(64, 32), nn.ReLU(), lambda: nn.Linear(32, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(inputs: Any) -> None:
        views = torch.cat([inputs, inputs + 0.1 * torch.randn_like(inputs)])
        codes = functional.normalize(model(views), dim=1)
        likeness = codes @ codes.T / 0.5
        n = len(inputs)
        if masks:
            likeness = likeness.masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e9)
        partners = torch.cat([torch.arange(n) + n, torch.arange(n)])
        loss: Any = functional.cross_entropy(likeness, partners)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"model": model, "inputs": images(), "optimizer": optimizer, "train_step": train_step}


def sick() -> Mapping[str, Any]:
    """The largest likeness of each row is that of a sample to itself."""
    return _loop(masks=False)


def healthy() -> Mapping[str, Any]:
    """The diagonal is masked."""
    return _loop(masks=True)


@rule(
    code="CP460", name="compared-with-itself", severity=Severity.WARNING, examples=(sick, healthy)
)
def compared_with_itself(evidence: Evidence) -> Iterator[Finding]:
    """A contrastive loss counts each sample among its own negatives, takes it for its own nearest
    positive, or gets one view of it twice; or a loss takes the difference of two results that are
    the same.

    Why it matters: the likeness of a sample to itself is the largest there is, so that the loss
    mostly pushes it down; a distance of 0 to itself teaches nothing; two views that are one are
    alike without any training. A difference of equal results of the same weights has no gradient:
    the ratio of PPO is always 1.
    What to do: mask the diagonal before the softmax: sim.fill_diagonal_(float("-inf")); for
    positives take the farthest of the same label, or leave the diagonal out; give the second call
    the other view.
    Known exceptions: likenesses of two different sets (CLIP, MoCo); a matrix that is masked,
    indexed or changed elementwise in any way; a second call without gradients, or for a loss of
    its own, or a term of one.
    Source: Chen et al. 2020, "SimCLR", arXiv:2002.05709, equation 1: the sum runs over k != i.
    """
    flow = Flow(evidence.trace)
    yield from _list_denominators(evidence, flow)
    yield from _list_nearest(flow)
    differences = list(_list_differences(evidence))
    yield from differences or _list_equal_views(evidence, flow)


def _list_denominators(evidence: Evidence, flow: Flow) -> Iterator[Finding]:
    """Softmaxes over the likenesses of a batch to itself."""
    seen = set[str]()
    starts = [
        (loss.call.source, loss.prediction)
        for loss in loss_calls(evidence)
        if loss.operation in ("cross_entropy", "nll_loss")
    ]
    for i in flow.primitives({"logsumexp"}):
        starts += [(flow.calls[i].source, info) for info in flow.calls[i].inputs[:1]]
    for source, info in starts:
        row = _find_likeness(flow, info)
        if row is None or flow.owner(row) is not None or source in seen:
            continue
        seen.add(source)
        n = info.shape[0]
        yield Finding(
            module=None,
            message=(
                f"the softmax runs over the likenesses of {n} codes to the same {n} "
                f"({describe(flow.calls[row])} at {flow.line(row).rpartition('/')[2]}), and the "
                "diagonal is not masked: each sample is among its own negatives"
            ),
            fix='mask the diagonal before the softmax: sim.fill_diagonal_(float("-inf"))',
            source=source,
            kind="denominator",
        )


def _find_likeness(flow: Flow, info: TensorInfo) -> int | None:
    """The product of codes with themselves, (N, N), that a tensor is but for a factor."""
    if len(info.shape) != 2 or info.shape[0] != info.shape[1] or info.shape[0] < 2:
        return None
    row = flow.origin(info, WHOLE)
    call = flow.calls[row] if row is not None else None
    if call is None or operation(call) != "matmul" or len(call.inputs) != 2:
        return None
    one, other = (flow.origin(each, TURNED) for each in call.inputs)
    is_turned = call.inputs[0].shape == call.inputs[1].shape[::-1]
    return row if one is not None and one == other and is_turned else None


def _list_nearest(flow: Flow) -> Iterator[Finding]:
    """The least distance of each code to the same codes, which is that to itself."""
    for i in flow.primitives({"min", "amin"}):
        call = flow.calls[i]
        if flow.owner(i) is not None or not call.outputs or argument(call, "dim") is None:
            continue
        for row in sorted(flow.before(i)):
            far = _measure_distances(flow, row)
            if far is not None and stat(call.outputs[0], "max") < NEAR * far:
                yield Finding(
                    module=None,
                    message=(
                        f"the nearest positive is the sample itself: {describe(call)} gives at "
                        f"most {stat(call.outputs[0], 'max'):.2g}, where the distances of the "
                        f"batch are {far:.2g} on average"
                    ),
                    fix="take the largest distance among the same label, or mask the diagonal",
                    source=call.source,
                    kind="nearest",
                )
                break


def _measure_distances(flow: Flow, row: int) -> float | None:
    """The mean distance of codes among themselves; None of another row."""
    call = flow.calls[row]
    if operation(call) != "cdist" or len(call.inputs) != 2 or not call.outputs:
        return None
    one, other = (flow.origin(each, TURNED) for each in call.inputs)
    mean = stat(call.outputs[0], "mean")
    return mean if one == other and one is not None and mean > 0 else None


def _list_differences(evidence: Evidence) -> Iterator[Finding]:
    """Differences in a loss between two results of the same weights that are equal everywhere."""
    for step in evidence.steps[:1]:
        flow = Flow(step.trace)
        for loss in step.losses:
            behind = flow.before(loss.call) if loss.call is not None else set[int]()
            for i in sorted(behind):
                call = flow.calls[i]
                if operation(call) == "sub" and flow.owner(i) is None and _is_nothing(flow, i):
                    yield Finding(
                        module=None,
                        message=(
                            f"{describe(call)} takes two results that are equal in all places, "
                            f"and both have a gradient: the difference of shape "
                            f"{call.outputs[0].shape} is 0, and its gradient cancels"
                        ),
                        fix=(
                            "one side was meant to be another: compute the old one before the "
                            "update, under torch.no_grad(), and keep it"
                        ),
                        source=call.source,
                        kind="difference",
                    )
                    return


def _is_nothing(flow: Flow, index: int) -> bool:
    """Whether a difference of two computed tensors is 0 everywhere."""
    call = flow.calls[index]
    made = call.outputs[0] if call.outputs else None
    rows = [flow.producer(info) for info in call.inputs]
    return (
        len(rows) == PAIR
        and None not in rows
        and rows[0] != rows[1]
        and all(info.requires_grad for info in call.inputs)
        and stat(made, "count") > 1
        and stat(made, "min") == stat(made, "max") == 0
    )


def _list_equal_views(evidence: Evidence, flow: Flow) -> Iterator[Finding]:
    """Two calls of one network in the step that give the same to the bit, and go into one loss."""
    ends = [loss.call for step in evidence.steps[:1] for loss in step.losses]
    toward = [flow.before(end) | {end} for end in ends if end is not None]
    seen: dict[object, int] = {}
    for i, call in enumerate(flow.calls):
        output = call.outputs[0] if call.outputs else None
        if call.fqn is None or call.recomputed or flow.owner(call.parent) is not None:
            continue
        if output is None or not output.requires_grad or not stat(output, "apart") > NEAR:
            continue
        key = (call.fqn, output.shape, tuple((output.stats or {}).items()))
        first = seen.setdefault(key, i)
        sources = {flow.calls[first].outputs[0].source, output.source}
        is_pair = len(sources) > 1 and flow.line(first) != flow.line(i)
        if is_pair and any(sources <= rows and _meet(flow, sources, rows) for rows in toward):
            yield _describe_views(evidence, flow, first, i)
            return


def _meet(flow: Flow, sources: set[Any], rows: Collection[int]) -> bool:
    """Whether an operation takes values of both, and not only the losses of each, which may be of
    another kind.
    """
    for row in rows:
        before = [
            flow.before(maker) | {maker}
            for info in flow.calls[row].inputs
            if info.shape != () and (maker := flow.producer(info)) is not None
        ]
        if all(any(source in made for made in before) for source in sources):
            return True
    return False


def _describe_views(evidence: Evidence, flow: Flow, first: int, second: int) -> Finding:
    name = spoken(evidence, flow.calls[second].fqn)
    lines = [flow.line(i).rpartition("/")[2] for i in (first, second)]
    return Finding(
        module=flow.calls[second].fqn,
        message=(
            f"{name} gives the same to the bit at {lines[0]} and at {lines[1]}, and both go into "
            "the loss: it was given the same values twice"
        ),
        fix=f"give {name} at {lines[1]} the other view; where it is the other one, draw the "
        "augmentation anew for it",
        source=flow.line(second),
        kind="views",
    )
