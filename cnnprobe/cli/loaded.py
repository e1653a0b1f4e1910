"""From what a command line asks for to a model and its inputs, with the user's own prints kept out
of the result.
"""

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnprobe.cli.options import InputRequest, ModelRequest
from cnnprobe.cli.program import tell
from cnnprobe.cli.progress import show_progress
from cnnprobe.errors import TargetError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model and the arguments of its forward, on their device."""

    model: "nn.Module"
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@contextlib.contextmanager
def send_prints_to_stderr() -> Iterator[None]:
    """What the user's code prints goes to stderr, also where a child process or C code writes to
    file descriptor 1.
    """
    real = sys.stdout is sys.__stdout__ and sys.stdout is not None
    with contextlib.redirect_stdout(sys.stderr):
        kept = None
        if real:
            with contextlib.suppress(OSError):
                kept = os.dup(1)
                os.dup2(2, 1)
        try:
            yield
        finally:
            if kept is not None:
                os.dup2(kept, 1)
                os.close(kept)


@contextlib.contextmanager
def _tell_warnings() -> Iterator[None]:
    from cnnprobe.loading import TargetWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", TargetWarning)
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, TargetWarning):
                tell(f"warning: {message}")
            else:
                usual(message, category, *rest, **more)

        warnings.showwarning = show
        yield


def load(wanted: ModelRequest, given: InputRequest, *, without_values: bool = False) -> Loaded:
    """The model and its inputs; notes of what was assumed go to stderr.

    Args:
        wanted: the model.
        given: its inputs, and the device.
        without_values: build both on the meta device; a model that cannot be built there keeps its
            weights.

    Raises:
        UsageError: the request cannot be understood.
        TargetError: the model, its weights or its inputs could not be had.
    """
    with show_progress("importing torch"):
        import torch

        from cnnprobe import loading
    arguments = loading.parse_arguments(wanted.arguments)
    device = torch.device("meta") if without_values else loading.parse_device(given.device)
    dtype = None if given.dtype is None else loading.parse_dtype(given.dtype)
    torch.manual_seed(given.seed)
    with _tell_warnings(), show_progress(f"building {wanted.spec}"):
        build = functools.partial(
            loading.load_model,
            wanted.spec,
            arguments=arguments,
            weights=wanted.weights,
            trust_pickle=wanted.trust_pickle,
        )
        model = _build_without_values(build) if without_values else build()
        if given.inputs:
            args, kwargs = loading.load_inputs(
                given.inputs, dtype=dtype or _find_dtype(model), device=device, seed=given.seed
            )
        else:
            args, kwargs, note = loading.make_default_inputs(
                model, dtype=dtype, device=device, seed=given.seed
            )
            tell(f"note: {note}")
        wide = dtype if dtype is not None and dtype.is_floating_point else None
        model = model.to(dtype=wide) if without_values else _move(model, device, wide)
    return Loaded(model=model.train(bool(wanted.training)), args=args, kwargs=kwargs)


def load_alone(wanted: ModelRequest, device: str) -> "nn.Module":
    """The model in eval mode on its device, where its inputs come from elsewhere; raises as
    `load`.
    """
    import torch

    from cnnprobe import loading

    torch.manual_seed(0)  # weights that are random are the same in each process
    with _tell_warnings(), show_progress(f"building {wanted.spec}"):
        model = loading.load_model(
            wanted.spec,
            arguments=loading.parse_arguments(wanted.arguments),
            weights=wanted.weights,
            trust_pickle=wanted.trust_pickle,
        )
        return _move(model, loading.parse_device(device), None).eval()


def _build_without_values(build: "Callable[[], nn.Module]") -> "nn.Module":
    """The model on the meta device; with its weights where its constructor or its file asks for
    them.
    """
    import torch

    try:
        with torch.device("meta"):
            return build()
    except (
        Exception
    ):  # whatever the user's constructor asks of a value; without the device it says what is wrong
        return build()


def _find_dtype(model: "nn.Module") -> "torch.dtype | None":
    return next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), None)


def _move(model: "nn.Module", device: "torch.device", dtype: "torch.dtype | None") -> "nn.Module":
    tensors = (*model.named_parameters(), *model.named_buffers())
    without = [name for name, tensor in tensors if tensor.is_meta]
    if without and device.type != "meta":
        raise TargetError(
            f"the model has no values for {without[0]!r}"
            + (f" and {len(without) - 1} more" if len(without) > 1 else "")
            + ": they are on the meta device",
            where=f"--device {device}",
            fix="build it on a real device, or see only its shapes with --device meta",
        )
    try:
        return model.to(device=device, dtype=dtype)
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TargetError(
            f"the model cannot be moved to {device}: {reason}",
            where=f"--device {device}",
            fix="--device cpu" if device.type != "cpu" else "fix the error in its .to()",
        ) from error
