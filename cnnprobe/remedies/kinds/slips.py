"""Remedies of what does not fit: layers that shrink their input, targets out of scale, kernels
larger than their map, weights that the forward draws anew.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.questions import spoken, variable
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.changes import find_module
from cnnprobe.remedies.initialisation import initialise_every_layer
from cnnprobe.remedies.kinds.calls import pass_on
from cnnprobe.remedies.loop_lines import change_targets_first
from cnnprobe.remedies.model_lines import remove_line
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.remedies.writing import Written, write_settings
from cnnprobe.rulebook.kernel_on_padding import find_live
from cnnprobe.rulebook.unscaled_targets import LARGE
from cnnprobe.rulebook.vanishing_activation import WATCHED


@answers("vanishing-activation")
def initialise_every(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """He's initialisation of every layer."""
    # A loss that was watched for long says as much as to watch it so long once more.
    is_watched = finding.kind == "alike" and len(evidence.steps) > WATCHED
    yield replace(initialise_every_layer(model), by_loss=is_watched)


@answers("unscaled-targets")
def standardise_targets(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Targets with mean 0 and standard deviation 1."""
    targets = variable(evidence, "targets")
    yield Remedy(
        title=f"standardise {targets}: (y - y.mean()) / y.std()",
        change=_standardise_targets,
        edited=lambda program: change_targets_first(program, "({y} - {y}.mean()) / {y}.std()"),
        shows="the targets are of the size of what the model gives",
        is_comparable=False,
    )


def _standardise_targets(subject: Subject) -> None:
    def change(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() < 2:
            return value
        if value.square().mean().sqrt() < LARGE:
            return value
        return (value - value.mean()) / value.std().clamp(min=1e-8)

    subject.request = replace(subject.request, targets=tree_map(change, subject.request.targets))


@answers("kernel-on-padding")
def crop_kernel(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A smaller kernel: the part of it that lies on the map."""
    if evidence.averages:
        return  # a copy that follows the weights has a kernel of this size too
    calls = [c for c in evidence.trace.calls if c.fqn == finding.module and finding.module]
    live = find_live(evidence.trace.module(finding.module or ""), calls[0]) if calls else None
    if live is not None:
        parts = [places for places, _ in live]
        sizes = tuple(len(part) for part in parts)
        yield Remedy(
            title=f"kernel_size={sizes} in {spoken(evidence, finding.module)}, the part of it that "
            "lies on the map",
            change=lambda subject: _crop(subject, finding.module or "", parts),
            written=_write_crop(finding.module or "", parts, evidence, model),
            shows="the same outputs with fewer weights",
        )


def _write_crop(fqn: str, parts: list[range], evidence: Evidence, model: Any) -> Written:
    layer: Any = find_module(model, fqn)
    sizes = tuple(len(part) for part in parts)
    padding = _pad(layer, parts) if isinstance(layer.padding, tuple) else ()
    changes = {"kernel_size": _as_one(sizes), "padding": _as_one(padding)}
    return write_settings(fqn, changes, evidence, model)


def _as_one(sizes: tuple[int, ...]) -> Any:
    return sizes[0] if len(set(sizes)) == 1 else sizes


def _pad(layer: Any, parts: list[range]) -> tuple[int, ...]:
    """The padding with which a part of the kernel meets the same values."""
    return tuple(
        int(pad) - part.start * step
        for pad, part, step in zip(layer.padding, parts, layer.dilation, strict=True)
    )


def _crop(subject: Subject, fqn: str, parts: list[range]) -> None:
    layer: Any = subject.module(fqn)
    if type(layer) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        raise CannotTryError("it is not a plain convolution")
    padding = _pad(layer, parts)
    if min(padding) < 0:
        raise CannotTryError("the part that is used lies at the end of the kernel")
    new: Any = type(layer)(
        layer.in_channels, layer.out_channels, tuple(map(len, parts)), layer.stride, padding,
        layer.dilation, layer.groups, layer.bias is not None,
    )  # fmt: skip
    with torch.no_grad():
        new.weight = nn.Parameter(
            layer.weight[
                (slice(None), slice(None), *(slice(p.start, p.stop) for p in parts))
            ].clone()
        )
        if layer.bias is not None:
            new.bias = nn.Parameter(layer.bias.clone())
    subject.set_module(fqn, new)
    subject.optimise(list(new.parameters()))


@answers("weights-rewritten")
def keep_weights(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """No initialisation in the forward."""
    flow = Flow(evidence.evaluation or evidence.trace)
    for name in evidence.probes.rewritten:
        writers = [c for c in flow.calls if c.fqn is None and _writes_to(c.kind, c.inputs, name)]
        if name.rpartition(".")[0] == finding.module and writers:
            yield Remedy(
                title=f"remove {describe(writers[0])} from the forward",
                change=_leave_out(writers),
                written=lambda writers=writers: [  # type: ignore[misc]
                    c for w in writers for c in remove_line(w.source, w.kind)
                ],
                shows="a pass leaves the weights as they are",
            )


def _leave_out(calls: list[ModuleCall]) -> Callable[[Subject], None]:
    def change(subject: Subject) -> None:
        for call in calls:
            subject.rewrite(call.kind, call.source, pass_on)

    return change


def _writes_to(kind: str, inputs: Any, name: str) -> bool:
    return kind.endswith("_") and any(t.source == name for t in inputs[:1])
