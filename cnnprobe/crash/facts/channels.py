"""The layer that decides how many channels a tensor has, and what gives it another number."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import configure, configure_alike
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.layers import Reconfigure
from cnnprobe.crash.facts.branches import find_fork
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.operands import can_broadcast
from cnnprobe.crash.facts.products import find_product
from cnnprobe.crash.facts.windows import get_window
from cnnprobe.crash.suspect import POSSIBLE, STRONG, Suspect, blame, propose
from cnnprobe.records.trace import ModuleCall, TensorInfo

EXPECTING = ("in_channels", "in_features", "num_features")


def find_channel_maker(
    crash: Crash, info: TensorInfo, fork: int = -1, dim: int = 1
) -> tuple[str, list[str]] | None:
    """The layer after the fork that sets the channels of a tensor, and the BatchNorms between."""
    norms: list[str] = []
    for index, row in crash.walk_back(info):
        layer = crash.modules.get(row.fqn) if row.fqn is not None else None
        shape = row.outputs[0].shape if row.outputs else ()
        keeps = _count_dims(shape, dim) == _count_dims(info.shape, dim)
        keeps = keeps and shape[dim : dim + 1] == info.shape[dim : dim + 1]
        if index <= fork:
            return None
        if row.fqn is None and keeps and _sets_no_size(row, dim):
            continue  # an activation or an interpolation, or a mask
        if layer is None:
            return None
        is_convolution = isinstance(layer, nn.modules.conv._ConvNd) and dim == 1
        is_linear = isinstance(layer, nn.Linear) and dim == len(shape) - 1
        if is_linear or (is_convolution and get_window(layer) is not None):
            return row.fqn or "", norms
        if layer._modules or not keeps:
            return None
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            norms.append(row.fqn or "")
    return None


def _count_dims(shape: tuple[int, ...], dim: int) -> int:
    """How many dims a shape has without those of size 1 at its end: (N, C, 1, 1) has two."""
    return max((i + 1 for i, n in enumerate(shape) if n != 1 or i <= dim), default=0)


def _sets_no_size(row: ModuleCall, dim: int) -> bool:
    """Whether what a function is given beside its first tensor has size 1 in a dim, or none."""
    first, *others = [t.shape for t in row.inputs if t.shape] or [()]
    offsets = [dim - len(first) + len(shape) for shape in others]
    is_made = isinstance(row.inputs[0].source, int) if row.inputs else False
    is_single = all(i < 0 or shape[i] == 1 for i, shape in zip(offsets, others, strict=True))
    return bool(first) and is_single and (is_made or not others)


def refit_channels(
    crash: Crash, info: TensorInfo, wanted: int, *, fork: int = -1, dim: int = 1
) -> list[Edit]:
    """The edits that give a tensor another number of channels; none where they are unknown.

    They are that of the layer that decides it, and of the BatchNorms after that.
    """
    if (found := find_channel_maker(crash, info, fork, dim)) is None:
        return []
    fqn, norms = found
    name = "out_features" if isinstance(crash.modules[fqn], nn.Linear) else "out_channels"
    return [
        configure(crash, fqn, **{name: wanted}),
        *(configure(crash, norm, num_features=wanted) for norm in norms),
    ]


def suspect_channel_maker(
    crash: Crash, info: TensorInfo, wanted: int, *, module: str
) -> Iterator[Suspect]:
    """The layer that made `info` may be at fault, rather than `module`, which wants `wanted`."""
    edits = refit_channels(crash, info, wanted)
    if edits:
        maker, user = (crash.describe_module(fqn or "") for fqn in (edits[0].module, module))
        yield blame(
            edits[0].module,
            f"{maker} gives {info.shape[1]} channels, but {user} expects {wanted}",
            propose(*edits, weight=POSSIBLE),
            arithmetic=f"expected {wanted} channels, got {info.shape}",
            weight=POSSIBLE,
            needs_proof=True,
        )


def suspect_channels(
    crash: Crash, shortcut: TensorInfo, branch: TensorInfo, message: str, arithmetic: str
) -> Iterator[Suspect]:
    """The last layer of one of two branches, which could give as many channels as the other has."""
    pairs = list(zip(shortcut.shape, branch.shape, strict=False))
    is_last = len(pairs) > 2 and all(a == b for a, b in pairs[:-1])
    dim = len(pairs) - 1 if is_last else 1
    if shortcut.shape[dim : dim + 1] == branch.shape[dim : dim + 1] or not can_broadcast(
        shortcut.shape[dim + 1 :], branch.shape[dim + 1 :]
    ):
        return
    fork = find_fork(crash, (shortcut, branch))
    sizes = (shortcut.shape[dim], branch.shape[dim])
    later = _find_channels_after(crash, sizes)
    for info, wanted, usual in ((shortcut, sizes[1], STRONG), (branch, sizes[0], POSSIBLE)):
        weight = usual if later is None else STRONG if later == wanted else POSSIBLE
        edits = refit_channels(crash, info, wanted, fork=fork, dim=dim)
        if edits:
            fqn = edits[0].module or ""
            first, every = edits[0], tuple(edits)
            if len(edits) == 1 and isinstance(first, Reconfigure):
                every = configure_alike(crash, fqn, **first.changes)
            sets = (tuple(edits), every) if len(every) > len(edits) else (every,)
            yield blame(
                fqn,
                f"{message}; with {edits[0].code} in {crash.describe_module(fqn)} they do",
                *(propose(*one, weight=weight) for one in sets),
                arithmetic=arithmetic,
                weight=weight,
            )


def refit_shuffle(crash: Crash, info: TensorInfo, target: tuple[int, ...]) -> list[Edit]:
    """The PixelShuffle that brings a map to a size, and the layer that gives it r^2 channels."""
    for _, row in crash.walk_back(info):
        layer = crash.modules.get(row.fqn or "") if row.fqn else None
        made = row.outputs[0].shape if row.outputs else ()
        if made[2:] != info.shape[2:] or not row.inputs:
            return []
        if isinstance(layer, nn.PixelShuffle) and len(made) == 4:
            before = row.inputs[0].shape[2:]
            factors = {wanted / n for wanted, n in zip(target, before, strict=True)}
            if (factor := factors.pop() if len(factors) == 1 else 0) != int(factor) or factor < 1:
                return []
            edits = refit_channels(crash, row.inputs[0], made[1] * int(factor) ** 2)
            last = configure(crash, row.fqn or "", upscale_factor=int(factor))
            return [last, *edits] if edits else []
    return []


def _find_channels_after(crash: Crash, counts: tuple[int, int]) -> int | None:
    """Which of two numbers of channels the first layer after the failing block expects."""
    names = list(crash.modules)
    inside = [i for i, name in enumerate(names) if name.startswith(f"{crash.owner}.")]
    for name in names[inside[-1] + 1 :] if crash.owner and inside else ():
        for setting in EXPECTING:
            count = getattr(crash.modules[name], setting, None)
            if isinstance(count, int):
                return count if count in counts else None
    return None


def list_expected(crash: Crash) -> list[int]:
    """The channels or features that layers expect which were not called."""
    called = {call.fqn for call in crash.trace.calls}
    modules = [module for fqn, module in crash.modules.items() if fqn not in called]
    counts = [getattr(m, name, None) for m in modules for name in EXPECTING]
    return [count for count in counts if isinstance(count, int)]


@dataclass(frozen=True, kw_only=True)
class Lack:
    """A layer that got fewer channels or features than it expects."""

    x: TensorInfo
    expected: int
    module: str

    @property
    def missing(self) -> int:
        """How many are missing."""
        return self.expected - self.x.shape[1]


def find_lack(crash: Crash) -> Lack | None:
    """What the failing layer lacks; None where it has enough, or is no such layer."""
    layer, product = find_mismatch(crash), find_product(crash)
    found = None
    if layer is not None and layer.dim == 1:
        found = Lack(x=layer.x, expected=layer.expected, module=layer.module)
    elif product is not None and product.is_layer and len(product.x.shape) == 2:
        found = Lack(x=product.x, expected=product.wanted, module=product.module)
    return found if found is not None and found.missing > 0 else None
