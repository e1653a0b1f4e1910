"""One forward pass of the model, in a mode of its own, and how two of them are compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.masked import is_masked_tensor
from torch.nn.utils.rnn import PackedSequence

from cnnprobe.recorder import Recording, list_modes, restore_modes, switch_mode
from cnnprobe.recorder.preservation import seed_generators
from cnnprobe.recorder.values import drop_output, leaves
from cnnprobe.records.trace import Trace
from cnnprobe.training.hidden import find_hidden
from cnnprobe.training.wrapping import TrainingStep, unwrapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward pass: its trace, what it gave, and the exception if it raised."""

    trace: Trace
    output: Any = None
    error: BaseException | None = None
    # kind and line of the rows whose results the model's attributes hold
    held: frozenset[tuple[str, str]] = frozenset()


def call(model: nn.Module, inputs: Any) -> Any:
    """The model called on inputs."""
    args, kwargs = arguments(inputs)
    return model(*args, **kwargs)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A tuple or list are the forward's arguments, a dict its keywords, anything else its only
    argument, also a packed sequence.
    """
    if isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence):
        return tuple(inputs), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs,), {}


def fresh(value: Any) -> Any:
    """The same nested value with copies of its tensors."""
    return torch.utils._pytree.tree_map(
        lambda v: (
            v.detach().clone().requires_grad_(v.requires_grad) if isinstance(v, Tensor) else v
        ),
        value,
    )


def forward(
    model: nn.Module,
    inputs: Any,
    *,
    training: bool,
    seed: int = 0,
    summarise: Callable[[Tensor], Any] | None = None,
    names: Mapping[int, str] | None = None,
) -> Pass:
    """One recorded forward pass under no_grad in the given mode."""
    modes = list_modes(model)
    makers: list[int | None] = []

    def run() -> Any:
        output = call(model, inputs)
        makers.extend(map(recording.find_maker, tensors_held(model)))
        makers.extend(row for row, _ in recording.reads)
        return output

    wrapper = TrainingStep(model, run)
    recording = Recording(
        wrapper,
        statistics=summarise or False,
        through_compiled=True,
        names={key: f"model.{name}" for key, name in (names or {}).items()},
    )
    output, error = None, None
    seed_generators(seed)
    try:
        switch_mode(model, training=training)
        with torch.no_grad(), recording:
            try:
                output = wrapper()
            except Exception as raised:  # the model's own
                error = raised
    finally:
        restore_modes(modes)
    drop_output(output)  # nobody awaits a coroutine of this pass
    return Pass(
        trace=unwrapped(recording.trace, type(model).__name__),
        output=output,
        error=error,
        held=_name_rows(recording.trace, makers),
    )


def _name_rows(trace: Trace, rows: list[int | None]) -> frozenset[tuple[str, str]]:
    """Kind and line of calls by their rows."""
    calls = trace.calls
    return frozenset(
        (calls[i].kind, calls[i].source) for i in rows if i is not None and i < len(calls)
    )


def tensors_held(model: nn.Module) -> list[Tensor]:
    """The tensors that hang on the model without being registered: an auxiliary loss, a map of
    attention.
    """
    return [
        tensor
        for thing in find_hidden(model)
        if isinstance(thing.value, Tensor)
        for _, tensor in thing.tensors()
    ]


def tensors_of(value: Any) -> list[Tensor]:
    """The floating tensors in a nested value; masked ones, which can hardly be compared, are
    not.
    """
    return [
        leaf
        for _, leaf in leaves(value)
        if isinstance(leaf, Tensor)
        if leaf.is_floating_point() and not is_masked_tensor(leaf)
    ]


def list_tensors(value: Any) -> list[Tensor]:
    """The tensors in a nested value, of any dtype."""
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, Tensor)]


def batch_size(inputs: Any, targets: Any) -> int | None:
    """The common size of dimension 0 of inputs and targets; None where dimension 0 cannot be said
    to be the batch.
    """
    if any(
        isinstance(leaf, Tensor) and leaf.dim() == 2 and leaf.shape[0] == leaf.shape[1]
        for _, leaf in list(leaves(inputs))[1:]
    ):
        # a square matrix beside the data relates samples to each other: the adjacency of a graph's
        # nodes
        return None
    sizes = {
        leaf.shape[0] for _, leaf in leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim() > 0
    }
    labels = [leaf for _, leaf in leaves(targets) if isinstance(leaf, Tensor)]
    if labels and any(label.dim() == 0 for label in labels):
        return None
    sizes |= {label.shape[0] for label in labels}
    return sizes.pop() if len(sizes) == 1 else None


def difference(a: Any, b: Any, select: Callable[[Tensor], Tensor] = lambda t: t) -> float | None:
    """The greatest difference of two outputs over the magnitude of the first; None where they
    cannot be compared.
    """
    left, right = tensors_of(a), tensors_of(b)
    if (
        not left
        or len(left) != len(right)
        or any(x.shape != y.shape for x, y in zip(left, right, strict=True))
    ):
        return None
    worst = 0.0
    for x, y in zip(left, right, strict=True):
        x, y = select(x.detach().double()), select(y.detach().double())  # noqa: PLW2901
        if x.numel() == 0:
            continue
        same = (x == y) | (x.isnan() & y.isnan())
        if bool(same.all()):
            continue
        gap = torch.where(same, 0.0, x - y).abs()
        scale = x[x.isfinite()].abs().max() if bool(x.isfinite().any()) else torch.ones(())
        worst = max(worst, float(gap.nan_to_num(nan=float("inf")).max() / scale.clamp(min=1e-30)))
    return worst


def fit_output(output: Any, loss_fn: Any) -> tuple[str, Any]:
    """What a stock loss can take of a nested output, and how it is written: its logits, or its
    first tensor. "" where it is the output itself.

    A tuple stays one: the standard step hands it to the loss as it is, which then raises.
    """
    if isinstance(output, tuple):
        return "", output
    if isinstance(output, Tensor) or not is_torchs_loss(loss_fn):
        return "", output
    for name in ("logits", "out"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            is_key = isinstance(output, Mapping)
            return f"output[{name!r}]" if is_key else f"output.{name}", found
    tensors = ((f"output{path}", leaf) for path, leaf in leaves(output) if isinstance(leaf, Tensor))
    return next(tensors, ("", output))


def is_torchs_loss(loss_fn: Any) -> bool:
    """Whether a loss is one of torch's, as a module or as a function."""
    places = [getattr(each, "__module__", None) or "" for each in (type(loss_fn), loss_fn)]
    return any(place.startswith("torch.") for place in places)
