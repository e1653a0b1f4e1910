"""Whether the last layers of a model hold something that was learnt, or random numbers alone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import PROJECTIONS, Flow, Step
from cnnprobe.recorder.inventory import has_values, named_modules
from cnnprobe.recorder.values import EXACT

HIGH = 2.0  # the first loss, above which it may be asked why
LAST = 4  # layers that are looked at, from the end
MOST = 2**24  # elements of a weight that is looked at
ROUNDS = 12  # of the power iteration, whose result is never too large
# widths of the Tracy-Widom law above the edge; of 25,000 random matrices of 2 x 2 to 100 x 64,
# of seven initialisations, none came so far
BEYOND = 6.0


def find_learnt(model: nn.Module, steps: Sequence[Step]) -> frozenset[str]:
    """The layers among the last ones whose weights are no independent random numbers; none where
    the first loss is not that of a net that is sure.
    """
    value = steps[0].value if steps else None
    if value is None or not value > HIGH:
        return frozenset()
    modules = {fqn: module for fqn, module, _ in named_modules(model)}
    flow = Flow(steps[0].trace)
    called = [flow.calls[i].fqn for i in flow.primitives(PROJECTIONS)]
    last = list(dict.fromkeys(fqn for fqn in reversed(called) if fqn is not None))[:LAST]
    weights = {fqn: getattr(modules.get(fqn), "weight", None) for fqn in last}
    return frozenset(fqn for fqn, weight in weights.items() if is_learnt(weight))


def is_learnt(weight: object) -> bool:
    """Whether a matrix has a direction that independent random numbers do not have, however they
    are scaled and shifted: its largest singular value lies beyond the edge of their spectrum.

    Source: Johnstone 2001, "On the distribution of the largest eigenvalue in principal components
    analysis", theorem 1.1, for the edge and its width; Martin and Mahoney 2021, JMLR 22(165), for
    what training adds.

    >>> is_learnt(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    False
    >>> is_learnt(torch.outer(torch.arange(10.0), torch.arange(64.0)))
    True
    """
    if not isinstance(weight, Tensor) or not _is_readable(weight):
        return False
    matrix = weight.detach().flatten(1).float()
    matrix = matrix - matrix.mean()
    variance = float(matrix.square().mean())
    if not 0 < variance < float("inf"):
        return False
    n, m = (size**0.5 for size in matrix.shape)
    edge, width = (n + m) ** 2, (n + m) * (1 / n + 1 / m) ** (1 / 3)
    return bool(measure_stretch(matrix) ** 2 / variance > edge + BEYOND * width)


def measure_stretch(matrix: Tensor) -> float:
    """The largest singular value of a matrix, or a little less."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(matrix.shape[1], generator=generator).to(matrix)
    for _ in range(ROUNDS):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / vector.norm().clamp(min=1e-30)
    return float((matrix @ vector).norm())


def _is_readable(weight: Tensor) -> bool:
    return (
        (type(weight) in EXACT or type(weight) is nn.Parameter)
        and has_values(weight)
        and weight.layout is torch.strided
        and weight.is_floating_point()
        and weight.dim() > 1
        and min(weight.shape) > 0
        and weight.shape[0] > 1
        and weight[0].numel() > 1
        and weight.numel() <= MOST
    )
