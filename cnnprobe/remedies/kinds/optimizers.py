"""Remedies of the optimizer: its learning rate, its decay, and which parameters it holds."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from cnnprobe.crash.edits.files import TextChange
from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import optimised, spoken, variable
from cnnprobe.records.words import format_counted
from cnnprobe.remedies.gradients import enlarge_gradients, keep_gradients
from cnnprobe.remedies.kinds.calls import pass_on
from cnnprobe.remedies.model_lines import prepare_model
from cnnprobe.remedies.program import UserProgram, set_option, set_parameters
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.rulebook.optimizer_setting import list_faults
from cnnprobe.rulebook.unoptimized_params import find_forgotten, find_holder, say_holder

LOWER = (0.1, 0.01, 0.001)  # times the learning rate, as a search by hand goes
HIGHER = (10.0, 100.0, 1000.0)
ROUNDED = (100.0, 10.0, 1000.0)  # bfloat16 rounds away what is below 1/256 of a weight
RISEN = 1.1  # times the first loss: a higher rate drives it up further
SHRUNK = 1e-2  # share of the gradients that a clipping leaves, below which it is to blame
USUAL_RATE = 1e-3  # the default of torch.optim.Adam, for a rate of 0
USUAL_DECAY = 5e-4  # of SGD on images: He et al. 2016, arXiv:1512.03385, use 1e-4; VGG uses 5e-4
USUAL_DECOUPLED = 0.01  # the default of torch.optim.AdamW


def scale_rates(factor: float) -> Callable[[Subject], None]:
    """Every learning rate times a factor, also those that schedulers begin with."""

    def change(subject: Subject) -> None:
        if not subject.optimizers:
            raise CannotTryError("no optimizer is known")
        for optimizer in subject.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * factor
                if "initial_lr" in group:
                    group["initial_lr"] = group["initial_lr"] * factor
        for _, scheduler in subject.around.schedulers.values():
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]

    return change


def _rates(evidence: Evidence, factors: tuple[float, ...]) -> Iterator[Remedy]:
    highest = max((rate for o in evidence.optimizers for rate in o.rates), default=math.nan)
    name = next((o.name for o in evidence.optimizers if highest in o.rates), "optimizer")
    others = ", and the others alike" if len(evidence.optimizers) > 1 else ""
    for factor in factors:
        if evidence.optimizers and highest > 0:
            yield Remedy(
                title=f"lr={highest * factor:.2g} in {name} in place of {highest:.2g}{others}",
                change=scale_rates(factor),
                edited=_write_rates(evidence, factor),
                by_loss=True,
            )


def _write_rates(evidence: Evidence, factor: float) -> Callable[[UserProgram], list[TextChange]]:
    """The rate of every optimizer times a factor; the usual one where it is 0."""
    rates = {o.name: max(o.rates, default=0.0) for o in evidence.optimizers}
    wanted = {n: float(f"{rate * factor:.2g}") or USUAL_RATE for n, rate in rates.items()}

    def write(program: UserProgram) -> list[TextChange]:
        return [c for n, rate in wanted.items() for c in set_option(program, "lr", rate, of=n)]

    return write


@answers("lr-too-high", "divergence")
def lower_rate(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A tenth of the learning rate, a hundredth, a thousandth."""
    yield from _rates(evidence, LOWER)


@answers("update-ratio")
def smaller_steps(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A lower rate, judged by the size of the steps."""
    for remedy in _rates(evidence, LOWER):
        shown = "the first step changes every weight by less than its size"
        yield replace(remedy, by_loss=False, shows=shown, loss_ends="lower")


@answers("lr-too-low")
def raise_rate(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The rate at which the loss was seen to fall; for a factor that is a rate, the factor
    alone; a clip to 1, the scaled loss, or the mean itself, where it is not the rate that makes the
    steps small.
    """
    if finding.kind == "divided-again":
        yield from _leave_undivided(evidence)
        return
    if _is_shrunk(evidence):
        yield from enlarge_gradients(evidence)
        return
    if any(0 < max(s.factors) < SHRUNK for s in evidence.schedules):
        yield from _divide_factors(evidence)
    seen = [replay.factor for replay in evidence.replays if replay.factor > 1]
    found = [factor * part for factor in seen for part in (1.0, 0.1, 0.01) if factor * part > 1]
    small = [max(s.factors) for s in evidence.schedules if 0 < max(s.factors) < 1]
    yield from _rates(evidence, (*(f for f in found), *(1.0 / s for s in small), *HIGHER))


def _leave_undivided(evidence: Evidence) -> Iterator[Remedy]:
    step = evidence.steps[0]
    call = step.trace.calls[step.losses[0].call or 0]
    yield Remedy(
        title="call backward() on the mean itself, without the division",
        change=lambda subject: subject.rewrite(call.kind, call.source, pass_on),
        shows="the loss of backward() is the mean",
        is_comparable=False,
    )


def _divide_factors(evidence: Evidence) -> Iterator[Remedy]:
    yield Remedy(
        title=f"let the function of {evidence.schedules[0].name} return a factor, at most 1",
        change=lambda subject: _to_factors(subject, evidence),
        by_loss=True,
    )


def _to_factors(subject: Subject, evidence: Evidence) -> None:
    most = max(max(schedule.factors) for schedule in evidence.schedules)
    for _, scheduler in subject.around.schedulers.values():
        if hasattr(scheduler, "lr_lambdas"):
            scheduler.lr_lambdas = [_divide(function, most) for function in scheduler.lr_lambdas]
    for optimizer in subject.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] / most


