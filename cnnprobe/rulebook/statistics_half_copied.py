"""Running statistics of which only one half was copied."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import called, modules_of, spoken
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, layers

SEVERAL = 2  # channels; of one the values may be by chance


def _copying(whole: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = layers(
        lambda: nn.Conv2d(1, 8, 3, padding=1),
        lambda: nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        lambda: nn.Linear(512, 4),
    )
    with torch.no_grad():
        model[1].running_mean.copy_(torch.linspace(-1, 1, 8))
        if whole:
            model[1].running_var.copy_(torch.linspace(0.5, 2, 8))
    return classifying(model.eval())


def sick() -> Mapping[str, Any]:
    """The means are copied, and the variances are not."""
    return _copying(whole=False)


def healthy() -> Mapping[str, Any]:
    """Both are copied."""
    return _copying(whole=True)


@rule(
    code="CP609",
    name="statistics-half-copied",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("train-eval-gap", "loss-at-init"),
)
def statistics_half_copied(evidence: Evidence) -> Iterator[Finding]:
    """A BatchNorm has running means that are not 0, and running variances that are all still 1; or
    the other way round.

    Why it matters: in eval mode it divides by a variance that is not that of the data.
    What to do: copy all buffers of the layer: load_state_dict copies running_mean, running_var and
    num_batches_tracked; else give it some batches in train mode.
    Known exceptions: none: a batch in train mode changes both.
    Source: torch.nn.BatchNorm2d, which begins with running_mean 0 and running_var 1.
    """
    used, values = called(evidence), evidence.values
    found: list[tuple[str, str, str]] = []
    for module in modules_of(evidence, "batch_norm"):
        mean, var = (values.get(f"{module.fqn}.running_{part}") for part in ("mean", "var"))
        if mean is None or var is None or module.fqn not in used or mean.shape < (SEVERAL,):
            continue
        is_first_mean, is_first_var = mean.low == mean.high == 0, var.low == var.high == 1
        if is_first_mean != is_first_var:
            names = ("running_mean", "running_var")
            found.append((module.fqn, *(names if is_first_var else names[::-1])))
    if found:
        fqn, copied, left = found[0]
        layers_found = format_counted(len(found), "BatchNorm layer")
        yield Finding(
            module=fqn,
            message=(
                f"{left} of {spoken(evidence, fqn)} still has the value of a new layer in every "
                f"channel, but {copied} does not: only {copied} was copied ({layers_found})"
            ),
            fix=f"copy {left} too, with every other buffer: load_state_dict of the whole layer",
        )
