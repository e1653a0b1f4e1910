"""Remedies of what has derivative zero: an estimate of its gradient, or a fresh start."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import SQUASHING, Evidence, Flow, describe, operation
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.initialisation import initialise_one
from cnnprobe.remedies.kinds.calls import all_instead, instead, pass_on
from cnnprobe.remedies.loop_lines import drop_call
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import CannotTryError
from cnnprobe.rulebook.zero_grad import list_flat

MOST = 3  # flat operations that are tried, the nearest to the loss first


@answers("zero-grad")
def let_slope_through(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A fresh initialisation before a saturated sigmoid; no clamp, of several none; a
    straight-through gradient.

    Source: Bengio, Léonard, Courville 2013, arXiv:1308.3432.
    """
    if finding.kind in ("single-step", "first-step"):
        return
    flow = Flow(evidence.trace)
    clamps = [flow.calls[i] for i in list_flat(flow) if operation(flow.calls[i]) == "clamp"]
    if len({(call.kind, call.source) for call in clamps}) > 1:
        yield _remove_all(clamps)
    for i in list(reversed(list_flat(flow)))[:MOST]:
        call, kind = flow.calls[i], operation(flow.calls[i])
        if kind in SQUASHING:
            before = flow.origin(call.inputs[0]) if call.inputs else None
            layer = flow.calls[before].fqn if before is not None else None
            if layer:
                yield initialise_one(evidence, layer, "the gradient is no longer 0")
            continue
        if kind == "clamp":
            yield Remedy(
                title=f"remove {describe(call)} in training",
                change=instead(call, pass_on),
                written=lambda call=call: drop_call(call.source, call.kind),  # type: ignore[misc]
                shows="the gradient is no longer 0",
                is_comparable=False,
            )
        yield Remedy(
            title=f"x + ({describe(call)}(x) - x).detach() in place of {describe(call)}(x)",
            change=instead(call, pass_straight),
            shows="the gradient goes through as if it were not there",
            is_comparable=False,
        )


def _remove_all(clamps: list[ModuleCall]) -> Remedy:
    """No clamp whose values all lie beyond its bounds."""
    names = " and ".join(dict.fromkeys(describe(call) for call in clamps))
    places = dict.fromkeys((call.source, call.kind) for call in clamps)
    return Remedy(
        title=f"remove {names} in training",
        change=all_instead(clamps, pass_on),
        written=lambda: [change for place in places for change in drop_call(*place)],
        shows="the gradient is no longer 0",
        is_comparable=False,
    )


def pass_straight(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result, with the gradient of what went in."""
    given = args[0] if args else kwargs.get("input")
    made = func(*args, **kwargs)
    if not isinstance(given, Tensor) or not isinstance(made, Tensor) or made.shape != given.shape:
        raise CannotTryError("what it gives has another shape than what goes in")
    if not given.is_floating_point():
        raise CannotTryError("what goes in is not floating")
    return given + (made.to(given.dtype) - given).detach()
