"""The loss that raised, read from the frames that hold its arguments, and the tensor that was differentiated."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.outside import ChangeLoss
from cnnprobe.crash.facts.frames import read_frame

_OPTIONS = ("weight", "ignore_index", "label_smoothing", "var")
BY_CLASS = {
    "CrossEntropyLoss": "cross_entropy", "NLLLoss": "nll_loss", "NLLLoss2d": "nll_loss", "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits", "MSELoss": "mse_loss", "L1Loss": "l1_loss", "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss", "GaussianNLLLoss": "gaussian_nll_loss", "PoissonNLLLoss": "poisson_nll_loss", "KLDivLoss": "kl_div",
    "MultiMarginLoss": "multi_margin_loss",
}  # fmt: skip
_FUNCTIONAL, _LOSSES = "torch/nn/functional.py", "torch/nn/modules/loss.py"


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A call of a loss function: its name as torch has it, and its arguments by name."""

    name: str
    module: nn.Module | None
    arguments: Mapping[str, Any]

    @property
    def input(self) -> Any:
        """The first argument: the model's output, as a rule."""
        return next(
            (
                self.arguments[name]
                for name in ("input", "x1", "input1", "anchor", "log_probs")
                if name in self.arguments
            ),
            None,
        )

    @property
    def target(self) -> Any:
        """The target."""
        return next(
            (self.arguments[name] for name in ("target", "targets") if name in self.arguments), None
        )

    def call(self, output: Tensor, changes: Sequence[ChangeLoss] = ()) -> Tensor:
        """The loss of an output, with other arguments; raises what the loss raises."""
        x, target, name = output.detach(), self.target, BY_CLASS.get(self.name, self.name)
        if isinstance(target, Tensor):
            target = target.detach()
        for change in changes:
            x, target = change.function(x, target)
            name = change.other or name
        with torch.no_grad():
            is_own = BY_CLASS.get(type(self.module).__name__) == name
            if self.module is not None and is_own and name != "gaussian_nll_loss":
                return self.module(x, target)  # type: ignore[no-any-return]
            options = {k: self.arguments[k] for k in _OPTIONS if k in self.arguments}
            if name.startswith("binary"):
                options.pop("ignore_index", None)
            return getattr(F, name)(x, target, **options)  # type: ignore[no-any-return]

    @property
    def shown(self) -> str:
        """As the user knows it."""
        return f"nn.{type(self.module).__name__}" if self.module is not None else f"F.{self.name}"


def find_loss(crash: Crash) -> Loss | None:
    """The loss that raised: from the frames, else from what the caller knows."""
    found = loss_of(crash.error)
    if found is None and crash.loss_fn is not None:
        module = crash.loss_fn if isinstance(crash.loss_fn, nn.Module) else None
        name = (
            type(module).__name__
            if module is not None
            else getattr(crash.loss_fn, "__name__", "loss")
        )
        arguments = {"input": crash.output, "target": crash.targets}
        found = Loss(name=name, module=module, arguments=arguments)
    return found


def loss_of(error: BaseException) -> Loss | None:
    """The call of a loss that raised, read from torch's own frames."""
    module, found = None, None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        path, name = frame.f_code.co_filename.replace("\\", "/"), frame.f_code.co_name
        if path.endswith(_LOSSES) and isinstance(frame.f_locals.get("self"), nn.Module):
            module = frame.f_locals["self"]
            arguments = {key: value for key, value in frame.f_locals.items() if key != "self"}
            found = Loss(name=type(module).__name__, module=module, arguments=arguments)
        elif path.endswith(_FUNCTIONAL) and (
            "target" in frame.f_locals or "targets" in frame.f_locals or name.endswith("_loss")
        ):
            return Loss(name=name, module=module, arguments=dict(frame.f_locals))
    return found


def differentiated(crash: Crash) -> Tensor | None:
    """The tensor whose backward was asked for."""
    found = read_frame(crash.error, "torch/_tensor.py", "backward")
    if found is not None and isinstance(found.get("self"), Tensor):
        return found["self"]  # type: ignore[no-any-return]
    found = read_frame(crash.error, "torch/autograd/__init__.py", "backward")
    tensors = [t for t in tree_leaves((found or {}).get("tensors")) if isinstance(t, Tensor)]
    return tensors[0] if tensors else crash.loss if isinstance(crash.loss, Tensor) else None


def range_of(value: Any) -> tuple[float, float] | None:
    """Least and greatest value; None where they cannot be read."""
    if not isinstance(value, Tensor) or not value.numel() or value.is_meta or value.is_complex():
        return None
    try:
        with torch.no_grad():
            low, high = torch.aminmax(value.detach())
            return float(low), float(high)
    except (
        RuntimeError
    ):  # a device whose context an earlier assertion has ended, a dtype without an order
        return None
