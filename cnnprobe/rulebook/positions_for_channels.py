"""An operation over positions where channels were meant."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, describe, operation
from cnnprobe.diagnosis.evidence.meanings import Dims, Meanings, list_indexed, list_reduced
from cnnprobe.diagnosis.evidence.orders import find_turned_signal
from cnnprobe.diagnosis.evidence.pieces import Dim, list_roles, measure_dim
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.diagnosis.evidence.scrambles import PLACES, name_piece
from cnnprobe.rulebook.material import classifying

_MAP = 4  # dims of (N, C, H, W)
_WITH_STATISTICS = ("batch_norm", "group_norm", "instance_norm")
_HANDING = ARRANGING | {"relu", "gelu", "leaky_relu", "dropout", "cat", "tanh", "sigmoid"}


def _net(*, turned: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(6, 16, batch_first=True), nn.Linear(16, 4)
            self.norm = nn.BatchNorm1d(16 if turned else 9)

        def forward(self, x: Any) -> Any:
            steps = self.rnn(x)[0]
            if not turned:
                return self.head(self.norm(steps).mean(1))
            return self.head(self.norm(steps.transpose(1, 2)).mean(2))

    torch.manual_seed(0)
    return {**classifying(Net()), "inputs": torch.randn(8, 9, 6)}


def sick() -> Mapping[str, Any]:
    """BatchNorm1d of the steps of a GRU."""
    return _net(turned=False)


def healthy() -> Mapping[str, Any]:
    """BatchNorm1d of its features, between two transposes."""
    return _net(turned=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mixup:
    message: str
    fix: str


@rule(
    code="CP330", name="positions-for-channels", severity=Severity.WARNING, examples=(sick, healthy)
)
def positions_for_channels(evidence: Evidence) -> Iterator[Finding]:
    """A normalisation, a mean, a softmax, a recurrent layer or a Conv1d takes positions for
    channels.

    Why it matters: BatchNorm1d expects (N, C, L), but recurrent layers, attention and Linear give
    (N, L, C): each step gets a mean and a weight of its own, and the features none. LayerNorm of a
    map (N, C, H, W) runs over the width alone; mean(dim=(1, 2)) of it averages channels with rows.
    What to do: permute the channels to the dim that the operation reads, or name another dim.
    Data for a Conv1d is (N, C, L) too: neighbours in time are alike, two sensors need not be.
    A parameter of shape (C,) is spread over the last dim: view(1, -1, 1, 1) makes it the channels'.
    Known exceptions: maps of one row or column; means that keep the channels; mixing of positions
    behind a transpose, as in an MLP-Mixer. What the dims stand for is followed through views,
    permutes and layers; where it is not known, nothing is reported.
    Source: torch.nn.BatchNorm1d, "Input: (N, C) or (N, C, L)"; torch.nn.LayerNorm, "over the last D
    dimensions"; torch.nn.GRU, "(N, L, H_in) when batch_first=True".
    """
    meanings = Meanings(evidence)
    flow = meanings.flow
    told: set[str] = set()
    for i in flow.primitives():
        call = flow.calls[i]
        if flow.owner(i) is None or not call.inputs or not call.outputs:
            continue
        found = _judge(meanings, i)
        line = flow.line(i)
        if found is not None and line not in told:
            told |= {line} - {""}
            yield Finding(
                module=flow.owner(i),
                message=found.message,
                fix=found.fix,
                source=line,
                subject=describe(call),
            )


def _judge(meanings: Meanings, index: int) -> _Mixup | None:
    kind = operation(meanings.flow.calls[index])
    if kind == "conv":
        return _judge_signal(meanings, index, 1)
    dims = meanings.read(meanings.flow.calls[index].inputs[0])
    if len(dims) < 3:
        return None
    if kind in _WITH_STATISTICS:
        return _judge_statistics(meanings, index, dims)
    if kind in ("layer_norm", "normalize", "softmax"):
        return _judge_width(meanings, index, dims)
    if kind in ("mean", "sum", "max", "min", "amax", "amin", "getitem"):
        return _judge_reduction(meanings, index, dims)
    if kind in ("add", "sub", "mul", "div"):
        return _judge_vector(meanings, index)
    return _judge_steps(meanings, index, dims) if kind in ("rnn", "attention") else None


def _judge_signal(meanings: Meanings, index: int, channels_at: int) -> _Mixup | None:
    """A layer that runs along the sensors of the data, with the steps of time for channels."""
    orders = find_turned_signal(meanings.evidence, index, channels_at=channels_at)
    call = meanings.flow.calls[index]
    if orders is None:
        return None
    channels, places = orders
    name = "in_channels" if channels_at == 1 else "input_size"
    return _Mixup(
        message=(
            f"{describe(call)} runs along dim {3 - channels_at} of {call.inputs[0].shape}, where "
            f"neighbours are no more alike than any two places ({places:.2f} of their "
            f"difference), while those of dim {channels_at}, which it takes for channels, are "
            f"({channels:.2f}): time and channels are exchanged"
        ),
        fix=f"exchange dims 1 and 2 in front of it by transpose(1, 2), and {name}="
        f"{call.inputs[0].shape[3 - channels_at]}",
    )


def _name(meanings: Meanings, dim: Dim) -> str:
    return name_piece(dim[-1], meanings.flow)


def _is_of_layer(dim: Dim) -> bool:
    """Whether a dim holds the channels of a layer, all of them."""
    return bool(dim) and all(p.axis.role == "channels" and p.axis.maker is not None for p in dim)


def _are_places(dim: Dim) -> bool:
    return bool(dim) and list_roles(dim) <= PLACES


def _judge_statistics(meanings: Meanings, index: int, dims: Dims) -> _Mixup | None:
    """A norm of dim 1, of which the channels are the last one."""
    if not dims[1] or "channels" in list_roles(dims[1]) or not _is_of_layer(dims[-1]):
        return None
    call, last = meanings.flow.calls[index], len(dims) - 1
    turn, back = (
        ("transpose(1, 2)", "behind it")
        if last == 2
        else (f"permute(0, {last}, {', '.join(map(str, range(1, last)))})", "the inverse behind it")
    )
    return _Mixup(
        message=(
            f"{describe(call)} normalises dim 1 of {call.inputs[0].shape}, which holds positions; "
            f"{_name(meanings, dims[-1])} are dim {last}"
        ),
        fix=f"{turn} before it and {back}, and num_features={measure_dim(dims[-1])}",
    )


def _judge_width(meanings: Meanings, index: int, dims: Dims) -> _Mixup | None:
    """What runs over the width of a map alone, not over its height or its channels."""
    call = meanings.flow.calls[index]
    kind = operation(call)
    shape = meanings.setting(index, "normalized_shape")
    dim = meanings.setting(index, "dim", 1) if kind != "layer_norm" else -1
    if isinstance(shape, tuple) and len(shape) > 1:
        return None
    is_last = isinstance(dim, int) and dim % len(dims) == _MAP - 1
    if len(dims) != _MAP or not is_last or not _is_of_layer(dims[1]) or not all(dims[2:]):
        return None
    if list_roles(dims[3]) != {"width"} or list_roles(dims[2]) != {"height"}:
        return None
    channels = measure_dim(dims[1])
    fixes = {
        "layer_norm": f"permute(0, 2, 3, 1) before it, permute(0, 3, 1, 2) behind it, and "
        f"normalized_shape={channels}",
        "softmax": "flatten(2) first and dim=-1, to weigh all positions; dim=1 to weigh channels",
        "normalize": "dim=1",
    }
    return _Mixup(
        message=(
            f"{describe(call)} runs over dim 3 of {call.inputs[0].shape}, the width alone: each "
            f"row is judged by itself; {_name(meanings, dims[1])} are dim 1"
        ),
        fix=fixes[kind],
    )


def _judge_reduction(meanings: Meanings, index: int, dims: Dims) -> _Mixup | None:
    """A mean over the channels, or one of them, that leaves positions, which a Linear then reads as
    features.
    """
    flow, call = meanings.flow, meanings.flow.calls[index]
    reduced = _list_gone(meanings, index, len(dims))
    kept = [dim for k, dim in enumerate(dims) if k and k not in reduced and dim]
    layers = [dims[k] for k in reduced if _is_of_layer(dims[k])]
    if 0 in reduced or not layers or len(kept) != 1 or not _are_places(kept[0]):
        return None
    readers = [flow.calls[j] for j in flow.passes_on(index, _HANDING)]
    linear = next((c for c in readers if operation(c) == "linear"), None)
    if linear is None:
        return None
    places = [k for k, dim in enumerate(dims) if k and dim not in layers]
    is_chosen = operation(call) == "getitem"
    said = f"{'at one place of' if is_chosen else 'over'} dim {_say_dims(reduced)}"
    return _Mixup(
        message=(
            f"{'an index' if is_chosen else describe(call)} {said} of {call.inputs[0].shape} "
            "leaves no channels: "
            f"{describe(linear)} gets {measure_dim(kept[0])} positions in place of "
            f"{_name(meanings, layers[0])}"
        ),
        fix=f"{'take a place of dim ' if is_chosen else 'dim='}{_say_dims(places)}, and "
        f"in_features={measure_dim(layers[0])} in {describe(linear)}",
    )


def _list_gone(meanings: Meanings, index: int, rank: int) -> tuple[int, ...]:
    """The dims that a reduction or an index takes away."""
    call = meanings.flow.calls[index]
    if operation(call) != "getitem":
        return list_reduced(meanings, index, rank)
    return list_indexed(call, rank) if len(call.inputs) == 1 else ()


def _say_dims(dims: Sequence[int]) -> str:
    return str(dims[0]) if len(dims) == 1 else str(tuple(dims))


def _judge_vector(meanings: Meanings, index: int) -> _Mixup | None:
    """A parameter of one dim that is spread over the width of a map, not over its channels."""
    call = meanings.flow.calls[index]
    if len(call.inputs) != 2:
        return None
    vector, whole = sorted(call.inputs, key=lambda info: len(info.shape))
    trained = {p.fqn for p in meanings.evidence.trace.parameters if p.kind == "parameter"}
    dims = meanings.read(whole)
    if len(vector.shape) != 1 or len(dims) != _MAP or vector.source not in trained:
        return None
    if not _is_of_layer(dims[1]) or list_roles(dims[3]) != {"width"} or vector.shape[0] < 2:
        return None
    channels = measure_dim(dims[1])
    is_same = vector.shape[0] == channels
    return _Mixup(
        message=(
            f"{describe(call)} spreads the {vector.shape[0]} values of "
            f"{spoken(meanings.evidence, str(vector.source))} over dim 3 of {whole.shape}, the "
            f"width; {_name(meanings, dims[1])} are dim 1"
        ),
        fix=f"{'' if is_same else f'{channels} values, and '}view(1, -1, 1, 1) in front of it",
    )


def _judge_steps(meanings: Meanings, index: int, dims: Dims) -> _Mixup | None:
    """A sequence whose steps are the channels of a convolution, and whose features are its
    positions.
    """
    flow, call = meanings.flow, meanings.flow.calls[index]
    is_first = meanings.setting(index, "batch_first") is True
    if operation(call) == "rnn" and is_first and (found := _judge_signal(meanings, index, 2)):
        return found
    steps = dims[1] if is_first else dims[0]
    if call.fqn is None or not _is_of_layer(steps) or not _are_places(dims[2]):
        return None
    maker = steps[0].axis.maker
    if maker is None or operation(flow.calls[maker]) not in ("conv", "conv_transpose"):
        return None
    return _Mixup(
        message=(
            f"{describe(call)} gets {call.inputs[0].shape}: its steps are "
            f"{_name(meanings, steps)}, and its features are positions"
        ),
        fix=f"{'transpose(1, 2)' if is_first else 'permute the positions to dim 0'} first, and "
        f"as many input features as there are channels, {measure_dim(steps)}",
    )
