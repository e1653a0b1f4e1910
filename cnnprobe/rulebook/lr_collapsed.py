"""A scheduler that counts batches as epochs."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Compounding, Evidence, Step
from cnnprobe.rulebook.material import perceptron, stepping

ABRUPT = 0.1  # of the first rate, at its first fall; schedules by the step fall by less
COLLAPSED = 1.1e-3  # of the first rate, after 100 batches: an epoch of most data sets is longer


def _loop(gamma: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=gamma)

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
        scheduler.step()

    return stepping(model, loop, optimizer=optimizer, scheduler=scheduler)


def sick() -> Mapping[str, Any]:
    """A tenth every ten batches."""
    return _loop(0.1)


def healthy() -> Mapping[str, Any]:
    """Sixty percent every ten batches."""
    return _loop(0.6)


@rule(
    code="CP505",
    name="lr-collapsed",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    monitored=True,
    explains=("unchanged-weights", "lr-too-low", "cannot-overfit", "loss-not-decreasing"),
)
def lr_collapsed(evidence: Evidence) -> Iterator[Finding]:
    """The scheduler steps with every batch and makes the learning rate vanish within a hundred of
    them, or waits for the loss to grow; or the loop's own formula makes it vanish.

    Why it matters: step sizes and decays are mostly meant in epochs; counted in batches, training
    ends in the first epoch. A rate below 0 climbs.
    What to do: call scheduler.step() once an epoch, outside the loop over the batches;
    ReduceLROnPlateau needs mode="min" for a loss, "max" for an accuracy; a gamma is above 0; a
    get_lr of one's own multiplies base_lrs by its factor.
    Known exceptions: schedules with an end of their own (OneCycleLR, cosine, linear), which are
    given in batches; a train_step that is an epoch, with more steps of the optimizer than of the
    scheduler.
    Source: torch.optim, "How to adjust learning rate".
    """
    yield from _list_plateaus(evidence)
    yield from _list_counts(evidence)
    yield from _tell_fall(evidence)
    upward = _find_upward(evidence)
    if upward:
        yield _tell_upward(upward)
        return
    rates = [
        e.rate
        for step in evidence.steps
        for e in step.events
        if e.kind == "schedule" and e.rate is not None
    ]
    if evidence.collapse is None or evidence.collapse > COLLAPSED or not rates:
        return
    if any(_is_epoch(step) for step in evidence.steps):
        return
    name = next(e.subject for step in evidence.steps for e in step.events if e.kind == "schedule")
    if evidence.collapse < 0:
        yield _tell_negative(name, evidence.collapse)
        return
    if evidence.collapse == 0:  # no decay that is above 0 gets there
        yield _tell_zero(name)
        return
    if evidence.compounding is not None:
        yield _tell_compounding(evidence.compounding, evidence.collapse)
        return
    yield Finding(
        module=None,
        message=(
            f"{name}.step() is called with every batch: after 100 more the learning rate is "
            f"{evidence.collapse:.1e} of the first one (less than 1e-3)"
        ),
        fix=f"call {name}.step() once an epoch, after the loop over the batches",
        subject=name,
    )


def _list_plateaus(evidence: Evidence) -> Iterator[Finding]:
    """The plateaus that are given a number whose name says that the other direction is better."""
    for slip in evidence.texts.slips:
        if slip.kind == "plateau":
            waits = "min" if slip.value == "max" else "max"
            rises = "larger" if slip.value == "max" else "smaller"
            yield Finding(
                module=None,
                message=(
                    f'`{slip.text}`: {slip.name} has mode="{waits}", and is given a number that is '
                    f"better the {rises} it is: it takes each improvement for a standstill and "
                    "lowers the learning rate"
                ),
                fix=f'mode="{slip.value}" in {slip.name}',
                source=slip.source,
                kind="plateau",
                subject=slip.name,
            )


def _list_counts(evidence: Evidence) -> Iterator[Finding]:
    """The schedules that count epochs, by their arguments, and are stepped with each batch."""
    for slip in evidence.texts.slips:
        if slip.kind == "counts-epochs":
            comes = (
                "the loss of a single batch is no better than the one before often enough to use "
                "up the patience"
                if slip.value.startswith("patience")
                else "it has run through after as many batches"
            )
            yield Finding(
                module=None,
                message=(
                    f"`{slip.text}` counts epochs ({slip.value}), and {slip.name}.step() is called "
                    f"with every batch: {comes}"
                ),
                fix=f"call {slip.name}.step() once an epoch, after the loop over the batches",
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )


def _tell_fall(evidence: Evidence) -> Iterator[Finding]:
    """The rate that the loop itself lets fall, within the observed steps, below a thousandth."""
    events = [(n, e) for n, step in enumerate(evidence.steps, start=1) for e in step.events]
    if any(e.kind == "schedule" for _, e in events):
        return  # judged by what it comes to
    for name in dict.fromkeys(e.subject for _, e in events if e.kind == "step"):
        rates = [
            (n, e.rate)
            for n, e in events
            if e.kind == "step" and e.subject == name and e.rate is not None
        ]
        first, last = rates[0][1] if rates else 0.0, rates[-1][1] if rates else 0.0
        if not 0 < last <= COLLAPSED * first:
            continue
        fallen = next(i for i, (_, rate) in enumerate(rates) if rate < first)
        if rates[fallen][1] > ABRUPT * first:
            continue  # a decay by the step, to the end of a short run
        yield Finding(
            module=None,
            message=(
                f"the learning rate of {name} falls from {first:.3g} to {rates[fallen][1]:.3g} in "
                f"step {rates[fallen][0]}, and to {last:.3g} in step {rates[-1][0]} (less than a "
                "thousandth), by the loop's own code"
            ),
            fix=(
                f'see the formula that sets param_group["lr"] of {name}: its exponent, brackets, '
                "and whether it counts steps or epochs"
            ),
            kind="own-formula",
            subject=name,
        )


def _tell_upward(scheduler: str) -> Finding:
    return Finding(
        module=None,
        message=(
            f'{scheduler} waits for a larger number (mode="max"), but is given the loss: it '
            "takes each improvement for a standstill and lowers the learning rate"
        ),
        fix=f'mode="min" in {scheduler}',
        kind="waits-for-more",
        subject=scheduler,
    )


def _tell_zero(scheduler: str) -> Finding:
    return Finding(
        module=None,
        message=(
            f"{scheduler} sets the learning rate to exactly 0: its gamma is 0, or its lambda "
            "gives 0"
        ),
        fix=f"a gamma above 0 in {scheduler}: 0.1 is usual",
        kind="factor-of-zero",
        subject=scheduler,
    )


def _tell_negative(scheduler: str, left: float) -> Finding:
    return Finding(
        module=None,
        message=(
            f"{scheduler} makes the learning rate negative: after 100 more steps it is {left:.2g} "
            "times the first one, and each step makes the loss larger"
        ),
        fix=(
            f"let the factor of {scheduler} end at 0, max(0.0, ...), after all steps of the "
            f"training; or call {scheduler}.step() once an epoch, where it counts epochs"
        ),
        kind="negative",
        subject=scheduler,
    )


def _tell_compounding(found: Compounding, left: float) -> Finding:
    """The scheduler's own get_lr, which takes the current rate for the base rate."""
    factors = ", ".join(f"{factor:.3g}" for factor in found.factors[:3])
    return Finding(
        module=None,
        message=(
            f"get_lr() of {found.name} multiplies the current learning rate by factors that rise "
            f"with each step ({factors}, ...), and these multiply up: after 100 more steps the "
            f"learning rate is {left:.1e} of the first one"
        ),
        fix=(
            f'multiply base_lrs in get_lr() of {found.name}, and not group["lr"]: '
            "[base * factor for base in self.base_lrs]"
        ),
        kind="compounding",
        subject=found.name,
    )


def _find_upward(evidence: Evidence) -> str:
    """The ReduceLROnPlateau that is given the value of the loss and waits for a larger one."""
    told = [
        (event, step.value)
        for step in evidence.steps
        for event in step.events
        if event.kind == "schedule" and event.metric is not None
    ]
    falls = len(told) > 1 and (told[-1][0].metric or 0.0) < (told[0][0].metric or 0.0)
    is_loss = all(
        value is not None and math.isclose(event.metric or 0.0, value, rel_tol=1e-4)
        for event, value in told
    )
    return told[0][0].subject if falls and is_loss else ""


def _is_epoch(step: Step) -> bool:
    """Whether the scheduler steps, and the optimizer more often."""
    made = Counter((e.kind, e.subject) for e in step.events)
    steps, schedules = (
        max((n for (k, _), n in made.items() if k == kind), default=0)
        for kind in ("step", "schedule")
    )
    return 0 < schedules < steps
