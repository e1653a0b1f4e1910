"""Another reshaping in the place of one that does not fit."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.calls import RewriteCall
from cnnprobe.crash.facts.words import shorten
from cnnprobe.records.trace import ModuleCall


def reshape_otherwise(
    crash: Crash, call: ModuleCall, function: Callable[..., Tensor], code: str, respell: str = ""
) -> RewriteCall:
    """Another call in the place of a reshaping; `function` takes its tensor and its sizes.

    `code` has {x} for the tensor; `respell` may have {rest} for the sizes as the user wrote them.
    """
    return RewriteCall(
        title=f"use {code.format(x='x')} instead of {call.kind.rpartition('.')[2]}"
        f" at {shorten(call.source)}",
        code=code,
        module=call.fqn if call.fqn is not None else crash.find_module_above(call.parent),
        kind=call.kind if call.fqn is None else "torch.Tensor.flatten",  # what nn.Flatten calls
        source=call.source,
        function=lambda _func, args, _kwargs: function(*args),
        respell=respell or code,
    )


def flatten_otherwise(crash: Crash, call: ModuleCall) -> RewriteCall:
    """torch.flatten(x, 1) in the place of a reshaping."""

    def flatten(x: Tensor, *_: Any) -> Tensor:
        return torch.flatten(x, 1)

    return reshape_otherwise(crash, call, flatten, "torch.flatten({x}, 1)")
