"""Why a model does not accept an input size, as the room of crashes explains it."""

from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from torch.nn.parameter import is_lazy

from cnnprobe.crash import Crash, explain
from cnnprobe.records.explanation import Explanation
from cnnprobe.records.sizes import SizeCrash
from cnnprobe.sizing.axes import Bounds
from cnnprobe.sizing.runs import Place, Runs, SizeAxis, place_sizes


def list_crashes(
    runs: Runs, axes: Sequence[SizeAxis], bounds: Sequence[Bounds]
) -> Iterator[SizeCrash]:
    """A crash of each kind: below the least size, between the legal ones, and above the largest."""
    given = tuple(axis.given for axis in axes)
    known: set[tuple[str, str]] = set()
    for choose in (_choose_below, _choose_between, _choose_above):
        sizes = tuple(choose(a, b) for a, b in zip(axes, bounds, strict=True))
        if sizes == given:
            continue
        changes = place_sizes(axes, sizes)
        if runs.passes(changes) or min(sizes) < 1:
            continue
        crash = explain_failure(runs, changes, sizes)
        if (crash.diagnosis, crash.message) not in known:
            known.add((crash.diagnosis, crash.message))
            yield crash


def _choose_below(axis: SizeAxis, bound: Bounds) -> int:
    below = bound.least - bound.step
    return below if axis.name != "N" and below >= 1 else axis.given


def _choose_between(axis: SizeAxis, bound: Bounds) -> int:
    return axis.given + 1 if axis.name != "N" and bound.step > 1 else axis.given


def _choose_above(axis: SizeAxis, bound: Bounds) -> int:
    has_end = axis.name != "N" and bound.most is not None
    return (bound.most or 0) + bound.step if has_end else axis.given


LOOK = "call cnnprobe.probe(model, x), which shows the calls before it"


def say_crash(crash: SizeCrash, error: BaseException | None) -> str:
    """Why a forward raised; its own message where the cause is unknown."""
    if crash.diagnosis != "unknown" or error is None:
        return crash.message
    return say_error(error)


def say_error(error: BaseException) -> str:
    """The class and the first line of an exception."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first}"


def explain_failure(runs: Runs, changes: Mapping[Place, int], sizes: tuple[int, ...]) -> SizeCrash:
    """What a forward pass at these sizes raises, and why."""
    seen = runs.run(changes)
    failure = seen.trace.failure
    if seen.error is None or failure is None:  # what only the meta device lets pass
        return SizeCrash(
            sizes=sizes,
            diagnosis="unknown",
            message="a layer expects other channels or another dtype, or its output would be empty",
        )
    args, kwargs = runs.make_inputs(changes)
    crash = Crash(error=seen.error, model=runs.model, trace=seen.trace, args=args, kwargs=kwargs)
    explanation = explain(crash)
    if explanation is None:
        return SizeCrash(
            sizes=sizes,
            diagnosis="unknown",
            message=failure.error,
            module=failure.module,
        )
    return SizeCrash(
        sizes=sizes,
        diagnosis=explanation.diagnosis,
        message=explanation.message,
        module=explanation.module,
        fix=_choose_fix(explanation, runs.model),
    )


def _choose_fix(explanation: Explanation, model: nn.Module) -> str:
    """The first repair that keeps the weights, as they fit the other sizes; else the first.

    One of the model goes before another input: other sizes are what is asked for.
    """
    count = sum(p.numel() for p in model.parameters() if not is_lazy(p))
    kept = [one for one in explanation.repairs if one.works and one.parameters == count]
    kept.sort(key=lambda one: one.module is None)
    return next((one.title for one in (*kept, *explanation.repairs)), "")
