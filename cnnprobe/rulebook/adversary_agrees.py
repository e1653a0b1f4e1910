"""Two networks that are to work against each other, and are told the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    FORWARDING,
    PROJECTIONS,
    Evidence,
    Flow,
    Loss,
    Step,
    operation,
)
from cnnprobe.diagnosis.evidence.directions import SCORES, Push, list_pushes
from cnnprobe.diagnosis.evidence.questions import input_stats, owner, stat


def _loop(label: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maker = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
            self.judge = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, x: Any) -> Any:
            return self.judge(self.maker(x))

    model, loss_fn = Pair(), nn.BCEWithLogitsLoss()
    making = torch.optim.Adam(model.maker.parameters(), 1e-3)
    judging = torch.optim.Adam(model.judge.parameters(), 1e-3)

    def train_step(real: Any) -> None:
        made = model.maker(torch.randn(len(real), 4))
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        judging.zero_grad()
        told = loss_fn(model.judge(real), ones) + loss_fn(model.judge(made.detach()), zeros)
        told.backward()
        judging.step()
        making.zero_grad()
        loss_fn(model.judge(made), torch.full_like(ones, label)).backward()
        making.step()

    return {
        "model": model,
        "inputs": torch.randn(8, 8),
        "optimizer": [making, judging],
        "train_step": train_step,
    }


def sick() -> Mapping[str, Any]:
    """The generator is trained to be told apart."""
    return _loop(0.0)


def healthy() -> Mapping[str, Any]:
    """It is trained to pass for real."""
    return _loop(1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A score of the adversary's that is compared with one number."""

    row: int
    judge: str  # the layer that gives the score
    target: float
    before: frozenset[str]  # the modules that the scored sample comes from


@rule(code="CP545", name="adversary-agrees", severity=Severity.WARNING, examples=(sick, healthy))
def adversary_agrees(evidence: Evidence) -> Iterator[Finding]:
    """A discriminator is trained with the same label for real and generated samples, or the
    generator is trained towards the label that the discriminator learns for generated ones, or the
    discriminator is trained with the generator's loss too.

    Why it matters: a discriminator of one label learns nothing; a generator that helps it learns to
    be recognised.
    What to do: 1 for real and 0 for made samples; for the generator's step 1 for the made ones.
    Of a critic, the generator's loss is the opposite of the term for made samples. Each of the two
    has an optimizer of its own parameters.
    Known exceptions: a gradient reversal, where the same label is meant; scores of which a loss
    does not tell the direction; real and made samples that come from one and the same network.
    Source: Goodfellow et al. 2014, arXiv:1406.2661, section 3 and algorithm 1.
    """
    if not evidence.own_loop or not evidence.steps:
        return
    flow, step = Flow(evidence.trace), evidence.steps[0]
    terms = [(loss, t) for loss in step.losses for t in _list_terms(flow, loss)]
    for loss, term in terms:
        if not _is_trained(loss, term.judge):
            continue
        own = [t for other, t in terms if other is loss and t.judge == term.judge]
        is_same = len(own) > 1 and len({t.target for t in own}) == 1
        if is_same and len({t.before for t in own}) > 1 and term is own[0]:
            yield _say_same(flow, term, own)
    yield from _list_agreed(flow, step)
    yield from _list_torn(flow, step)


def _list_agreed(flow: Flow, step: Step) -> Iterator[Finding]:
    """The scores of made samples that a judge and what makes them move in one direction."""
    pushes = [(loss, push) for loss in step.losses for push in list_pushes(flow, loss)]
    said = set[str]()
    for loss, push in pushes:
        if _is_trained(loss, push.judge) or not push.trained or flow.line(push.row) in said:
            continue
        own = [
            p
            for other, p in pushes
            if p.judge == push.judge and _is_trained(other, p.judge) and push.trained <= p.makers
        ]
        if {p.direction for p in own} == {push.direction}:  # none, or several, where it is mixed
            said.add(flow.line(push.row))
            yield _say_agreed(flow, push, own[0])


def _list_torn(flow: Flow, step: Step) -> Iterator[Finding]:
    """The scores of made samples that a judge is trained to lower by one loss, and to raise by the
    loss of what makes them.
    """
    pushes = [(loss, push) for loss in step.losses for push in list_pushes(flow, loss)]
    for loss, push in pushes:
        if not (_is_trained(loss, push.judge) and push.trained):
            continue
        for other, own in pushes:
            if (
                other is not loss
                and own.judge == push.judge
                and own.direction == -push.direction
                and push.trained <= own.makers
                and loss.reached > other.reached
                and _is_trained(other, own.judge)
            ):
                yield _say_torn(flow, push, own)
                return


def _is_trained(loss: Loss, module: str) -> bool:
    return any(owner(name) == module for name in loss.trained)


def _list_terms(flow: Flow, loss: Loss) -> Iterator[Term]:
    """The scores in a loss, each with the one number that it is compared with."""
    if loss.call is None:
        return
    for i in sorted(flow.before(loss.call) | {loss.call}):
        call = flow.calls[i]
        if operation(call) not in SCORES or len(call.inputs) <= 1:
            continue
        target = input_stats(flow, call.inputs[1])
        low, high = stat(target, "min"), stat(target, "max")
        made = flow.origin(call.inputs[0], FORWARDING | {"sigmoid"})
        judge = flow.owner(made)
        if low != high or made is None or not judge:
            continue
        if operation(flow.calls[made]) in PROJECTIONS:
            before = frozenset(n for j in flow.before(made) if (n := flow.calls[j].fqn))
            yield Term(row=i, judge=judge, target=low, before=before)


def _say_same(flow: Flow, term: Term, others: list[Term]) -> Finding:
    lines = ", ".join(sorted({flow.line(t.row).rpartition(":")[2] for t in others}))
    return Finding(
        module=term.judge,
        message=(
            f"'{term.judge}' is trained to score {term.target:g} for {len(others)} kinds of "
            f"samples (lines {lines}): it need not tell them apart"
        ),
        fix="compare the scores of made samples with 0, those of real ones with 1",
        source=flow.line(others[-1].row),
        kind="same",
    )


def _say_agreed(flow: Flow, push: Push, own: Push) -> Finding:
    where = "higher" if push.direction > 0 else "lower"
    return Finding(
        module=push.judge,
        message=(
            f"the generator is trained towards a {where} score of '{push.judge}', which is itself "
            f"trained to score its samples {where} (line "
            f"{flow.line(own.row).rpartition(':')[2]}): the two do not work against each other"
        ),
        fix=("reverse one of the two: the other label, or the other sign, in the generator's loss"),
        source=flow.line(push.row),
        kind="agreed",
    )


def _say_torn(flow: Flow, push: Push, own: Push) -> Finding:
    where, back = ("higher", "lower") if push.direction > 0 else ("lower", "higher")
    return Finding(
        module=push.judge,
        message=(
            f"'{push.judge}' is trained in both directions: to score made samples {back} (line "
            f"{flow.line(own.row).rpartition(':')[2]}), and {where} by the loss of the generator, "
            "whose optimizer step changes it too"
        ),
        fix=(
            "give the generator an optimizer of its own parameters alone, and step only that one "
            "with its loss"
        ),
        source=flow.line(push.row),
        kind="torn",
    )
