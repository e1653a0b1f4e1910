"""What a loss is made of: the error, likelihood or similarity at the end of its chain, and the sign
that it goes in with.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.evidence import Evidence, Loss
from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import ARRANGING, LOSSES, argument, operation
from cnnprobe.records.trace import TensorInfo

KEEPING = frozenset(
    {"mean", "sum", "clone", "squeeze", "view", "reshape", "to", "float", "double", "nanmean"}
)
# Between logarithms of probabilities and those of the chosen classes.
CHOSEN = ARRANGING | {"gather", "getitem", "neg", "broadcast_tensors"}
PAIR = 2
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


def find_factors_of_likelihood(flow: Flow, loss: Loss) -> Iterator[tuple[int, TensorInfo, int]]:
    """The products of a log-probability with a factor without gradient in a sum that is the loss:
    the row, the factor, the sign that it goes in with.
    """
    stack = [(loss.call, 1)] if loss.call is not None else []
    while stack:
        index, sign = stack.pop()
        call, kind = flow.calls[index], operation(flow.calls[index])
        if flow.owner(index) is not None:
            continue
        if kind == "mul" and len(call.inputs) == PAIR:
            terms = [info for info in call.inputs if _is_log_probability(flow, info)]
            factors = [info for info in call.inputs if not info.requires_grad]
            if len(terms) == len(factors) == 1:
                yield index, factors[0], sign * _count_minus(flow, terms[0])
            continue
        signs = [1, -1] if kind == "sub" else [-1, 1] if kind == "rsub" else [1, 1]
        if kind in ("add", "sub", "rsub") and len(call.inputs) == PAIR:
            given = list(zip(call.inputs, signs, strict=True))
        else:
            turn = 1 if kind in ("add", "sub") else _find_sign(flow, index)
            given = [(info, turn) for info in call.inputs[:1] if turn]
        for info, turn in given:
            made = flow.producer(info)
            if made is not None:
                stack.append((made, sign * turn))


def _count_minus(flow: Flow, info: TensorInfo) -> int:
    """-1 where a log-probability was negated before."""
    made = flow.producer(info)
    return -1 if made is not None and operation(flow.calls[made]) == "neg" else 1


def _is_log_probability(flow: Flow, info: TensorInfo) -> bool:
    """Whether a tensor holds logarithms of the probabilities of chosen classes, or minus them."""
    made = flow.producer(info)
    while made is not None and operation(flow.calls[made]) in CHOSEN:
        learned = [t for t in flow.calls[made].inputs if t.requires_grad]
        made = flow.producer(learned[0]) if learned else None
    if made is None:
        return False
    call = flow.calls[made]
    if operation(call) == "sub" and len(call.inputs) == PAIR:
        other = flow.producer(call.inputs[1])
        return other is not None and operation(flow.calls[other]) == "logsumexp"
    return operation(call) in LIKELIHOODS


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
