"""What a loss is made of: the error, likelihood or similarity at the end of its chain, and the sign
that it goes in with.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.evidence import Evidence, Loss
from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import LOSSES, argument, operation

KEEPING = frozenset(
    {"mean", "sum", "clone", "squeeze", "view", "reshape", "to", "float", "double", "nanmean"}
)
LIKELIHOODS = frozenset({"log_softmax", "logsigmoid"})


class TermKind(enum.StrEnum):
    """What the row at the end of a loss's chain computes."""

    ERROR = "error"  # a standard loss, or a squared or absolute error, of targets from outside
    LIKELIHOOD = "likelihood"  # a log-probability
    SIMILARITY = "similarity"  # the cosine between the output and targets from outside
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerm:
    """The row that a loss is a mean, a sum or a multiple of."""

    loss: Loss
    index: int  # its row
    term: TermKind
    is_negated: bool  # it goes into the loss with a minus


def find_loss_terms(evidence: Evidence, flow: Flow) -> Iterator[LossTerm]:
    """The term of each loss of the first step that is made of a single one."""
    for loss in evidence.steps[0].losses if evidence.steps else ():
        index, sign = loss.call, 1
        while index is not None:
            term = _find_term(flow, index)
            if term is not None:
                yield LossTerm(loss=loss, index=index, term=term, is_negated=sign < 0)
                break
            sign *= _find_sign(flow, index)
            index = flow.producer(flow.data(index)) if sign else None


def is_maximised(evidence: Evidence) -> bool:
    """Whether an optimizer of the model makes its loss larger."""
    return any(o.maximize and o.parameters for o in evidence.optimizers)


def _find_term(flow: Flow, index: int) -> TermKind | None:
    """What a row computes; None where it only hands on, scales or reverses what goes into it."""
    call = flow.calls[index]
    kind = operation(call)
    if kind in LOSSES:
        target = flow.outer(call.inputs[1]) if len(call.inputs) > 1 else None
        return TermKind.ERROR if target is not None and target.source is None else TermKind.OTHER
    if kind in ("pow", "abs"):
        return TermKind.ERROR if _is_error(flow, index) else TermKind.OTHER
    if kind == "cosine_similarity":
        return TermKind.SIMILARITY if _is_similarity(flow, index) else TermKind.OTHER
    if kind in LIKELIHOODS or (_takes_apart(flow, index) and _is_likelihood(flow, index)):
        return TermKind.LIKELIHOOD
    return None


def _find_sign(flow: Flow, index: int) -> int:
    """1 or -1, the sign that a row gives to its first input; 0 where it does more than that."""
    call = flow.calls[index]
    kind = operation(call)
    if kind in ("neg", "rsub"):
        return -1
    if kind in ("mul", "div"):
        number = argument(call, "other")
        return 0 if not isinstance(number, int | float) else -1 if number < 0 else 1
    return 1 if kind in KEEPING else 0


def _takes_apart(flow: Flow, index: int) -> bool:
    """Whether a row picks some of the values, by an index or by a product with a mask."""
    call = flow.calls[index]
    kind = operation(call)
    return kind in ("gather", "getitem") or (
        kind in ("mul", "div") and not isinstance(argument(call, "other"), int | float)
    )


def _is_similarity(flow: Flow, index: int) -> bool:
    """Whether it is the cosine between the model's output and a given target, which nobody wants to
    be small.
    """
    ends = [flow.outer(info) for info in flow.calls[index].inputs]
    return any(e.source is None and not e.requires_grad for e in ends) and any(
        isinstance(e.source, int) for e in ends
    )


def _is_likelihood(flow: Flow, index: int) -> bool:
    return any(
        i is not None and operation(flow.calls[i]) in LIKELIHOODS
        for i in (flow.origin(info) for info in flow.calls[index].inputs)
    )


def _is_error(flow: Flow, index: int) -> bool:
    """Whether a square or magnitude is that of a difference between the model's output and
    something from outside.
    """
    before = flow.producer(flow.data(index))
    if before is None or operation(flow.calls[before]) not in ("sub", "rsub"):
        return False
    return any(
        flow.outer(info).source is None and not info.requires_grad
        for info in flow.calls[before].inputs
    )
