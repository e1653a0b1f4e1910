"""Remedies of what parameters and inputs hold: a fresh initialisation, standardised inputs, scaled
targets.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.questions import loss_calls, spoken, stat, variable
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.remedies.changes import exchange, find_module
from cnnprobe.remedies.initialisation import initialise_every_layer, initialise_one
from cnnprobe.remedies.kinds.calls import instead, rows_at
from cnnprobe.remedies.kinds.optimizers import lower_rate
from cnnprobe.remedies.loop_lines import change_inputs_first, change_targets_first
from cnnprobe.remedies.model_lines import clear_bias, prepare_model, view_as_first
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.remedies.writing import write_layer
from cnnprobe.rulebook.loss_broadcast import is_crossed

_OWN_TARGET = "each prediction is compared with its own target"
SMALLER = 0.01  # times the weights of a last layer: its logits are then about 0


@answers("bad-init", "constant-init", "symmetric-init", "nan-parameter")
def initialise_again(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """He's initialisation of the layer; then of all."""
    place = spoken(evidence, finding.module)
    shown = f"the weights of {place} differ, at a scale that keeps the signal's"
    yield replace(
        initialise_one(evidence, finding.module or "", shown),
        title=f"nn.init.kaiming_normal_({place}.weight)",
    )
    yield initialise_every_layer(model)


