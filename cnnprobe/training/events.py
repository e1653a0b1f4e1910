"""Sees what a training loop does, in order, through Python's own profile hook: nothing of torch is
patched.

The hook is set for this thread while the step runs and put back afterwards; it looks at calls of a
handful of known functions only.
"""

import sys
import types
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnprobe.training.boxes import is_overlap

_INNER = ("torch.", "cnnprobe.recorder.")  # backward goes through the recorder's function mode
_WATCHED = frozenset({"call", "return"})  # events of functions in Python


def _step_code() -> types.CodeType | None:
    """The function that torch puts around every optimizer's step."""
    holder = Optimizer.profile_hook_step
    for constant in holder.__code__.co_consts:
        if isinstance(constant, types.CodeType) and constant.co_name == "wrapper":
            return constant
    return None


def find_caller(frame: types.FrameType) -> str:
    """The line outside of torch that a call comes from; "" where there is none."""
    caller = _find_outside(frame)
    return f"{caller.f_code.co_filename}:{caller.f_lineno}" if caller is not None else ""


def find_function(frame: types.FrameType) -> str:
    """The function outside of torch that a call comes from, by its name."""
    caller = _find_outside(frame)
    return caller.f_code.co_name if caller is not None else ""


def _find_outside(frame: types.FrameType) -> types.FrameType | None:
    caller = frame.f_back
    while caller is not None and caller.f_globals.get("__name__", "").startswith(_INNER):
        caller = caller.f_back
    return caller


class LoopWatch:
    """Calls `on(kind, locals)` when a known function is entered, and `on(kind + " done", locals)`
    when it is left.
    """

    def __init__(
        self,
        on: Callable[[str, dict[str, Any], types.FrameType], None],
        known: Callable[[types.CodeType], bool] | None = None,
    ) -> None:
        self._on = on
        self._known = known  # the functions that are a "known" one
        self._codes: dict[types.CodeType, str | None] = {}
        self._previous: Any = None
        for kind, function in (
            ("backward", torch.autograd.backward),
            ("clip", torch.nn.utils.clip_grad_norm_),
            ("clip", torch.nn.utils.clip_grad_value_),
            ("zero_grad", Optimizer.zero_grad),
            ("zero_grad", nn.Module.zero_grad),
            ("mode", nn.Module.train),
            ("schedule", LRScheduler.step),
            ("scale", GradScaler.scale),
            ("unscale", GradScaler.unscale_),
            ("grad", torch.autograd.grad),
        ):
            self._add(kind, function)
        for scheduler in vars(torch.optim.lr_scheduler).values():
            if isinstance(scheduler, type) and "step" in vars(scheduler):
                self._add("schedule", vars(scheduler)["step"])
        code = _step_code()
        if code is not None:
            self._codes[code] = "step"

    def _add(self, kind: str, function: Any) -> None:
        while function is not None:  # the decorated function and what it wraps
            code = getattr(function, "__code__", None)
            inner = getattr(function, "__wrapped__", None)
            if isinstance(code, types.CodeType) and inner is None:
                self._codes[code] = kind
            function = inner

    def _judge(self, code: types.CodeType) -> str | None:
        if self._known is not None and self._known(code):
            return "known"
        return "boxes" if is_overlap(code) else None

    def __enter__(self) -> Self:
        self._previous = sys.getprofile()
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is None or callable(self._previous):
            sys.setprofile(self._previous)
        else:  # cProfile's own object, which only enable() installs
            sys.setprofile(None)
            getattr(self._previous, "enable", lambda: None)()

    def _profile(self, frame: types.FrameType, event: str, argument: object) -> None:  # noqa: ARG002
        if event not in _WATCHED:  # first: most events are calls of functions in C
            return
        kind = self._codes.get(frame.f_code, "")
        if kind == "":
            kind = self._codes[frame.f_code] = self._judge(frame.f_code)
        if kind is None:
            return
        if (
            kind == "mode"
            and frame.f_back is not None
            and self._codes.get(frame.f_back.f_code) == "mode"
        ):
            return  # train() calls itself for the children
        sys.setprofile(None)
        try:
            self._on(kind if event == "call" else kind + " done", frame.f_locals, frame)
        finally:
            sys.setprofile(self._profile)
