"""A formula for each dim of each output, fitted to samples and held against checks."""

from collections.abc import Sequence

from cnnprobe.records.sizes import Dim, SizedCall, evaluate_dim, write_dim
from cnnprobe.records.trace import ModuleCall
from cnnprobe.sizing.forms import Fitter
from cnnprobe.sizing.runs import SizeAxis
from cnnprobe.sizing.samples import Seen

_NUMBERS = 4  # sizes whose shapes are shown where no formula fits


def make_fitter(
    axes: Sequence[SizeAxis], numbers: Sequence[int], samples: Sequence[Seen]
) -> Fitter:
    """The formulas of every dim that was seen."""
    names = [axis.name for axis in axes]
    fitter = Fitter([dict(zip(names, seen.sizes, strict=True)) for seen in samples])
    for _ in range(2):  # a model comes before its layers, and may need their forms
        fitter.forget_misses()
        for key in numbers:
            for number, shape in enumerate(samples[0].shapes.get(key, ())):
                _fit_shape(fitter, key, number, shape, samples)
    return fitter


def make_rows(
    axes: Sequence[SizeAxis],
    numbers: Sequence[int],
    samples: Sequence[Seen],
    checks: Sequence[Seen],
    fitter: Fitter,
) -> tuple[SizedCall, ...]:
    """A row for each call at the given sizes; a formula that fails a check is dropped."""
    names = [axis.name for axis in axes]
    rows = []
    for call, key in enumerate(numbers):
        outputs = tuple(
            _check_shape(
                names, key, number, _fit_shape(fitter, key, number, shape, samples), checks
            )
            for number, shape in enumerate(samples[0].shapes.get(key, ()))
        )
        has_all = all(dim is not None for output in outputs for dim in output)
        seen = () if has_all else _list_numbers(key, samples)
        rows.append(SizedCall(call=call, outputs=outputs, seen=seen))
    return tuple(rows)


def describe_merged(calls: Sequence[ModuleCall], rows: Sequence[SizedCall]) -> str:
    """Which call makes samples of positions where the output keeps them; "" where none does."""
    merged = [row.call for row in rows if _is_merged(row)]
    parents = {calls[i].parent for i in merged}
    first = next((i for i in merged if i not in parents), None)
    if first is None or 0 not in merged:
        return ""
    call, dim = calls[first], write_dim(rows[first].outputs[0][0])
    name = repr(call.fqn) if call.fqn else call.kind.rpartition(".")[2]
    return (
        f"{name} at {call.source} gives {dim} rows, not N: at other input sizes, positions of an "
        "image become samples; flatten with x.flatten(1), or pool to a fixed size before it"
    )


def _is_merged(row: SizedCall) -> bool:
    """Whether dim 0 is N times a number of positions, divided by what one row takes of them."""
    dim = row.outputs[0][0] if row.outputs and row.outputs[0] else None
    return dim is not None and any(
        product.denominator != 1
        and len(symbols := {form.symbol for form in product.forms}) > 1
        and "N" in symbols
        for product in dim.products
    )


def _fit_shape(
    fitter: Fitter, key: int, number: int, shape: tuple[int, ...], samples: Sequence[Seen]
) -> tuple[Dim | None, ...]:
    """A formula for each dim of an output; None where there is none."""
    return tuple(
        fitter.fit(tuple(_read_dim(seen, key, number, dim, len(shape)) for seen in samples))
        for dim in range(len(shape))
    )


def _check_shape(
    names: Sequence[str],
    key: int,
    number: int,
    dims: tuple[Dim | None, ...],
    checks: Sequence[Seen],
) -> tuple[Dim | None, ...]:
    """The formulas that hold at sizes which they were not made from."""
    found = list(dims)
    for seen in checks:
        sizes = dict(zip(names, seen.sizes, strict=True))
        for i, dim in enumerate(dims):
            value = _read_dim(seen, key, number, i, len(dims))
            if dim is not None and value is not None and evaluate_dim(dim, sizes) != value:
                found[i] = None
    return tuple(found)


def _read_dim(seen: Seen, key: int, number: int, dim: int, rank: int) -> int | None:
    """A dim of an output, None where the call was not reached; -1 where its rank is another."""
    shapes = seen.shapes.get(key)
    if shapes is None:
        return None
    return shapes[number][dim] if number < len(shapes) and len(shapes[number]) == rank else -1


def _list_numbers(
    key: int, samples: Sequence[Seen]
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    found = [(seen.sizes, seen.shapes[key][0]) for seen in samples if seen.shapes.get(key)]
    return tuple(found[:_NUMBERS])
