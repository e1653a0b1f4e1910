"""Watches every model that a marked test calls, through torch's global hooks, for the time of the test only."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from cnnprobe.errors import UsageError
from cnnprobe.recorder.values import leaves
from cnnprobe.testing.failures import fail

CHECKS = ("finite",)


class Watch:
    """Fails at the first module that puts out NaN or Inf although what it got was finite."""

    def __init__(self, **checks: bool) -> None:
        unknown = sorted(set(checks) - set(CHECKS))
        if unknown:
            raise UsageError(f"no check named {unknown[0]!r}", where="@pytest.mark.cnnprobe", fix=f"known are {', '.join(CHECKS)}")
        self._checks = checks or {"finite": True}
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

    def _enter(self, module: nn.Module, _args: Any) -> None:
        self._open.append(module)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        __tracebackhide__ = True
        while self._open and self._open.pop() is not module:
            pass
        if self._checks.get("finite") and _is_odd(output) and not _is_odd((args, kwargs)) and not any(True for _ in module.children()):
            root = self._open[0] if self._open else module
            name = next((fqn for fqn, m in root.named_modules() if m is module), "")
            fail(
                f"NaN or Inf in the output of module '{name}' ({type(module).__name__})",
                where=f"{type(root).__name__}, given {', '.join(str(tuple(t.shape)) for _, t in leaves(args) if isinstance(t, Tensor))}",
                fix="what it was given is finite: look at its parameters, at a division, a logarithm, or an overflow in half precision",
            )


def _is_odd(value: Any) -> bool:
    return any(
        isinstance(t, Tensor) and t.dtype.is_floating_point and not t.is_meta and not bool(t.detach().isfinite().all())
        for _, t in leaves(value)
    )
