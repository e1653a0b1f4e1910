"""The assertion that two models are the same, with the text of the comparison."""

from typing import Any

from cnnprobe.api import Compared, compare


def assert_equivalent(
    actual: Compared,
    expected: Compared,
    *args: Any,
    level: str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    **kwargs: Any,
) -> None:
    """Nothing, where two models are the same: at `level`, or at every level that can be compared.

    Args:
        actual: a model, or a recording of one (Report, Trace, Recording, path of a saved report).
        expected: the one that it should be like.
        *args: the forward's positional arguments.
        level: a name of `cnnprobe.records.differences.LEVELS`: "shapes", "parameters", "numbers",
            ...; None for all.
        rtol: relative tolerance of numbers; default torch.testing's by dtype.
        atol: absolute tolerance of numbers.
        **kwargs: the forward's keyword arguments.

    Raises:
        AssertionError: they differ; its text is that of the comparison, first divergence first.
        UnknownNameError: there is no such level.

    >>> import torch
    >>> assert_equivalent(torch.nn.ReLU(), torch.nn.Sequential(torch.nn.ReLU()), torch.randn(2, 3))
    """
    __tracebackhide__ = True
    comparison = compare(actual, expected, *args, rtol=rtol, atol=atol, level=level, **kwargs)
    holds = comparison.equivalent if level is None else comparison.levels[level]
    if not holds:
        raise AssertionError(str(comparison))
