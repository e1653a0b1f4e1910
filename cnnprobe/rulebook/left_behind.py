"""A part of a copy of the weights that does not follow with the rest."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, LeftBehind
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import images, layers, stepping


def _teaching(buffers: bool) -> Mapping[str, Any]:
    import copy

    import torch
    from torch import nn

    model = layers(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    teacher = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = teacher(inputs)
        output = model(inputs)
        (loss_fn(output, targets) + 0.1 * (output - wanted).square().mean()).backward()
        optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(teacher.parameters(), model.parameters(), strict=True):
                average.lerp_(parameter, 0.1)
            for kept, buffer in zip(teacher.buffers(), model.buffers(), strict=True):
                if buffers:
                    kept.copy_(buffer)

    return stepping(model, loop, inputs=images() * 2 + 1)


def sick() -> Mapping[str, Any]:
    """A teacher in eval mode whose parameters alone follow."""
    return _teaching(buffers=False)


def healthy() -> Mapping[str, Any]:
    """Its buffers are copied too."""
    return _teaching(buffers=True)


@rule(code="CP536", name="left-behind", severity=Severity.WARNING, examples=(sick, healthy))
def left_behind(evidence: Evidence) -> Iterator[Finding]:
    """A copy of the weights follows them in part: some parameters, a whole part, or the statistics
    of its normalisation stay at what they were.

    Why it matters: the copy is a mix of new and old weights, which fit each other less with every
    step; with old statistics a BatchNorm in eval mode normalises by the wrong numbers.
    What to do: update every part; copy the buffers, or average them like the parameters.
    Known exceptions: parameters that are frozen in the original too; a copy that nothing calls; a
    copy in train mode, which normalises by its batch; what moves by less than a float can hold.
    Source: He et al. 2020, arXiv:1911.05722, equation 2, for all parameters of the key encoder;
    torch.optim.swa_utils.AveragedModel, use_buffers.
    """
    for left in evidence.left:
        if left.parameters:
            yield _tell_parameters(left)
        if left.statistics:
            yield _tell_statistics(left)


def _tell_parameters(left: LeftBehind) -> Finding:
    count = format_counted(len(left.parameters), "parameter")
    verb = "has" if len(left.parameters) == 1 else "have"
    rest = f"{left.sibling} beside it follows" if left.sibling else "its other parameters follow"
    return Finding(
        module=None,
        kind="parameters",
        subject=left.name,
        message=(
            f"{left.name} is a copy of {left.of}, but {count} of it {verb} not changed in any step "
            f"while those of {left.of} did: {_shorten(left.parameters)} ({rest})"
        ),
        fix=f"update {left.name} where the rest is updated, from {left.of}.parameters()",
    )


def _tell_statistics(left: LeftBehind) -> Finding:
    return Finding(
        module=None,
        kind="statistics",
        subject=left.name,
        message=(
            f"{left.name} follows {left.of}, and is called in eval mode, but its running "
            f"statistics stay at what they were: {_shorten(left.statistics)}"
        ),
        fix=(
            f"copy the buffers too, after each update: for b, of in zip({left.name}.buffers(), "
            f"{left.of}.buffers()): b.copy_(of)"
        ),
    )


def _shorten(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
