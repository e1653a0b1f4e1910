"""A loss with the wrong sign."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import LOSSES, Evidence, Flow, argument, describe, operation
from cnnprobe.rulebook.material import perceptron, stepping

KEEPING = frozenset(
    {"mean", "sum", "clone", "squeeze", "view", "reshape", "to", "float", "double", "nanmean"}
)
LIKELIHOODS = frozenset({"log_softmax", "logsigmoid"})


def _loop(sign: float) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss = sign * loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The cross entropy is maximised."""
    return _loop(-1.0)


def healthy() -> Mapping[str, Any]:
    """It is scaled, and minimised."""
    return _loop(0.1)


@rule(
    code="CP408",
    name="loss-sign",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "negative-loss",
        "divergence",
        "loss-not-decreasing",
        "cannot-overfit",
        "lr-too-high",
        "exploding-gradient",
    ),
)
def loss_sign(evidence: Evidence) -> Iterator[Finding]:
    """The optimizer makes the error larger.

    Why it matters: the model learns to be wrong; the loss falls without end, or rises.
    What to do: drop the minus, or `maximize=True`; write the minus before a log-likelihood, and before the sum of a KL divergence.
    Known exceptions: losses against targets that the loop makes itself (the generator's loss of a GAN) are not judged.
    Source: torch.optim.SGD, "maximize: maximize the objective with respect to the params, instead of minimizing".
    """
    flow = Flow(evidence.trace)
    for optimizer in evidence.optimizers:
        standard = any(
            _chain(flow, loss.call)[0] for step in evidence.steps[:1] for loss in step.losses
        )
        if optimizer.maximize and optimizer.parameters and standard:
            yield Finding(
                module=None,
                message=f"{optimizer.name} has maximize=True, and the loss is an error",
                fix=f"build {optimizer.name} without maximize=True",
            )
            return
    for loss in evidence.steps[0].losses if evidence.steps else ():
        falling = _falling_exponential(flow, loss.call)
        if falling is not None and not any(o.maximize for o in evidence.optimizers):
            yield Finding(
                module=None,
                message=f"{describe(flow.calls[falling])} goes into the loss with a minus: the loss falls without end as its argument grows",
                fix="put a minus before the sum; the KL divergence from a standard normal is -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()",
                source=flow.line(falling),
            )
            continue
        is_error, flips, place = _chain(flow, loss.call)
        if place is not None and is_error and flips % 2:
            yield Finding(
                module=None,
                message=f"backward starts at minus {describe(flow.calls[place])}: the optimizer makes this error larger (loss {loss.value:.3g})",
                fix="remove the minus before the loss",
                source=flow.line(place),
            )
        elif place is not None and flips % 2 == 0 and _is_similarity(flow, place):
            yield Finding(
                module=None,
                message=f"the loss is the similarity to the targets ({loss.value:.3g}), and the optimizer makes it smaller",
                fix="minimise its distance from 1: loss = 1 - similarity",
                source=flow.line(place),
            )
        elif (
            not is_error
            and place is not None
            and flips % 2 == 0
            and loss.value is not None
            and loss.value < 0
        ):
            yield Finding(
                module=None,
                message=f"the loss is a log-likelihood without a minus: {loss.value:.3g}, and the optimizer makes the data less likely",
                fix="put a minus before it",
                source=flow.line(place),
            )


LINEAR = KEEPING | {"add", "neg", "mul", "div", "sub", "rsub", "getitem"}


def _falling_exponential(flow: Flow, end: int | None) -> int | None:
    """A row exp(...) that goes into the loss through sums and constant factors only, with a minus: the loss has no lower bound."""
    toward = set() if end is None else flow.before(end) | {end}
    for i in flow.primitives({"exp"}):
        if (
            i in toward
            and flow.calls[i].outputs
            and flow.calls[i].outputs[0].requires_grad
            and _signs(flow, i, end, toward) == {-1}
        ):
            return i
    return None


def _signs(flow: Flow, start: int, end: int | None, toward: set[int]) -> set[int]:
    """The signs with which a row goes into the loss, a 0 among them where that is not known."""
    found: set[int] = set()
    stack = [(start, 1)]
    while stack and len(found) < 2:
        index, sign = stack.pop()
        if index == end:
            found.add(sign)
            continue
        for reader in flow.readers.get(index, ()):
            if reader in toward:
                factor = _factor(flow, reader, index)
                if factor == 0:
                    return {0}
                stack.append((reader, sign * factor))
    return found


def _factor(flow: Flow, reader: int, index: int) -> int:
    """1 or -1, the sign that a linear row gives to one of its inputs; 0 for any other row."""
    call, kind = flow.calls[reader], operation(flow.calls[reader])
    if kind not in LINEAR:
        return 0
    if kind in ("mul", "div"):
        number = argument(call, "other", argument(call, "input"))
        return (
            0 if not isinstance(number, int | float) or number == 0 else (1 if number > 0 else -1)
        )
    if kind == "sub":
        second = len(call.inputs) > 1 and call.inputs[1].source == index
        return 0 if second and call.inputs[0].source == index else (-1 if second else 1)
    return -1 if kind in ("neg", "rsub") else 1


def _chain(flow: Flow, index: int | None) -> tuple[bool, int, int | None]:
    """Whether a standard loss (or squared error) of a given target is at the end of the chain, the sign changes on the way, and its row; else a likelihood's."""
    flips = 0
    while index is not None:
        call = flow.calls[index]
        kind = operation(call)
        if kind in LOSSES:
            target = flow.outer(call.inputs[1]) if len(call.inputs) > 1 else None
            return (target is not None and target.source is None), flips, index
        if kind == "neg":
            flips += 1
        elif kind in ("mul", "div"):
            number = argument(call, "other")
            if isinstance(number, int | float) and number < 0:
                flips += 1
            elif not isinstance(number, int | float):
                return False, flips, index if _is_likelihood(flow, index) else None
        elif kind == "rsub":
            flips += 1
        elif kind in ("gather", "getitem"):
            return False, flips, index if _is_likelihood(flow, index) else None
        elif kind in ("pow", "abs"):
            return _is_error(flow, index), flips, index
        elif kind == "cosine_similarity" or kind in LIKELIHOODS:
            return False, flips, index
        elif kind not in KEEPING:
            return False, flips, None
        index = flow.producer(flow.data(index))
    return False, flips, None


def _is_similarity(flow: Flow, index: int) -> bool:
    """Whether it is the cosine between the model's output and a given target, which nobody wants to be small."""
    if operation(flow.calls[index]) != "cosine_similarity":
        return False
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
    """Whether a square or magnitude is that of a difference between the model's output and something from outside."""
    before = flow.producer(flow.data(index))
    if before is None or operation(flow.calls[before]) not in ("sub", "rsub"):
        return False
    return any(
        flow.outer(info).source is None and not info.requires_grad
        for info in flow.calls[before].inputs
    )
