"""A term of the loss that leads to nothing of what is trained with it."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, Step, describe, operation
from cnnprobe.diagnosis.evidence.questions import owner, spoken, topmost
from cnnprobe.rulebook.material import images, perceptron, stepping


def _loop(real: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    judge = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    judging = torch.optim.SGD(judge.parameters(), lr=0.05)

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        made, given = model(inputs), images(8, 1, 2).flatten(1) + 1
        judging.zero_grad()
        apart: Any = judge(made.detach()).mean() - judge(given).mean()
        apart.backward()
        judging.step()
        optimizer.zero_grad()
        loss: Any = loss_fn(made, targets) - 0.1 * judge(given if real else made).mean()
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The adversarial term of the real data."""
    return _loop(True)


def healthy() -> Mapping[str, Any]:
    """That of the model's output."""
    return _loop(False)


@rule(
    code="CP441",
    name="idle-term",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("zero-grad",),
)
def idle_term(evidence: Evidence) -> Iterator[Finding]:
    """A term of the loss has gradients, and none for what the optimizer steps with it; or it is
    multiplied by a quotient of whole numbers that is 0.

    Why it matters: the term is computed and added, and trains nothing. Its gradients wait in other
    parameters for whoever steps these next.
    What to do: compute it from the output of what is trained: a generator is judged by its own
    images, and not by real ones.
    Known exceptions: a penalty on parameters alone; a step after several losses, where each of the
    optimizers that step is counted.
    Source: Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661, algorithm 1.
    """
    steps = [step for step in evidence.steps if step.losses]
    if not steps or not evidence.own_loop:
        return
    flow = Flow(steps[0].trace)
    yield from _find_zeroed(evidence, flow, steps[0])
    for position, loss in enumerate(steps[0].losses):
        for number in loss.idle:
            row = _find_row(flow, number)
            if row is None or not _is_of_data(flow, row) or not _is_always(steps, position):
                continue
            names = topmost({owner(name) for name in loss.trained}, evidence.trace)
            trained = ", ".join(spoken(evidence, name) for name in names[:2])
            whose = f"the parameters of {trained}" if trained else "what is trained"
            yield Finding(
                module=None,
                message=(
                    f"a term of the loss, made by {describe(flow.calls[row])}, has no path to "
                    f"{whose}, which the optimizer steps with this loss: it trains nothing there"
                ),
                fix=(
                    f"compute the term from the output of {trained or 'what is trained'}, or "
                    "leave it out"
                ),
                source=flow.line(row),
            )


def _find_zeroed(evidence: Evidence, flow: Flow, step: Step) -> Iterator[Finding]:
    """The terms that are multiplied by 0, where a quotient of whole numbers has been rounded."""
    slips = [slip for slip in evidence.texts.slips if slip.kind == "zero-quotient"]
    ends = [loss.call for loss in step.losses if loss.call is not None]
    toward = set(ends).union(*(flow.before(end) for end in ends)) if slips and ends else set[int]()
    for row in sorted(toward):
        call = flow.calls[row]
        if operation(call) != "mul" or len(call.inputs) != 1 or not call.inputs[0].requires_grad:
            continue
        if [v for v in call.arguments.values() if isinstance(v, int | float)] == [0]:
            slip = slips[0]
            named = f"{slip.name} = {slip.text}" if slip.name else slip.text
            made = flow.producer(call.inputs[0])
            term = "a term" if made is None else describe(flow.calls[made])
            yield Finding(
                module=None,
                message=(
                    f"{term} is multiplied by 0 in the loss, and `{named}` is 0: // divides whole "
                    "numbers and rounds down"
                ),
                fix=f"divide by /: {named.replace('//', '/')}",
                source=slip.source,
                kind="zero-quotient",
            )
            return


def _find_row(flow: Flow, number: int) -> int | None:
    """The innermost row that made a node of autograd's graph."""
    for i in flow.primitives():
        sequence = flow.calls[i].sequence
        if sequence is not None and sequence[0] <= number < sequence[1]:
            return i
    return None


def _is_of_data(flow: Flow, row: int) -> bool:
    """Whether layers have made it, and not parameters alone."""
    rows = [flow.calls[i] for i in flow.before(row) | {row}]
    return any(call.fqn is not None or operation(call) in PROJECTIONS for call in rows)


def _is_always(steps: list[Step], position: int) -> bool:
    return all(len(step.losses) > position and step.losses[position].idle for step in steps)
