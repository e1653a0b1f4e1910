"""Layers of torch's 1d, 2d and 3d families, for another number of dims than they got."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import adapt_call, change_tensor
from cnnprobe.crash.edits.layers import Exchange
from cnnprobe.crash.facts.expected import Expected, find_expected
from cnnprobe.crash.facts.windows import count_dims
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.recorder.inventory import class_of
from cnnprobe.trace import TensorInfo

_POOLS = ("MaxPool", "AvgPool", "LPPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
# What else a layer of another number of dims is built with, and torch's default for it.
_SETTINGS = {"kernel_size": None, "stride": None, "padding": 0, "dilation": 1, "output_size": None}

EXAMPLES = (
    Example(
        """
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(3 * 8 * 8, 5),
            nn.BatchNorm2d(5),
        )
        args = (torch.randn(4, 3, 8, 8),)
        """,
        old="BatchNorm2d",
        new="BatchNorm1d",
        blames="2",
        repair="nn.BatchNorm1d(5)",
    ),
    Example(
        """
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool1d(2))
        args = (torch.randn(2, 3, 8, 8),)
        """,
        old="nn.MaxPool1d(2)",
        new="nn.MaxPool2d(2)",
        blames="1",
        repair="nn.MaxPool2d(kernel_size=2)",
    ),
)


@cause(code="CP026", name="wrong-layer-dims", family="shape-mismatch", prior=590, examples=EXAMPLES)
def wrong_layer_dims(crash: Crash) -> Iterator[Suspect]:
    """A 1d, 2d or 3d layer got a tensor with another number of dims than it is for.

    Why it happens: nn.BatchNorm2d takes (N, C, H, W) only, nn.BatchNorm1d what a Linear gives. A
    pooling or a convolution takes two dims more than its name says, or one more without a batch.
    What to do: take the class of the family that fits, or add the dim that is missing.
    Known exceptions: none.
    Source: https://docs.pytorch.org/docs/stable/nn.html
    """
    layer, call = crash.leaf, crash.call
    found = find_expected(crash)
    if found is not None and not found.is_rank_right:
        weight = USUAL
        ranks, x, module = found.ranks, found.x, found.module
        candidates = (*_fix_dims(crash, found), *_exchange_layer(crash, x, weight))
    elif _read_family(layer) in _POOLS and call is not None and call.inputs:
        weight = STRONG
        dims, x, module = count_dims(layer), call.inputs[0], call.fqn or ""  # type: ignore[arg-type]
        ranks = (dims + 1, dims + 2)
        if len(x.shape) in ranks:
            return
        candidates = tuple(_exchange_layer(crash, x, weight))
    else:
        return
    yield Suspect(
        module=module,
        message=f"{describe_module(crash, module)} expects {' or '.join(map(str, ranks))} dims "
        f"but got {len(x.shape)}: {x.shape}",
        arithmetic=f"{crash.describe_origin(x)} gives {x.shape}",
        candidates=candidates,
        weight=weight,
    )


def _read_family(layer: nn.Module | None) -> str:
    return class_of(layer).__name__.rstrip("d123") if layer is not None else ""


def _fix_dims(crash: Crash, found: Expected) -> Iterator[Candidate]:
    """Dims of size 1 that lack, or are too many, before a convolution."""
    shape, rank = found.x.shape, found.rank
    if found.kind != "conv":
        return
    if rank == found.dims and found.is_first and found.expected == 1:
        both = change_tensor(crash, found.x, lambda x: x[None, None], "{x}[None, None]")
        yield propose(both, weight=STRONG)
    elif rank == found.dims and found.is_first and found.dims == 1:
        yield propose(change_tensor(crash, found.x, lambda x: x[None], "{x}[None]"))
    if rank == found.dims + 3 and 1 in shape[:2]:
        dim = shape.index(1)
        code = f"{{x}}.squeeze({dim})"
        yield propose(adapt_call(crash, lambda x: x.squeeze(dim), code))


def _exchange_layer(crash: Crash, x: TensorInfo, weight: int) -> Iterator[Candidate]:
    """The layer of the same family for the dims that arrived."""
    layer, family = crash.leaf, _read_family(crash.leaf)
    call = crash.call
    dims = max(len(x.shape) - 2, 1)
    other = getattr(nn, f"{family}{dims}d", None)
    settings = _read_settings(layer) if layer is not None else None
    if (
        other is None
        or settings is None
        or call is None
        or family not in (*_POOLS, "BatchNorm", "InstanceNorm")
    ):
        return
    if family in _POOLS:
        text = ", ".join(f"{name}={value}" for name, value in settings.items())
    else:
        settings = {"num_features": int(layer.num_features)}  # type: ignore[union-attr,arg-type]
        text = str(settings["num_features"])
    code = f"nn.{other.__name__}({text})"
    edit = Exchange(
        title=f"make {quote(call.fqn or '')} an {code}",
        code=code,
        module=call.fqn,
        layer=lambda _old: other(**settings),
    )
    yield propose(edit, weight=weight)


def _read_settings(layer: nn.Module) -> dict[str, Any] | None:
    """A pooling's settings that differ from torch's; None where one differs from dim to dim."""
    found: dict[str, Any] = {}
    for name, usual in _SETTINGS.items():
        value = getattr(layer, name, None)
        values = set(value) if isinstance(value, tuple | list) else {value}
        only = values.pop() if len(values) == 1 else None
        if values or not isinstance(only, int | None):
            return None
        is_default = name == "stride" and only == found.get("kernel_size")
        if only not in (None, usual) and not is_default:
            found[name] = only
    return found
