"""Two networks that are to work against each other, and are told the same."""

from collections.abc import Iterator, Mapping, Sequence
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
from cnnprobe.records.words import format_counted

BOUNDING = frozenset({"sigmoid"})
# Between a score and the loss of a critic: nothing that makes a likelihood or an error of it.
AVERAGING = FORWARDING | BOUNDING | {"mean", "sum", "neg", "sub", "rsub", "add", "mul", "div"}
BOTH = 2  # directions


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
    generator is trained towards the label that the discriminator learns for generated ones, or one
    of the two is trained with the loss of the other too; or a critic, whose scores are compared as
    they are, ends with a sigmoid.

    Why it matters: a discriminator of one label learns nothing; a generator that helps it learns to
    be recognised.
    What to do: 1 for real and 0 for made samples; for the generator's step 1 for the made ones.
    Of a critic, the generator's loss is the opposite of the term for made samples. Each of the two
    has an optimizer of its own parameters; detach() the made samples in the discriminator's loss.
    Known exceptions: a gradient reversal, where the same label is meant; scores of which a loss
    does not tell the direction; real and made samples that come from one and the same network.
    Source: Goodfellow et al. 2014, arXiv:1406.2661, section 3 and algorithm 1; Arjovsky et al.
    2017, "Wasserstein GAN", arXiv:1701.07875, section 3, of a critic without a sigmoid.
    """
    if not evidence.own_loop or not evidence.steps:
        return
    flow, step = Flow(evidence.trace), evidence.steps[0]
    terms = [(loss, t) for loss in step.losses for t in _list_terms(flow, loss)]
    said = set[str]()
    for loss, term in terms:
        if not _is_trained(loss, term.judge):
            continue
        own = [t for other, t in terms if other is loss and t.judge == term.judge]
        is_same = len(own) > 1 and len({t.target for t in own}) == 1
        if is_same and len({t.before for t in own}) > 1 and term is own[0]:
            said.add(term.judge)
            yield _say_same(flow, term, own)
    pushes = [(k, push) for k, loss in enumerate(step.losses) for push in list_pushes(flow, loss)]
    for finding in (
        *_list_same(flow, step, pushes),
        *_list_agreed(evidence, flow, pushes),
        *_list_shared(evidence, flow, pushes),
        *_list_torn(evidence, flow, pushes),
        *_list_bounded(flow, step, pushes),
    ):
        if finding.module not in said:
            said.add(str(finding.module))
            yield finding


def _list_same(flow: Flow, step: Step, pushes: Sequence[tuple[int, Push]]) -> Iterator[Finding]:
    """The judges that a loss moves in one direction for real and for made samples."""
    for k, made in pushes:
        if not made.makers or not _is_trained(step.losses[k], made.judge):
            continue
        own = [
            p
            for other, p in pushes
            if p.judge == made.judge and _is_trained(step.losses[other], p.judge)
        ]
        real = [p for p in own if not p.makers]
        if real and {p.direction for p in own} == {made.direction}:
            where = "higher" if made.direction > 0 else "lower"
            yield Finding(
                module=made.judge,
                message=(
                    f"'{made.judge}' is trained to score samples that other layers make {where}, "
                    f"and real ones {where} too: it need not tell them apart"
                ),
                fix=(
                    "reverse the sign of the term of the made samples in the loss of "
                    f"'{made.judge}', so that it is the opposite of that of the real ones"
                ),
                source=flow.line(made.row),
                kind="same",
            )


def _list_agreed(
    evidence: Evidence, flow: Flow, pushes: Sequence[tuple[int, Push]]
) -> Iterator[Finding]:
    """The scores of made samples that a judge and what makes them move in one direction."""
    for k, push in pushes:
        if _moves(evidence, k, push.judge) or not push.trained:
            continue
        own = [
            p
            for other, p in pushes
            if p.judge == push.judge
            and _moves(evidence, other, p.judge)
            and push.trained <= p.makers
        ]
        if {p.direction for p in own} == {push.direction}:  # none, or several, where it is mixed
            yield _say_agreed(flow, push, own[0])


def _moves(evidence: Evidence, k: int, module: str) -> bool:
    """Whether the k-th loss trains a module, and no zero_grad takes its gradients away before the
    step of its optimizer.
    """
    step = evidence.steps[0]
    held = {o.name for o in evidence.optimizers if module in map(owner, o.parameters)}
    backwards = [i for i, event in enumerate(step.events) if event.kind == "backward"]
    if not _is_trained(step.losses[k], module) or len(backwards) != len(step.losses):
        return _is_trained(step.losses[k], module)
    own = [e.kind for e in step.events[backwards[k] :] if e.subject in held]
    return own[:1] != ["zero_grad"]


def _list_shared(
    evidence: Evidence, flow: Flow, pushes: Sequence[tuple[int, Push]]
) -> Iterator[Finding]:
    """The losses of a judge that also reach what makes the samples, and whose gradients are added
    to those of the generator's own loss, which goes the other way.
    """
    step = evidence.steps[0]
    for k, made in pushes:
        real = [p for other, p in pushes if other == k and p.judge == made.judge and not p.makers]
        if not real or {p.direction for p in real} == {made.direction}:
            continue
        for other, push in pushes:
            shared = _list_weights(step.losses[k], made) & _list_weights(step.losses[other], push)
            if (
                other > k
                and push.judge == made.judge
                and push.direction == -made.direction
                and any(_are_added(evidence, step, (k, other), name) for name in sorted(shared))
            ):
                yield _say_shared(flow, made, sorted(shared))
                break


def _list_weights(loss: Loss, push: Push) -> set[str]:
    """The weights of the makers that a loss reaches."""
    return {name for name in loss.reached if owner(name) in push.trained}


def _are_added(evidence: Evidence, step: Step, losses: tuple[int, int], name: str) -> bool:
    """Whether the gradients that two losses give a weight meet in one step of its optimizer."""
    held = {o.name for o in evidence.optimizers if name in o.parameters}
    others = {o.name for o in evidence.optimizers} - held
    backwards = [i for i, event in enumerate(step.events) if event.kind == "backward"]
    if len(backwards) <= max(losses) or not held:
        return False
    first, last = (backwards[k] for k in losses)
    if any(e.kind == "zero_grad" and e.subject not in others for e in step.events[first:last]):
        return False
    if any(e.kind == "step" and e.subject in held for e in step.events[first:last]):
        return False
    behind = [e for e in step.events[last:] if e.subject in held or e.kind == "zero_grad"]
    return bool(behind) and behind[0].kind == "step"


def _list_torn(
    evidence: Evidence, flow: Flow, pushes: Sequence[tuple[int, Push]]
) -> Iterator[Finding]:
    """The scores of made samples that a judge is trained to lower by one loss, and to raise by the
    loss of what makes them.
    """
    step = evidence.steps[0]
    for k, push in pushes:
        loss = step.losses[k]
        if not (_is_trained(loss, push.judge) and push.trained):
            continue
        for number, own in pushes:
            other = step.losses[number]
            if (
                other is not loss
                and own.judge == push.judge
                and own.direction == -push.direction
                and push.trained <= own.makers
                and loss.reached > other.reached
                and _is_trained(other, own.judge)
                and any(owner(name) == own.judge for name in other.reached)
                and _is_stepped(
                    evidence, k, sorted(n for n in loss.reached if owner(n) == own.judge)
                )
            ):
                yield _say_torn(flow, push, own)
                return


def _list_bounded(flow: Flow, step: Step, pushes: Sequence[tuple[int, Push]]) -> Iterator[Finding]:
    """Critics whose mean scores of real and made samples are compared, behind a sigmoid."""
    for k, loss in enumerate(step.losses):
        own = [p for other, p in pushes if other == k and _is_trained(loss, p.judge)]
        plain = [p for p in own if p.path & BOUNDING and p.path <= AVERAGING]
        if len({p.direction for p in plain}) == BOTH and len({p.judge for p in plain}) == 1:
            yield Finding(
                module=plain[0].judge,
                message=(
                    "the loss is the difference of two means of scores, as of a Wasserstein "
                    f"critic, and a sigmoid keeps the scores of '{plain[0].judge}' between 0 "
                    "and 1: at its ends neither network gets a gradient"
                ),
                fix=f"let the critic end with '{plain[0].judge}', without the sigmoid",
                source=flow.line(plain[0].row),
                kind="bounded",
            )
            return


def _is_stepped(evidence: Evidence, number: int, names: Sequence[str]) -> bool:
    """Whether the gradients that a loss gives some weights are there in a step of their optimizer:
    not cleared between the backward and the step, as `d_opt.zero_grad()` does with what the loss of
    the generator leaves.
    """
    held = {o.name for o in evidence.optimizers if o.parameters.intersection(names)}
    others = {o.name for o in evidence.optimizers} - held
    events = evidence.steps[0].events
    backwards = [i for i, event in enumerate(events) if event.kind == "backward"]
    if len(backwards) <= number or not held:
        return True
    behind = [
        e
        for e in events[backwards[number] :]
        if (e.kind == "step" and e.subject in held)
        or (e.kind == "zero_grad" and e.subject not in others)
    ]
    return bool(behind) and behind[0].kind == "step"


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
        fix="reverse the generator's loss: the other label, or the other sign",
        source=flow.line(push.row),
        kind="agreed",
    )


def _say_shared(flow: Flow, made: Push, weights: Sequence[str]) -> Finding:
    return Finding(
        module=made.judge,
        message=(
            f"the loss that trains '{made.judge}' to tell made samples apart also reaches "
            f"{format_counted(len(weights), 'weight')} of what makes them (the first is "
            f"{weights[0]}), and its gradient is added to that of the generator's own loss"
        ),
        fix="detach() the made samples in the loss of the discriminator, or clear the gradients of "
        "the generator before the backward of its loss",
        source=flow.line(made.row),
        kind="shared",
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