def _divide(function: Callable[[int], float], by: float) -> Callable[[int], float]:
    return lambda epoch: function(epoch) / by


def _is_shrunk(evidence: Evidence) -> bool:
    """Whether a clipping or a GradScaler makes the gradients small."""
    events = [event for step in evidence.steps for event in step.events]
    return any(
        e.kind == "scale" or (e.kind == "clip" and e.rate is not None and e.rate < SHRUNK)
        for e in events
    )


@answers("loss-not-decreasing", "cannot-overfit")
def change_rate(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Ten times the rate, a hundred times, a tenth; only lower ones where the loss has risen."""
    if finding.follows_from:
        return  # a rate hides the cause
    first, last = evidence.steps[0].value, evidence.steps[-1].value
    has_risen = first is not None and last is not None and last > RISEN * first > 0
    yield from _rates(evidence, LOWER if has_risen else (10.0, 100.0, 0.1))


@answers("unchanged-weights")
def set_rate(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A usual rate in the place of 0; a higher one where rounding takes the steps away."""
    if finding.kind == "resting-group":
        rate = max(rate for o in evidence.optimizers for rate in o.rates)
        yield Remedy(
            title=f"lr={rate:g} in the parameter group that has 0",
            change=lambda subject: _set_rates(subject, rate),
            shows="the weights change in each step",
        )
        return
    if finding.kind == "gradients-cleared":
        yield from keep_gradients(evidence)
    elif _is_shrunk(evidence):
        yield from enlarge_gradients(evidence)
    else:
        yield from (
            replace(remedy, by_loss=False, shows="the weights change in each step")
            for remedy in _rates(evidence, ROUNDED)
        )
    name = evidence.optimizers[0].name if evidence.optimizers else "optimizer"
    if not any(rate for o in evidence.optimizers for rate in o.rates):
        yield Remedy(
            title=f"lr={USUAL_RATE:g} in {name} in place of 0",
            change=lambda subject: _set_rates(subject, USUAL_RATE),
            edited=_write_rates(evidence, 1.0),
            shows="the weights change in each step",
        )


def _set_rates(subject: Subject, rate: float) -> None:
    for optimizer in subject.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] or rate


