"""A frozen BatchNorm whose statistics move."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Step, operation_of_module
from cnnprobe.diagnosis.evidence.questions import spoken, variable
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, layers


def _net(evaluated: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = layers(
        lambda: nn.Conv2d(1, 4, 3, padding=1),
        lambda: nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        lambda: nn.Linear(256, 4),
    )
    for layer in list(model)[:2]:
        layer.requires_grad_(False)
    with torch.no_grad():
        model[1].running_mean.add_(0.5)
        model[1].running_var.mul_(1.5)
        model[1].num_batches_tracked.add_(1000)
    if evaluated:
        model[1].eval()
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """A trained backbone, frozen, in train mode."""
    return _net(evaluated=False)


def healthy() -> Mapping[str, Any]:
    """Its BatchNorm is in eval mode."""
    return _net(evaluated=True)


@rule(
    code="CP602",
    name="frozen-bn-drift",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("train-eval-gap",),
)
def frozen_bn_drift(evidence: Evidence) -> Iterator[Finding]:
    """A BatchNorm is frozen, or was put into eval mode, but is in train mode in the step: its
    running statistics still move.

    Why it matters: requires_grad_(False) stops the weights, not the statistics; the backbone does
    not stay what it was.
    What to do: put the frozen part into eval mode after each model.train().
    Known exceptions: statistics that were never trained (all 0 and 1) have nothing to lose: info.
    A part without gradients whose weights the steps change, as the average of a momentum encoder,
    is not frozen.
    Source: torch.nn.BatchNorm2d updates running_mean in train mode, whatever requires_grad is.
    """
    step = next((s for s in evidence.steps if s.losses), None)
    if step is None:
        return
    trainable_names = {p.fqn for p in step.trace.parameters if p.trainable}
    if not trainable_names:
        return
    used = {c.fqn for c in step.trace.calls}
    drifting = [
        m
        for m in step.trace.modules
        if operation_of_module(m) == "batch_norm"
        and m.training
        and m.fqn in used
        and m.config.get("track_running_stats")
        and m.config.get("affine")
        and m.config.get("momentum") != 0
        and not any(f"{m.fqn}.{p}" in trainable_names for p in ("weight", "bias"))
        and not _is_followed(evidence, m.fqn, trainable_names)
    ]
    if not drifting:
        yield from _find_undone(evidence, step, used)
        return
    learnt = [m for m in drifting if _has_learnt(evidence, m.fqn)]
    first = (learnt or drifting)[0]
    yield Finding(
        module=first.fqn,
        severity=Severity.WARNING if learnt else Severity.INFO,
        message=(
            f"{format_counted(len(drifting), 'frozen BatchNorm layer')} "
            f"{'is' if len(drifting) == 1 else 'are'} in train mode (the first is "
            f"{spoken(evidence, first.fqn)}): the running statistics change with every batch"
        ),
        fix=(
            f"{spoken(evidence, first.fqn)}.eval() after {variable(evidence, 'model')}.train()"
            + ("" if len(drifting) == 1 else ", and the others alike")
        ),
    )


def _is_followed(evidence: Evidence, fqn: str, trainable_names: set[str]) -> bool:
    """Whether the part without gradients that a norm lies in is changed by the steps: it follows
    another network.
    """
    moved = {n for step in evidence.steps for n, change in step.changes.items() if change > 0}
    names = [p.fqn for p in evidence.trace.parameters if p.kind == "parameter"]
    part, outer = fqn, fqn.rpartition(".")[0]
    while outer and not any(name.startswith(f"{outer}.") for name in trainable_names):
        part, outer = outer, outer.rpartition(".")[0]
    return any(name.startswith(f"{part}.") and name in moved for name in names)


def _find_undone(evidence: Evidence, step: Step, used: set[str | None]) -> Iterator[Finding]:
    """Norms that were put into eval mode alone, and that the step's train() puts back."""
    training = {m.fqn for m in step.trace.modules if m.training} & used
    undone = [m.fqn for m in step.trace.modules if m.fqn in evidence.probes.resting & training]
    learnt = [fqn for fqn in undone if _has_learnt(evidence, fqn)]
    if not undone:
        return
    first, name = (learnt or undone)[0], variable(evidence, "model")
    yield Finding(
        module=first,
        severity=Severity.WARNING if learnt else Severity.INFO,
        message=(
            f"{format_counted(len(undone), 'BatchNorm layer')} (the first is "
            f"{spoken(evidence, first)}) {'was' if len(undone) == 1 else 'were'} in eval mode "
            "before the first step, in modules in train mode, and the step puts "
            f"{'it' if len(undone) == 1 else 'them'} into train mode: the running statistics change"
        ),
        fix=(
            f"put {'it' if len(undone) == 1 else 'them'} into eval mode after each {name}.train(), "
            "or in a train() of the class"
        ),
        kind="undone",
    )


def _has_learnt(evidence: Evidence, fqn: str) -> bool:
    mean, var = (
        evidence.values.get(f"{fqn}.running_mean"),
        evidence.values.get(f"{fqn}.running_var"),
    )
    return (mean is not None and (mean.low != 0 or mean.high != 0)) or (
        var is not None and (var.low != 1 or var.high != 1)
    )
