"""Watches every model that a marked test calls, through torch's global hooks, for the time of the
test only.
"""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from cnnprobe.errors import UnknownNameError, suggest
from cnnprobe.recorder.values import leaves
from cnnprobe.testing.failures import fail
from cnnprobe.testing.health import assert_healthy

CHECKS = ("finite", "healthy")


@contextlib.contextmanager
def watch(called: "CalledModels", **checks: bool) -> Iterator[None]:
    """Keep the models that are called in the block, and hold them to the checks: `finite` at each
    call, `healthy` at its end.
    """
    __tracebackhide__ = True
    for name in checks:
        if name not in CHECKS:
            raise UnknownNameError(
                f"no check named {name!r}", where="@pytest.mark.cnnprobe", fix=suggest(name, CHECKS)
            )
    called.is_finite_wanted = bool(checks.get("finite"))
    with called:
        yield
    if checks.get("healthy"):
        called.assert_healthy()


@dataclass(kw_only=True)
class Called:
    """An outermost model and what it was last called with."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class CalledModels:
    """The models that were called while it was entered, each with copies of the inputs of its
    latest call; losses are no models.
    """

    def __init__(self) -> None:
        self.is_finite_wanted = False
        self._latest: dict[int, Called] = {}
        self._handles: list[Any] = []
        self._open: list[nn.Module] = []

    def __enter__(self) -> Self:
        modules = torch.nn.modules.module
        self._handles = [
            modules.register_module_forward_pre_hook(self._enter),
            modules.register_module_forward_hook(self._leave, with_kwargs=True, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
            # torch forgets this mark of a global hook; with it left, every compiled model warns.
            torch.nn.modules.module._global_forward_hooks_with_kwargs.pop(handle.id, None)
        self._open.clear()

    def latest(self) -> tuple[Called, ...]:
        """In the order of their first calls."""
        return tuple(self._latest.values())

    def assert_healthy(self) -> None:
        """Fail with what the rules find in any of the models."""
        __tracebackhide__ = True
        messages = []
        for seen in self.latest():
            try:
                assert_healthy(seen.model, _make_inputs(seen))
            except AssertionError as error:
                messages.append(error)
        if len(messages) == 1:
            raise messages[0]
        if messages:
            raise AssertionError("\n".join(map(str, messages)))

    def _enter(self, module: nn.Module, args: Any) -> None:
        # A checkpointed block is called again by the backward pass, without its model around it.
        is_recomputed = torch._C._current_graph_task_id() != -1
        if not self._open and not isinstance(module, _Loss) and not is_recomputed:
            self._latest.setdefault(id(module), Called(model=module)).args = _copy(tuple(args))
        self._open.append(module)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], *kwargs_and_output: Any) -> None:
        __tracebackhide__ = True
        # Where the forward raised, torch calls a global hook that is always called without the
        # keywords: nn/modules/module.py, _call_impl.
        kwargs, output = kwargs_and_output if len(kwargs_and_output) == 2 else ({}, None)
        while self._open and self._open.pop() is not module:
            pass
        if not self._open and id(module) in self._latest:
            self._latest[id(module)].kwargs = _copy(kwargs)
        if (
            self.is_finite_wanted
            and _is_odd(output)
            and not _is_odd((args, kwargs))
            and not any(True for _ in module.children())
        ):
            root = self._open[0] if self._open else module
            name = next((fqn for fqn, m in root.named_modules() if m is module), "")
            shapes = [str(tuple(t.shape)) for _, t in leaves(args) if isinstance(t, Tensor)]
            fail(
                f"NaN or Inf in the output of module '{name}' ({type(module).__name__})",
                where=f"{type(root).__name__}, given {', '.join(shapes)}",
                fix=(
                    "its inputs are finite: check its parameters, and look for a division, a "
                    "logarithm, or an overflow in half precision"
                ),
            )


def _copy(values: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda v: v.detach().clone() if isinstance(v, Tensor) else v, values
    )


def _make_inputs(seen: Called) -> Any:
    """Both kinds of arguments in one: by name, where there are both."""
    if not seen.kwargs:
        return seen.args
    if not seen.args:
        return seen.kwargs
    bound = inspect.signature(seen.model.forward).bind(*seen.args, **seen.kwargs)
    kinds = {
        parameter.kind
        for name, parameter in bound.signature.parameters.items()
        if name in bound.arguments
    }
    if kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}:
        return dict(bound.arguments)
    return fail(
        (
            f"the health of {type(seen.model).__name__} cannot be judged: its forward takes *args "
            "and "
            "was called with keywords too"
        ),
        where="@pytest.mark.cnnprobe(healthy=True)",
        fix="call cnnprobe.testing.assert_healthy on a module that calls it and takes tensors only",
    )


def _is_odd(value: Any) -> bool:
    return any(
        isinstance(t, Tensor)
        and t.dtype.is_floating_point
        and not t.is_meta
        and not bool(t.detach().isfinite().all())
        for _, t in leaves(value)
    )
