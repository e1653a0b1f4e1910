"""A frozen BatchNorm whose input is unlike what its statistics were made of."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.questions import input_stats, rms, spoken
from cnnprobe.rulebook.material import classifying, images

# Root mean square of what arrives over that of the statistics. ImageNet's weights on pixels in
# [0, 1] that are not normalised give 0.2 to 0.4, on [0, 255] 50; another data set 0.7 to 1.4.
LEAST, MOST = 0.4, 2.5
LEARNT = 20  # batches, from which on statistics with momentum 0.1 are those of the data


def _net(scale: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    for _ in range(40):
        backbone(torch.randn(8, 1, 8, 8))
    model = nn.Sequential(
        backbone.requires_grad_(False).eval(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    return classifying(model, inputs=images() * scale)


def sick() -> Mapping[str, Any]:
    """Its statistics are those of normalised images, and these have a quarter of their size."""
    return _net(0.25)


def healthy() -> Mapping[str, Any]:
    """These are a third smaller."""
    return _net(0.67)


@rule(
    code="CP610",
    name="other-statistics",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit", "loss-not-decreasing", "constant-output", "dead-relu"),
)
def other_statistics(evidence: Evidence) -> Iterator[Finding]:
    """The first BatchNorm in eval mode gets an input of another size than its learnt statistics
    say.

    Why it matters: frozen weights were trained on inputs that were normalised in one way; of others
    they make features that say less.
    What to do: normalise the images as for the training of the frozen part: for torchvision's
    weights mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225] of pixels in [0, 1].
    Known exceptions: inputs up to 2.5 times larger or smaller, as of another data set; statistics
    of a new layer, or of fewer than 20 batches; a BatchNorm in train mode, which learns them anew.
    Source: torchvision's documentation, "Models and pre-trained weights": weights.transforms();
    Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.1.
    """
    flow = Flow(evidence.trace)
    modes = {module.fqn: module.training for module in evidence.trace.modules}
    first = next((i for i in flow.primitives({"batch_norm"}) if flow.owner(i)), None)
    fqn = flow.owner(first)
    expected = None if first is None or modes.get(fqn or "", True) else _read_size(evidence, fqn)
    if first is None or expected is None:
        return
    size = rms(input_stats(flow, flow.calls[first].inputs[0]))
    if not math.isfinite(size) or size == 0 or LEAST <= size / expected <= MOST:
        return
    times, word = (size / expected, "larger") if size > expected else (expected / size, "smaller")
    yield Finding(
        module=fqn,
        message=(
            f"{spoken(evidence, fqn)} is in eval mode, and its input has a root mean square of "
            f"{size:.2g}, where its running statistics have {expected:.2g}: {times:.1f} times "
            f"{word} (more than {MOST:g})"
        ),
        fix=(
            "normalise the inputs as for the training of its weights: (x - mean) / std, of "
            "ImageNet's pixels in [0, 1] with mean [0.485, 0.456, 0.406] and std "
            "[0.229, 0.224, 0.225]"
        ),
    )


def _read_size(evidence: Evidence, fqn: str | None) -> float | None:
    """The root mean square of what made the running statistics; None where they are not learnt."""
    mean, var, count = (
        evidence.values.get(f"{fqn}.{name}")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    )
    if mean is None or var is None or mean.norm == 0 or not math.isfinite(mean.norm + var.norm):
        return None
    if count is not None and 0 < count.mean < LEARNT:
        return None
    return math.sqrt(max(0.0, var.mean) + mean.norm**2 / math.prod(mean.shape)) or None
