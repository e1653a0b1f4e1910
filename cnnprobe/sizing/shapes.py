"""Every shape of a model as a formula of the sizes of its input, found by forward passes on shapes
alone.

Passes at a few sizes give the numbers, formulas are fitted to them, and passes at other sizes show
whether they hold. What does not is shown as numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from cnnprobe.errors import TargetError
from cnnprobe.recorder.preservation import preserved_generators
from cnnprobe.recorder.shapes import (
    check_shapes_only,
    find_nested,
    raise_nested,
    refuse_packed,
    without_values,
)
from cnnprobe.records.sizes import Dim, Form, Product, SizedShapes, Symbol
from cnnprobe.records.trace import Trace
from cnnprobe.sizing.axes import Bounds, find_axes, find_bounds, find_start
from cnnprobe.sizing.crashes import LOOK, explain_failure, list_crashes, say_crash
from cnnprobe.sizing.edges import count_windows, find_cut_axes, find_residues
from cnnprobe.sizing.rows import describe_merged, make_fitter, make_rows
from cnnprobe.sizing.runs import Runs, SizeAxis
from cnnprobe.sizing.samples import (
    NEAR,
    Sampler,
    Seen,
    choose_checks,
    choose_telling,
    find_sample_period,
    take_samples,
    take_smaller,
)

_ROUNDS = 8  # of further samples, while more than one formula gives what was seen


def derive_shapes(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> SizedShapes:
    """Formulas of every output shape, which sizes are legal, and why the others are not.

    Args:
        model: any model that can run on shapes alone.
        args: arguments of the forward. The sizes of the first tensor vary, and those of the other
            tensors with them where the forward asks for it.
        kwargs: its keyword arguments.

    Raises:
        TargetError: it cannot run without its weights, it is given no tensor, or no size passes.
    """
    where = f"shapes({type(model).__name__})"
    check_shapes_only(model, where)
    if find_nested(args, kwargs) is not None:
        raise_nested(where)
    refuse_packed(args, kwargs, where)
    with preserved_generators(), without_values(model):
        runs = Runs(model, args, kwargs)
        if not runs.shapes or not runs.shapes[0]:
            raise TargetError(
                "the model is given no tensor with a size that could vary",
                where=where,
                fix="give the arguments of its forward: shapes(model, torch.empty(1, 3, 224, 224))",
            )
        start = find_start(runs)
        if start is None:
            crash = explain_failure(runs, {}, ())
            raise TargetError(
                f"the forward passes at no size: {say_crash(crash, runs.run({}).error)}",
                where=where,
                fix=crash.fix or LOOK,
            )
        notes = []
        if start:
            crash = explain_failure(runs, {}, ())
            notes.append(
                f"the given input {runs.shapes[0]} is not accepted ({crash.message}); sizes are "
                "those of another input that is"
            )
            runs = Runs(model, *runs.make_inputs(start))
        return _derive(runs, notes)


def _derive(runs: Runs, notes: list[str]) -> SizedShapes:
    axes = find_axes(runs)
    bounds = tuple(find_bounds(runs, axes, i) for i in range(len(axes)))
    base = runs.run({})
    sampler = Sampler(runs, axes)
    numbers = sampler.number(base.trace)
    samples = list(take_samples(sampler, axes, bounds))
    if any(seen.strayed for seen in samples):
        samples += take_smaller(sampler, axes, bounds)
    fitter = make_fitter(axes, numbers, samples)
    for _ in range(_ROUNDS):
        if not (telling := set(choose_telling(axes, bounds, fitter.doubts))):
            break
        samples += [sampler.see(sizes) for sizes in sorted(telling)]
        fitter = make_fitter(axes, numbers, samples)
    checks = [sampler.see(sizes) for sizes in choose_checks(axes, bounds, samples)]
    legal = [c.sizes for c in checks if c.trace.failure is None]
    period = find_sample_period(samples)
    symbols = tuple(_describe_symbol(axes, i, bounds[i], samples, period) for i in range(len(axes)))
    notes += [note for note in base.trace.notes if "zeros" in note]
    if strayed := [seen.sizes for seen in (*samples, *checks) if seen.strayed]:
        notes.append(
            f"the forward takes another path at some sizes, such as {strayed[0]}: formulas of "
            "functions are those of the path at the given sizes"
        )
    rows = make_rows(axes, numbers, samples, checks, fitter)
    if merged := describe_merged(base.trace.calls, rows):
        notes.append(merged)
    return SizedShapes(
        trace=base.trace,
        symbols=symbols,
        inputs=tuple(_write_inputs(runs, axes, base.trace)),
        rows=rows,
        crashes=tuple(list_crashes(runs, axes, bounds)),
        verified=tuple(legal),
        notes=tuple(notes),
    )


def _describe_symbol(
    axes: Sequence[SizeAxis], number: int, bound: Bounds, samples: Sequence[Seen], period: int
) -> Symbol:
    axis = axes[number]
    symbol = Symbol(
        name=axis.name,
        given=axis.given,
        least=bound.least,
        most=bound.most,
        step=bound.step,
    )
    spatial = [each.name for each in axes if each.name not in ("N", "C")]
    if axis.name not in spatial:
        return symbol
    windows = count_windows(samples[0].trace)
    rank = len(axis.places) if len(spatial) == 1 and len(axis.places) > 1 else len(spatial)
    cut = {
        seen.sizes[number]: spatial.index(axis.name) in find_cut_axes(seen.trace, rank)
        for seen in samples
        if count_windows(seen.trace) == windows and seen.sizes[number] - axis.given < NEAR
    }
    shortest, residues = find_residues(cut, period)
    return replace(symbol, period=shortest, residues=residues)


def _write_inputs(
    runs: Runs, axes: Sequence[SizeAxis], trace: Trace
) -> Iterator[tuple[str, tuple[Dim, ...]]]:
    """The shape of each input tensor, with the symbols in their places."""
    infos = trace.calls[0].inputs if trace.calls else ()
    names = {place: axis.name for axis in axes for place in axis.places}
    for number, shape in enumerate(runs.shapes):
        path = infos[number].path if number < len(infos) else str(number)
        yield (
            path,
            tuple(
                Dim(products=(Product(forms=(Form(symbol=names[number, d]),)),))
                if (number, d) in names
                else Dim(constant=size)
                for d, size in enumerate(shape)
            ),
        )