@answers("zero-scale")
def scale_by_one(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A weight of 1 in every such normalisation."""
    names = finding.subject.split(" ")
    places = [spoken(evidence, name) for name in names]

    def change(subject: Subject) -> None:
        with torch.no_grad():
            for name in names:
                subject.module(name).weight.fill_(1.0)  # type: ignore[operator]

    yield Remedy(
        title=f"{places[0]}.weight.fill_(1)" + (", and the others alike" if names[1:] else ""),
        change=change,
        edited=lambda program: prepare_model(
            program, lambda *_: [f"{place}.weight.data.fill_(1.0)" for place in places]
        ),
        shows="the input goes through",
        loss_ends="moved",
    )


@answers("dead-relu")
def initialise_before(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A fresh initialisation of the layer before it; LeakyReLU; a lower rate."""
    before = _find_layer_before(finding, evidence)
    if before is not None:
        shown = "the ReLU lets a part of its inputs through"
        yield initialise_one(evidence, before, shown)
    if finding.module and isinstance(find_module(model, finding.module), nn.ReLU):
        yield Remedy(
            title=f"nn.LeakyReLU() in place of {spoken(evidence, finding.module)}",
            change=exchange(finding.module, lambda _: nn.LeakyReLU()),
            written=write_layer(finding.module, "nn.LeakyReLU()", evidence, model),
            shows="gradient passes where the ReLU was zero",
        )
    yield from lower_rate(finding, evidence, model)


@answers("dead-channels")
def revive(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A fresh initialisation of the layer; of all layers; a lower rate."""
    place = spoken(evidence, finding.module)
    fqn, shown = finding.module or "", f"most channels of {place} get a gradient"
    if isinstance(find_module(model, fqn), nn.modules.batchnorm._NormBase):
        yield Remedy(
            title=f"initialise {place} again: {place}.reset_parameters()",
            change=lambda subject: subject.module(fqn).reset_parameters(),  # type: ignore[operator]
            edited=lambda program: prepare_model(
                program, lambda *_: [f"{place}.reset_parameters()"]
            ),
            shows=shown,
        )
    else:
        yield initialise_one(evidence, fqn, shown)
    yield replace(initialise_every_layer(model), shows="most channels of all layers get a gradient")
    yield from lower_rate(finding, evidence, model)


def _find_layer_before(finding: Finding, evidence: Evidence) -> str | None:
    """The layer with weights whose output reaches the blamed row."""
    for trace in (evidence.trace, *(step.trace for step in evidence.steps[-1:])):
        flow = Flow(trace)
        for i in flow.primitives():
            at_place = flow.owner(i) == finding.module
            if at_place and (not finding.source or flow.line(i) == finding.source):
                before = sorted(j for j in flow.before(i) if _has_weight(evidence, flow, j))
                return flow.calls[before[-1]].fqn if before else None
    return None


def _has_weight(evidence: Evidence, flow: Flow, index: int) -> bool:
    fqn = flow.calls[index].fqn
    value = evidence.values.get(f"{fqn}.weight")
    return fqn is not None and value is not None and len(value.shape) > 1


@answers("saturated-activation", "exploding-activation")
def initialise_for_scale(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A fresh initialisation of the layer before it; of all layers."""
    before = _find_layer_before(finding, evidence)
    if before is not None:
        yield replace(
            initialise_one(evidence, before, "its values stay in range"),
            title=f"nn.init.kaiming_normal_({spoken(evidence, before)}.weight)",
        )
    yield replace(initialise_every_layer(model), shows="the values of all layers stay in range")
    yield from standardise_inputs(finding, evidence, model)


@answers("loss-at-init")
def shrink_head(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The last layer a hundred times smaller."""
    if finding.module is None or finding.kind == "learnt":
        return
    place = spoken(evidence, finding.module)
    yield Remedy(
        title=f"initialise {place} smaller: weight times {SMALLER:g}, bias 0",
        change=lambda subject: _shrink(subject.module(finding.module or "")),
        edited=lambda program: prepare_model(
            program,
            lambda _, nn: [f"{place}.weight.data.mul_({SMALLER:g})", *clear_bias(nn, place)],
        ),
        shows="the first loss is that of guessing",
    )
    yield initialise_every_layer(model)
    yield from standardise_inputs(finding, evidence, model)


def _shrink(module: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                parameter.mul_(0.0 if name == "bias" else SMALLER)


@answers("input-range")
def standardise_inputs(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Inputs with mean 0 and standard deviation 1; none for zeros alone."""
    if finding.kind == "zeros":
        return
    yield Remedy(
        title=f"standardise {variable(evidence, 'inputs')}: (x - x.mean()) / x.std()",
        change=_standardise,
        edited=lambda program: change_inputs_first(program, "({x} - {x}.mean()) / {x}.std()"),
        shows="what reaches the first layer has mean 0 and standard deviation 1",
    )


def _standardise(subject: Subject) -> None:
    def change(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() < 2:
            return value
        return ((value - value.mean()) / value.std().clamp(min=1e-8)).detach()

    subject.request = replace(subject.request, inputs=tree_map(change, subject.request.inputs))


@answers("negative-loss")
def scale_targets(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Targets in [0, 1]."""
    targets = variable(evidence, "targets")
    low = min((stat(info, "min") for info in evidence.targets), default=0.0)
    high = max((stat(info, "max") for info in evidence.targets), default=1.0)
    if (low, high) == (-1, 1) and any(stat(info, "zeros") > 0 for info in evidence.targets):
        yield _clamp_unknown(targets)
        return
    code = f"{{y}} / {high:g}"
    if low != 0 and high > low:  # labels of -1 and 1, of 1 and 2
        moved = f"({{y}} {'-' if low > 0 else '+'} {abs(low):g})"
        code = f"{moved} / {high - low:g}" if high - low != 1 else moved[1:-1]
    yield Remedy(
        title=code.format(y=targets),
        change=change_targets(lambda t: (t - low) / (high - low) if low else t / high),
        edited=lambda program: change_targets_first(program, code),
        shows="the loss has a lower bound, 0",
        is_comparable=False,
    )


def _clamp_unknown(targets: str) -> Remedy:
    """Labels of 0 and 1 among which -1 says that it is not known: halves would blur the others."""
    return Remedy(
        title=f"{targets}.clamp(min=0), or leave those of -1 out of the loss",
        change=change_targets(lambda t: t.clamp(min=0)),
        edited=lambda program: change_targets_first(program, "{y}.clamp(min=0)"),
        shows="the loss has a lower bound, 0",
        is_comparable=False,
    )


@answers("unsigned-labels")
def sign_labels(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Labels of -1 and 1."""
    yield Remedy(
        title=f"2 * {variable(evidence, 'targets')} - 1",
        change=change_targets(lambda t: 2 * t - 1),
        edited=lambda program: change_targets_first(program, "2 * {y} - 1"),
        shows="the loss of every sample depends on the output",
        is_comparable=False,
    )


def change_targets(how: Callable[[Tensor], Tensor]) -> Callable[[Subject], None]:
    """Other targets in the batch."""

    def change(subject: Subject) -> None:
        targets = subject.request.targets
        if not isinstance(targets, Tensor):
            raise CannotTryError("the targets are no tensor of the batch")
        subject.request = replace(subject.request, targets=how(targets))

    return change


@answers("loss-broadcast")
def match_targets(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """An axis of one more, or less, in the targets; what the loop compares with in the shape of
    the output.
    """
    targets = variable(evidence, "targets")
    if finding.kind == "weights":
        for _, call in rows_at(finding, evidence)[:1]:
            yield Remedy(
                title=f"both operands of {describe(call)} in one shape",
                change=instead(call, _align),
                shows="each error meets the weight of its own sample",
                is_comparable=False,
            )
        return
    if finding.kind == "lost-dim":
        for _, call in rows_at(finding, evidence)[:1]:
            yield Remedy(
                title=f"unsqueeze(1) of the second operand of {describe(call)}",
                change=instead(call, _give_dim_back),
                shows="each row gets its own value",
                is_comparable=False,
            )
        return
    crossed = _find_crossed(Flow(evidence.trace))
    if crossed:
        yield Remedy(
            title="output.squeeze(1) before it meets the targets",
            change=lambda subject: _squeeze_all(subject, crossed),
            shows=_OWN_TARGET,
            is_comparable=False,
        )
        return
    if finding.kind == "made-target":
        yield from _view_made_target(finding, evidence)
        return
    yield Remedy(
        title=f"{targets}.unsqueeze(1)",
        change=change_targets(lambda t: t.unsqueeze(1)),
        edited=lambda program: change_targets_first(program, "{y}.unsqueeze(1)"),
        shows=_OWN_TARGET,
        is_comparable=False,
    )
    yield Remedy(
        title=f"{targets}.squeeze(1)",
        change=change_targets(lambda t: t.squeeze(1)),
        edited=lambda program: change_targets_first(program, "{y}.squeeze(1)"),
        shows=_OWN_TARGET,
        is_comparable=False,
    )


def _give_dim_back(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if args[0].dim() == args[1].dim() + 1:
        return func(args[0], args[1].unsqueeze(1), *args[2:], **kwargs)
    return func(*args, **kwargs)


def _align(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if all(isinstance(a, Tensor) for a in args[:2]) and args[0].numel() == args[1].numel():
        return func(args[0], args[1].view_as(args[0]), *args[2:], **kwargs)
    return func(*args, **kwargs)


def _find_crossed(flow: Flow) -> list[ModuleCall]:
    """The loop's own arithmetic that broadcasts outputs against targets."""
    return [
        flow.calls[i]
        for i in flow.primitives({"mul", "add", "sub", "rsub", "div"})
        if flow.owner(i) is None
        and len(flow.calls[i].inputs) == 2
        and any(is_crossed(a.shape, b.shape) for a, b in _list_pairs(flow.calls[i]))
    ]


def _view_made_target(finding: Finding, evidence: Evidence) -> Iterator[Remedy]:
    for loss in loss_calls(evidence):
        if loss.call.source == finding.source:
            yield Remedy(
                title=f"target.view_as(output) in {describe(loss.call)}",
                change=instead(loss.call, _in_one_shape),
                written=lambda call=loss.call: view_as_first(call.source, call.kind),  # type: ignore[misc]
                shows=_OWN_TARGET,
                is_comparable=False,
            )


def _in_one_shape(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(args[0], args[1].view_as(args[0]), *args[2:], **kwargs)


def _list_pairs(call: ModuleCall) -> tuple[tuple[TensorInfo, TensorInfo], ...]:
    first, second = call.inputs[:2]
    return (first, second), (second, first)


def _squeeze_all(subject: Subject, calls: list[ModuleCall]) -> None:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        a, b = args[:2]
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            a = a.squeeze(1) if is_crossed(tuple(a.shape), tuple(b.shape)) else a
            b = b.squeeze(1) if is_crossed(tuple(b.shape), tuple(a.shape)) else b
        return func(a, b, *args[2:], **kwargs)

    for call in calls:
        subject.rewrite(call.kind, call.source, run)