@answers("optimizer-setting")
def set_usual(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The usual value of the option."""
    name, option = finding.subject, finding.kind
    faults = {
        o: u for i in evidence.optimizers if i.name == name for _, o, u in list_faults(evidence, i)
    }
    usual = faults[option]
    yield Remedy(
        title=f"{option}={usual:g} in {name}",
        change=lambda subject: _set_usual(subject, name, option, usual),
        edited=lambda program: set_option(program, option, usual, of=name),
        shows=f"{option} is in its range",
    )


def _set_usual(subject: Subject, name: str, option: str, value: float) -> None:
    option, _, place = option.removesuffix("]").partition("[")
    for known, optimizer in subject.around.optimizers.values():
        for group in optimizer.param_groups if known == name else ():
            old = group[option]
            group[option] = _put(old, int(place), value) if place else value


def _put(pair: tuple[Any, ...], place: int, value: float) -> tuple[Any, ...]:
    return (*pair[:place], value, *pair[place + 1 :])


@answers("unoptimized-params", "stale-optimizer")
def give_all(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Every trainable parameter of the model; of several optimizers, what is left out for the one
    that holds its like.
    """
    if finding.kind == "loss":
        yield from _give_loss(finding, evidence)
        return
    if finding.kind == "thawed":
        return  # the observed steps run before the parameters are let train
    if len(evidence.optimizers) > 1 and finding.rule == "unoptimized-params":
        yield from _give_part(finding, evidence)
        return
    held = sum(len(optimizer.parameters) for optimizer in evidence.optimizers)
    name = evidence.optimizers[0].name if evidence.optimizers else "optimizer"
    owned = [p for p in evidence.trace.parameters if p.kind == "parameter" and p.trainable]
    yield Remedy(
        title=f"give {name} all of {variable(evidence, 'model')}.parameters()",
        change=_give_all,
        edited=lambda program: set_parameters(program, "{model}.parameters()"),
        shows=f"{len(owned) - held} more parameters are trained",
    )


def _give_part(finding: Finding, evidence: Evidence) -> Iterator[Remedy]:
    """The parameters of a module, to the optimizer that holds its like."""
    module = finding.module or ""
    holder = find_holder(evidence, module)
    if holder is None:
        return
    count = sum(
        p.trainable and p.fqn.startswith(f"{module}.") and p.fqn not in optimised(evidence)
        for p in evidence.trace.parameters
        if p.kind == "parameter"
    )

    def change(subject: Subject) -> None:
        found = [o for name, o in subject.around.optimizers.values() if name == holder.name]
        if not found:
            raise CannotTryError(f"{holder.name} is not known")
        held = {id(p) for o in subject.optimizers for g in o.param_groups for p in g["params"]}
        fresh = [p for p in subject.module(module).parameters() if p.requires_grad]
        found[0].param_groups[0]["params"].extend(p for p in fresh if id(p) not in held)

    yield Remedy(
        title=say_holder(evidence, module),
        change=change,
        shows=f"{format_counted(count, 'more parameter')} {'is' if count == 1 else 'are'} trained",
    )


def _give_loss(finding: Finding, evidence: Evidence) -> Iterator[Remedy]:
    """The parameters of the loss too; where it is made before the optimizer is not known."""
    own = [c for c in find_forgotten(evidence) if c.module == finding.subject]

    def change(subject: Subject) -> None:
        known = dict(subject.around.models.values())
        if finding.subject not in known:
            raise CannotTryError(f"{finding.subject} is not known")
        subject.optimise([p for p in known[finding.subject].parameters() if p.requires_grad])

    yield Remedy(
        title=f"give {evidence.optimizers[0].name} {finding.subject}.parameters() too",
        change=change,
        shows=f"{format_counted(len(own), 'more parameter')} {'is' if len(own) == 1 else 'are'} "
        "trained",
    )


def _give_all(subject: Subject) -> None:
    if not subject.optimizers:
        raise CannotTryError("no optimizer is known")
    own = [p for p in subject.model.parameters() if p.requires_grad]
    known = {id(p) for _, m in subject.around.models.values() for p in m.parameters()}
    for optimizer in subject.optimizers:  # what a replaced layer has left there
        for group in optimizer.param_groups:
            group["params"][:] = [p for p in group["params"] if id(p) in known]
    subject.optimise(list(own))


@answers("frozen-in-optimizer")
def drop_frozen(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The optimizer without frozen parameters."""
    name = evidence.optimizers[0].name if evidence.optimizers else "optimizer"
    yield Remedy(
        title=f"build {name} from the parameters that require grad",
        change=_drop_frozen,
        edited=lambda program: set_parameters(
            program, "[p for p in {model}.parameters() if p.requires_grad]"
        ),
        shows=f"{name} holds no frozen parameter, and the steps are the same",
    )


def _drop_frozen(subject: Subject) -> None:
    for optimizer in subject.optimizers:
        for group in optimizer.param_groups:
            group["params"][:] = [p for p in group["params"] if p.requires_grad]


@answers("frozen-params")
def unfreeze(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The frozen module trained."""
    if finding.kind == "body":
        return  # which may be meant
    place = spoken(evidence, finding.module)
    yield Remedy(
        title=f"{place}.requires_grad_(True), before the optimizer is built",
        change=lambda subject: _unfreeze(subject, finding.module or ""),
        edited=lambda program: prepare_model(program, lambda *_: [f"{place}.requires_grad_(True)"]),
        shows=f"{place} is trained",
    )


def _unfreeze(subject: Subject, fqn: str) -> None:
    module: nn.Module = subject.module(fqn)
    module.requires_grad_(True)
    subject.optimise(list(module.parameters()))


@answers("weight-decay-high")
def lower_decay(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The usual decay."""
    decoupled = any(optimizer.decoupled for optimizer in evidence.optimizers)
    usual = USUAL_DECOUPLED if decoupled else USUAL_DECAY
    yield Remedy(
        title=f"weight_decay={usual:g} in {variable(evidence, 'optimizer')}",
        change=lambda subject: _set_decay(subject, usual),
        edited=lambda program: [
            change
            for info in evidence.optimizers
            if info.weight_decay > usual
            for change in set_option(program, "weight_decay", usual, of=info.name)
        ],
        shows="the weights follow the gradient of the loss",
    )


def _set_decay(subject: Subject, usual: float) -> None:
    for optimizer in subject.optimizers:
        for group in optimizer.param_groups:
            group["weight_decay"] = min(group.get("weight_decay", 0.0), usual)
