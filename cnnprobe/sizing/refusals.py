"""Of which models the memory cannot be known from shapes alone, and why a pass of another
raises.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.errors import TargetError
from cnnprobe.recorder import TRACED
from cnnprobe.recorder.inventory import (
    check_hashable,
    check_model,
    has_lazy,
    named_modules,
    refuse_offloaded,
)
from cnnprobe.recorder.preservation import preserved_generators
from cnnprobe.recorder.shapes import (
    check_shapes_only,
    find_nested,
    raise_nested,
    refuse_packed,
    without_values,
)
from cnnprobe.recorder.values import argument_leaves, name_deferred
from cnnprobe.records.sizes import SizeCrash
from cnnprobe.sizing.crashes import LOOK, explain_failure, say_error
from cnnprobe.sizing.runs import Runs
from cnnprobe.sizing.steps import Plan


def refuse_unmeasured(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str
) -> None:
    """Refuse a model or inputs whose bytes do not follow from shapes.

    Raises:
        TargetError: it is no model, cannot run without its weights, or has sparse or nested
            tensors.
    """
    check_model(model, "the model whose memory is measured")
    check_hashable(model, "the model whose memory is measured")
    check_shapes_only(model, where)
    if find_nested(args, kwargs) is not None:
        raise_nested(where)
    refuse_packed(args, kwargs, where)
    refuse_offloaded(model, where)
    for path, tensor in _list_tensors(model, args, kwargs):
        if type(tensor).__name__ == "DTensor":
            raise TargetError(
                f"{path} is a DTensor: its values are sharded over several processes",
                where=where,
                fix="measure the model before it is sharded",
            )
        if tensor.layout is not torch.strided:
            raise TargetError(
                f"{path} is sparse: its bytes follow from its values, not from its shape",
                where=where,
                fix="measure the model with a dense one, or watch a real run with torch.profiler",
            )


def _list_tensors(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, Tensor]]:
    found = [
        (f"{kind} {f'{fqn}.{name}' if fqn else name!r}", tensor)
        for fqn, module, first in named_modules(model)
        if first
        for kind, registry in (("parameter", module._parameters), ("buffer", module._buffers))
        for name, tensor in registry.items()
    ]
    given = [(f"input {path}".rstrip(), leaf) for path, leaf in argument_leaves(args, kwargs)]
    return [(path, leaf) for path, leaf in (*found, *given) if isinstance(leaf, Tensor)]


def refuse_unseen(plan: Plan, where: str) -> None:
    """Refuse a forward of which a part runs where its tensors are not counted.

    Raises:
        TargetError: it runs on other threads, compiled by torch.cond and its like, or only when
            somebody reads what it returned.
    """
    with preserved_generators(), without_values(plan.model):
        seen = Runs(plan.model, plan.args, plan.kwargs).run({})
    if any(call.thread for call in seen.trace.calls):
        raise TargetError(
            "the forward runs a part of the model on other threads, where tensors are not counted",
            where=where,
            fix="measure that part by itself: memory(model.part, x)",
        )
    if traced := next((c.kind for c in seen.trace.calls if c.kind.startswith(TRACED)), ""):
        raise TargetError(
            f"{traced} compiles the functions given to it, whose tensors are not counted",
            where=where,
            fix="write that part without it, or measure the other parts: memory(model.part, x)",
        )
    if deferred := name_deferred(seen.output):
        raise TargetError(
            f"the forward returns a {deferred}: it runs only when that is read",
            where=where,
            fix="measure the part of the model that it calls: memory(model.part, x)",
        )


def refuse_uninitialised(model: nn.Module, where: str) -> None:
    """Refuse a model with lazy layers that its first forward did not call.

    Raises:
        TargetError: there is one.
    """
    for entry in named_modules(model):
        if has_lazy((entry,)):
            raise TargetError(
                f"{entry[0]!r} ({type(entry[1]).__name__}) is lazy and the forward does not call "
                "it: its parameters have no shape"
                if entry[0]
                else f"a tensor of the model ({type(entry[1]).__name__}) has no shape yet, and the "
                "forward does not give it one",
                where=where,
                fix="remove it, or give arguments with which the forward calls it",
            )


def explain_pass(plan: Plan, batch: int, error: Exception, where: str) -> TargetError:
    """Why a pass with so many samples raised: explained as any crash of the forward, where it is
    one.
    """
    crash = _explain_forward(plan, batch)
    raised = say_error(error)
    if crash is None and type(error).__module__.startswith("torch._subclasses"):
        return TargetError(
            f"torch cannot make this pass with tensors that have no data ({type(error).__name__})",
            where=where,
            fix="measure a part of the model, or watch a real run with torch.profiler",
        )
    if crash is None:
        return TargetError(
            f"a pass with {batch} samples raised {raised}",
            where=where,
            fix="the batch must be dim 0 of the inputs, and the loss must be able to do "
            "backward(); else measure a part of the model, or watch a real run with "
            "torch.profiler",
        )
    is_known = crash.diagnosis != "unknown"
    where = f"{where}, module {crash.module!r}" if crash.module else where
    if plan.batch in crash.sizes:
        why = crash.message if is_known else raised
        return TargetError(f"the forward raises: {why}", where=where, fix=crash.fix or LOOK)
    what = f"the forward accepts the batch of {plan.batch} that it is given, but not one of {batch}"
    return TargetError(
        f"{what}: {crash.message}" if is_known else what,
        where=where if is_known else f"{where}, {raised}",
        fix=crash.fix or "let dim 0 of the inputs vary; torch.export: dynamic_shapes",
    )


def _explain_forward(plan: Plan, batch: int) -> SizeCrash | None:
    """Why the forward raises, with the given batch if it does so then; None where it does not."""
    with preserved_generators(), without_values(plan.model):
        runs = Runs(plan.model, plan.args, plan.kwargs)
        places = [(i, 0) for i, shape in enumerate(runs.shapes) if shape[:1] == (plan.batch,)]
        for size in (plan.batch, batch):
            changes = dict.fromkeys(places, size)
            if not runs.passes(changes):
                return explain_failure(runs, changes, (size,))
    return None
