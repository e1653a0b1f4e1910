"""What is known of a crash outside the forward: which stage it was, the loss with its arguments, the tensor whose backward failed.

All of it is read from the frames of the exception, which hold the arguments themselves; what the caller knows besides may be given.
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.case import Case, line_of
from cnnprobe.crash.users_code import frame_locals, users_frames
from cnnprobe.explanation import Explanation, Repair
from cnnprobe.recorder.inventory import class_of, named_modules
from cnnprobe.recorder.values import describe_tensor
from cnnprobe.trace import Failure, Trace

_FUNCTIONAL, _LOSSES, _SCALER = (
    "torch/nn/functional.py",
    "torch/nn/modules/loss.py",
    "torch/amp/grad_scaler.py",
)


@dataclass(kw_only=True)
class Training:
    """A crash of the loss, the backward or the step, with the evidence there is."""

    error: BaseException
    model: nn.Module | None = None
    trace: Trace | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None
    loss: Any = None
    loss_fn: Callable[..., Any] | None = None
    targets: Any = None
    optimizer: Any = None

    def modules(self) -> dict[str, nn.Module]:
        """Every module by name."""
        return (
            {}
            if self.model is None
            else {fqn: m for fqn, m, first in named_modules(self.model) if first}
        )

    def last_layer(self) -> str | None:
        """Fqn of the layer with weights that was called last."""
        modules = self.modules()
        for call in reversed(self.trace.calls if self.trace is not None else ()):
            if (
                call.fqn is not None
                and (module := modules.get(call.fqn)) is not None
                and module._parameters
                and not module._modules
            ):
                return call.fqn
        return None

    def case(self) -> Case | None:
        """The forward as the other rooms look at it."""
        if self.model is None or self.trace is None:
            return None
        return Case(
            error=self.error, trace=self.trace, model=self.model, args=self.args, kwargs=self.kwargs
        )

    @property
    def source(self) -> str:
        """The user's line."""
        frames = users_frames(self.error)
        return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


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

    @property
    def shown(self) -> str:
        """As the user knows it."""
        return f"nn.{type(self.module).__name__}" if self.module is not None else f"F.{self.name}"


def stage_of(error: BaseException, trace: Trace | None) -> str:
    """Where an exception came from: "forward", "loss", "backward" or "step"."""
    files = [
        (frame.f_code.co_filename.replace("\\", "/"), frame.f_code.co_name)
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    if any(
        "/torch/optim/" in path or (path.endswith(_SCALER) and name != "scale")
        for path, name in files
    ):
        return "step"
    if any(
        path.endswith(("torch/_tensor.py", "torch/autograd/__init__.py"))
        and name in ("backward", "grad")
        for path, name in files
    ):
        return "backward"
    if trace is not None and trace.failure is not None:
        return "forward"
    return "loss"


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


def loss_from(training: Training) -> Loss | None:
    """The loss that raised: from the frames, else from what the caller knows."""
    found = loss_of(training.error)
    if found is None and training.loss_fn is not None:
        module = training.loss_fn if isinstance(training.loss_fn, nn.Module) else None
        name = (
            type(module).__name__
            if module is not None
            else getattr(training.loss_fn, "__name__", "loss")
        )
        found = Loss(
            name=name,
            module=module,
            arguments={"input": training.output, "target": training.targets},
        )
    return found


def differentiated(training: Training) -> Tensor | None:
    """The tensor whose backward was asked for."""
    found = frame_locals(training.error, "torch/_tensor.py", "backward")
    if found is not None and isinstance(found.get("self"), Tensor):
        return found["self"]  # type: ignore[no-any-return]
    found = frame_locals(training.error, "torch/autograd/__init__.py", "backward")
    tensors = [t for t in tree_leaves((found or {}).get("tensors")) if isinstance(t, Tensor)]
    return tensors[0] if tensors else training.loss if isinstance(training.loss, Tensor) else None


def failure_of(error: BaseException, stage: str, source: str, operation: str = "") -> Failure:
    """A Failure of another stage than the forward."""
    return Failure(
        kind=type(error).__name__,
        message=str(error),
        module="",
        operation=operation,
        source=source,
        traceback="".join(traceback.format_exception(error)),
        stage=stage,
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came out of the reasoning about a loss, a backward or a step."""

    diagnosis: str
    message: str
    module: str | None = None
    arithmetic: str = ""
    repairs: tuple[Repair, ...] = ()
    evidence: tuple[str, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    raised_in: str = ""


def told(training: Training, stage: str, verdict: Verdict) -> Explanation:
    """The explanation of a verdict."""
    module = training.modules().get(verdict.module) if verdict.module is not None else None
    return Explanation(
        diagnosis=verdict.diagnosis,
        stage=stage,
        module=verdict.module,
        kind=class_of(module).__name__ if module is not None else "",
        raised_in=verdict.raised_in,
        message=verdict.message,
        arithmetic=verdict.arithmetic,
        arrived=tuple(describe_tensor(t, "", None) for t in verdict.tensors),
        source=training.source,
        line=line_of(training.source),
        repairs=verdict.repairs,
        evidence=verdict.evidence,
        error=f"{type(training.error).__name__}: {training.error}",
    )


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
