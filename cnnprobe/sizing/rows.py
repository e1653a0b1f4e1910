"""A formula for each dim of each output, fitted to samples and held against checks."""

from collections.abc import Sequence

from cnnprobe.records.sizes import Dim, SizedCall, evaluate_dim
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
