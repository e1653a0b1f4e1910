"""The softmaxes of a trace: the dim that each runs over, and whether its values are a
prediction.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.evidence import Evidence
from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import FORWARDING, TURNING, operation, option
from cnnprobe.diagnosis.evidence.meanings import Meanings
from cnnprobe.diagnosis.evidence.pieces import list_roles
from cnnprobe.diagnosis.evidence.questions import LossCall, batch_size, loss_calls, spoken
from cnnprobe.records.trace import ModuleCall

# What stands between the scores of an attention and its softmax, beside a factor.
BETWEEN_SCORES = FORWARDING | {"masked_fill", "add", "sub", "where", "dropout", "float"}
EQUAL = 1e-3  # relative


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """A softmax or log_softmax of a tensor with two dims or more."""

    index: int  # its row
    call: ModuleCall
    module: str | None  # None where the loss or the loop calls it
    shape: tuple[int, ...]
    dim: int  # 0 or more
    is_prediction: bool  # the model or the loss ends with its values
    classes: int | None = None  # the dim that an NLLLoss takes the classes from, where known


def find_softmaxes(evidence: Evidence, flow: Flow) -> Iterator[Softmax]:
    """Every softmax whose dim is known, in order."""
    heads = {loss.origin: _find_classes(loss) for loss in loss_calls(evidence)}
    for root in flow.roots():
        for info in flow.calls[root].outputs:
            heads.setdefault(flow.origin(info, FORWARDING), None)
    for i in flow.primitives({"softmax", "log_softmax"}):
        call = flow.calls[i]
        shape = call.inputs[0].shape if call.inputs else ()
        dim = _find_dim(evidence, call, len(shape))
        if dim is not None and len(shape) > 1:
            yield Softmax(
                index=i,
                call=call,
                module=flow.owner(i),
                shape=shape,
                dim=dim,
                is_prediction=i in heads or _is_in_loss(flow, i),
                classes=heads.get(i),
            )


def is_over_batch(evidence: Evidence, softmax: Softmax) -> bool:
    """Whether it runs over the samples: of a prediction, where they were seen to change each other,
    or where the dim is that of the batch through all layers before it.
    """
    n = batch_size(evidence)
    if softmax.dim != 0 or n is None or n < 2 or softmax.shape[0] != n:
        return False
    leak = evidence.probes.leak
    is_seen = softmax.is_prediction or (leak is not None and leak[0] == softmax.module)
    return is_seen or _is_of_samples(evidence, softmax)


def _is_of_samples(evidence: Evidence, softmax: Softmax) -> bool:
    """Whether its dim 0, and no other one, is known to hold the samples."""
    dims = Meanings(evidence).read(softmax.call.inputs[0]) if softmax.module is not None else ()
    roles = [list_roles(dim) for dim in dims]
    return bool(roles) and roles[0] == {"batch"} and not any("batch" in r for r in roles[1:])


def misses_classes(evidence: Evidence, softmax: Softmax) -> bool:
    """Whether it should run over classes, and runs over another dim."""
    if softmax.classes is not None:
        return softmax.dim != softmax.classes
    return (
        softmax.dim != 1 and softmax.is_prediction and _is_map_of_classes(evidence, softmax.shape)
    )


def find_scaled_up(evidence: Evidence, flow: Flow) -> Iterator[tuple[int, int, float]]:
    """The softmaxes over scores of queries and keys that are multiplied by the square root of
    their features, or by their number: the row of that product, the features, the factor.
    """
    for softmax in find_softmaxes(evidence, flow):
        info, factor, scaling = flow.data(softmax.index), 1.0, None
        while (row := flow.producer(info)) is not None:
            kind = operation(flow.calls[row])
            number = _read_factor(flow.calls[row])
            if kind in ("mul", "div") and number:
                factor, scaling = factor * (number if kind == "mul" else 1 / number), row
            elif kind not in BETWEEN_SCORES:
                break
            info = flow.data(row)
        if row is None or scaling is None or operation(flow.calls[row]) != "matmul":
            continue
        given = flow.calls[row].inputs
        size = given[0].shape[-1] if len(given) > 1 and given[0].shape else 0
        is_learned = all(isinstance(t.source, int) for t in given)
        if is_learned and size > 1 and any(abs(factor / n - 1) < EQUAL for n in (size**0.5, size)):
            yield scaling, size, factor


def _read_factor(call: ModuleCall) -> float:
    """The only number that a row multiplies or divides by; 0 where there is none."""
    numbers = [v for v in call.arguments.values() if isinstance(v, int | float)]
    return float(numbers[0]) if len(numbers) == 1 and not isinstance(numbers[0], bool) else 0.0


def name_place(evidence: Evidence, softmax: Softmax) -> str:
    """Where its dim is set, in the user's words."""
    return "the loss" if softmax.module is None else spoken(evidence, softmax.module)


def _find_classes(loss: LossCall) -> int | None:
    """The dim, where its values are made, of what an NLLLoss takes as the classes: its dim 1."""
    info = loss.prediction
    place = 1 if loss.operation == "nll_loss" and len(info.shape) > 1 else None
    while place is not None and (index := loss.flow.producer(info)) != loss.origin:
        given = loss.flow.data(index) if index is not None else None
        if given is None or index is None:
            return None
        turned = operation(loss.flow.calls[index]) in TURNING
        place = _find_place(given.shape, info.shape, place, turned=turned)
        info = given
    return place


def _find_place(
    before: tuple[int, ...], after: tuple[int, ...], place: int, *, turned: bool
) -> int | None:
    """Which dim of `before` is dim `place` of `after`; None where sizes alone do not tell."""
    size, inner = after[place], math.prod(after[place + 1 :])
    fitting = [
        i
        for i, n in enumerate(before)
        if n == size and (turned or math.prod(before[i + 1 :]) == inner)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _is_in_loss(flow: Flow, index: int) -> bool:
    """Whether the loss itself takes this softmax of what the model gave; a square matrix may hold
    similarities, which go both ways.
    """
    given = flow.data(index)
    if (
        flow.owner(index) is not None
        or given is None
        or (len(given.shape) == 2 and given.shape[0] == given.shape[1])
    ):
        return False
    return flow.owner(flow.origin(given, FORWARDING | {"mul", "div"})) is not None


def _is_map_of_classes(evidence: Evidence, shape: tuple[int, ...]) -> bool:
    """Whether a target holds one class for each position: (N, H, W) beside (N, C, H, W)."""
    wanted, last = (shape[0], *shape[2:]), shape[:-1]
    return len(shape) > 2 and any(
        t.shape == wanted and t.shape != last and t.dtype.startswith(("int", "uint"))
        for t in evidence.targets
    )


def _find_dim(evidence: Evidence, call: ModuleCall, rank: int) -> int | None:
    if call.kind == "Softmax2d":
        return rank - 3
    given = option(evidence.trace, call, "dim")
    if given is None:
        return 0 if rank in (0, 1, 3) else 1  # torch's own choice, deprecated
    return given % rank if isinstance(given, int) and rank else None
