"""A GradScaler that raised: its calls came in another order than scale, backward, step, update, or it met gradients that it cannot scale."""

import traceback
from typing import Any

from torch import Tensor

from cnnprobe.crash.training import Crash, Verdict
from cnnprobe.explanation import Repair

SCALER = "torch/amp/grad_scaler.py"
_ORDER = "scaler.scale(loss).backward(), scaler.step(optimizer), scaler.update()"


def explain_scaling(crash: Crash) -> Verdict | None:
    """Why a GradScaler raised; None where it was not one that did."""
    frame = list(traceback.walk_tb(crash.error.__traceback__))[-1][0]
    if not frame.f_code.co_filename.replace("\\", "/").endswith(SCALER):
        return None
    for part, judge in _CASES:
        if part in str(crash.error):
            return judge(crash, frame.f_locals)
    return None


def _never_scaled(crash: Crash, scope: dict[str, Any]) -> Verdict:  # noqa: ARG001
    called = scope.get("funcname", "step")
    return _ordered(
        f"scaler.{called}() was called before scaler.scale(): the backward that came before it was that of a loss without the scale",
        "write scaler.scale(loss).backward() for loss.backward()",
        "scaler.scale(loss).backward()",
    )


def _nothing_checked(crash: Crash, scope: dict[str, Any]) -> Verdict:
    groups = getattr(scope.get("optimizer"), "param_groups", ())
    held = [p for group in groups for p in group["params"] if isinstance(p, Tensor)]
    own = [
        p for module in crash.modules.values() for p in module._parameters.values() if p is not None
    ]
    elsewhere = sum(p.grad is not None for p in own)
    strangers = len(held) - len({id(p) for p in held} & {id(p) for p in own})
    numbers = f"0 of {len(held)} parameters of the optimizer have a gradient"
    if own and strangers == len(held):
        return _ordered(
            f"{numbers}, and none of them is the model's: the optimizer was built over other parameters",
            "build the optimizer over model.parameters() once the model is what is trained",
            "model.parameters()",
        )
    if elsewhere:
        return _ordered(
            f"{numbers}, and {elsewhere} others of the model have one: the loss does not depend on what this optimizer holds",
            "step only the optimizers whose parameters the loss reaches, or let the loss reach them: no detach() or frozen part on the way",
            "scaler.step(optimizer)",
        )
    return _ordered(
        f"{numbers} at scaler.step(): no backward came before it, or zero_grad() came in between",
        "call scaler.scale(loss).backward() right before scaler.step(optimizer), and optimizer.zero_grad() before the backward",
        "scaler.scale(loss).backward()",
    )


def _never_stepped(crash: Crash, scope: dict[str, Any]) -> Verdict:  # noqa: ARG001
    return _ordered(
        "scaler.update() was called without scaler.step() before it: the optimizer's own step took the gradients with the scale in them",
        "write scaler.step(optimizer) for optimizer.step()",
        "scaler.step(optimizer)",
    )


def _never_updated(crash: Crash, scope: dict[str, Any]) -> Verdict:  # noqa: ARG001
    return _ordered(
        "scaler.step() was followed by another without scaler.update() in between",
        "call scaler.update() once at the end of each step, after every scaler.step()",
        "scaler.update()",
    )


def _unscaled_twice(crash: Crash, scope: dict[str, Any]) -> Verdict:  # noqa: ARG001
    return _ordered(
        "scaler.unscale_() ran a second time for one optimizer since the last scaler.update()",
        "call scaler.unscale_(optimizer) once, after the last backward of the step, and scaler.update() at its end",
        "scaler.update()",
    )


def _half(crash: Crash, scope: dict[str, Any]) -> Verdict:
    halves = [
        fqn
        for fqn, m in crash.modules.items()
        if any(str(p.dtype) == "torch.float16" for p in m._parameters.values() if p is not None)
    ]
    dtype = getattr(getattr(scope.get("param"), "grad", None), "dtype", "torch.float16")
    return Verdict(
        diagnosis="scaled-half-weights",
        module=halves[0] if len(halves) == 1 else "",
        message="a GradScaler needs weights in float32, and these are in float16: so are their gradients",
        arithmetic=f"gradients {dtype}" + (f", {len(halves)} layers in float16" if halves else ""),
        repairs=(
            Repair(
                title="leave the model in float32, without .half(), and run the forward under torch.autocast",
                code="torch.autocast",
            ),
        ),
    )


def _closure(crash: Crash, scope: dict[str, Any]) -> Verdict:  # noqa: ARG001
    return _ordered(
        "scaler.step() was given a closure, and cannot unscale the gradients that the closure makes",
        "use an optimizer that steps without a closure, or leave the GradScaler out",
        "optimizer.step(closure)",
    )


def _ordered(message: str, title: str, code: str) -> Verdict:
    return Verdict(
        diagnosis="scaler-order",
        message=message,
        arithmetic=f"the order is {_ORDER}",
        repairs=(Repair(title=title, code=code),),
    )


_CASES = (
    ("_scale is None", _never_scaled),
    ("recorded for this optimizer", _nothing_checked),
    ("recorded prior to update", _never_stepped),
    ("step() has already been called", _never_updated),
    ("called after step()", _never_updated),
    ("unscale_() has already been called", _unscaled_twice),
    ("unscale FP16 gradients", _half),
    ("Closure use", _closure),
)
