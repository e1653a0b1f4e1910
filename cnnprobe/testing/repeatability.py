"""Assertions on what must not depend on chance, on other samples, or on the run."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.recorder.inventory import class_of, has_values
from cnnprobe.recorder.values import leaves
from cnnprobe.records.words import format_counted
from cnnprobe.testing.behaviour import check_values, keep_model
from cnnprobe.testing.failures import (
    Inputs,
    fail,
    split_arguments,
)

_MOST_REPLACED = 4  # samples of the batch: one forward pass each


def assert_batch_independent(model: nn.Module, inputs: Inputs) -> None:
    """Fail if one sample of the batch has an influence on the output of another, in eval mode.

    The first dim of every tensor in `inputs` is the batch. Each of up to four samples is replaced
    in turn by other numbers.
    """
    __tracebackhide__ = True
    args, kwargs = split_arguments(inputs)
    batch = next(
        (t.shape[0] for _, t in leaves((args, dict(kwargs))) if isinstance(t, Tensor) and t.dim()),
        0,
    )
    if batch < 2:
        fail(
            f"a batch of {batch} cannot show whether samples are independent",
            where="inputs",
            fix="give at least two samples",
        )
    with _run_in_eval(model, args, kwargs):
        expected = _find_first_tensor(model(*args, **kwargs))
        check_values(model, [expected], "output")
        if expected.dim() == 0 or expected.shape[0] != batch:
            fail(
                f"the output has shape {tuple(expected.shape)}, without a batch dim of {batch}",
                where=class_of(model).__name__,
                fix="keep the batch dim: no squeeze(), view(-1) or mean over dim 0",
            )
        for sample in range(min(batch, _MOST_REPLACED)):
            changed = torch.utils._pytree.tree_map(
                lambda t, k=sample: _replace_sample(t, k, batch), (args, dict(kwargs))
            )
            actual = _find_first_tensor(model(*changed[0], **changed[1]))
            _check_others(model, expected, actual, sample)


def _check_others(model: nn.Module, expected: Tensor, actual: Tensor, sample: int) -> None:
    """Fail if the output of any other sample moved with this one."""
    __tracebackhide__ = True
    others = [i for i in range(len(expected)) if i != sample]
    moved = [i for i in others if not torch.allclose(actual[i], expected[i], equal_nan=True)]
    if not moved:
        return
    apart = float((actual[moved[0]] - expected[moved[0]]).abs().max())
    fail(
        f"changing sample {sample} changes the output of sample {moved[0]} by up to {apart:.3g}",
        details=[f"{len(moved)} of {format_counted(len(others), 'other sample')} moved"],
        where=class_of(model).__name__,
        fix=(
            "look for a view or reshape that mixes the batch dim, softmax or a mean "
            "over dim 0, or statistics of the batch in eval"
        ),
    )


def _replace_sample(value: Any, sample: int, batch: int) -> Any:
    if not isinstance(value, Tensor) or not value.dim() or value.shape[0] != batch:
        return value
    other = value.clone()
    other[sample] = (
        other[(sample + 1) % batch].flip(-1)
        if not value.dtype.is_floating_point
        else torch.randn_like(other[sample]) * 3 + 1
    )
    return other


@contextlib.contextmanager
def _run_in_eval(model: nn.Module, args: tuple[Any, ...], kwargs: Any) -> Iterator[None]:
    with keep_model(model, args, kwargs), torch.no_grad():
        model.eval()
        yield


def _find_first_tensor(output: Any) -> Tensor:
    __tracebackhide__ = True
    for _, value in leaves(output):
        if isinstance(value, Tensor):
            return value
    return fail(
        f"the output is {type(output).__name__}, not a tensor",
        where="the model",
        fix="return a tensor, or a container with one",
    )


def assert_deterministic(model: nn.Module, inputs: Inputs) -> None:
    """Fail unless two forward passes from equal states of model and random generators give
    bit-equal outputs, in the mode it is in.
    """
    __tracebackhide__ = True
    args, kwargs = split_arguments(inputs)
    runs = []
    for _ in range(2):
        with keep_model(model, args, kwargs) as (args, kwargs), torch.no_grad():
            runs.append(
                [t.clone() for _, t in leaves(model(*args, **kwargs)) if isinstance(t, Tensor)]
            )
    _compare_runs(
        model,
        runs,
        "two runs from the same random state differ",
        (
            "look for a random generator that the model owns, or call "
            "torch.use_deterministic_algorithms(True) to find the operation"
        ),
    )


def assert_eval_is_stable(model: nn.Module, inputs: Inputs) -> None:
    """Fail unless in eval mode two forward passes give equal outputs, from different random states,
    and change no buffer.
    """
    __tracebackhide__ = True
    args, kwargs = split_arguments(inputs)
    with _run_in_eval(model, args, kwargs):
        buffers = {name: b.clone() for name, b in model.named_buffers() if has_values(b)}
        runs = []
        for seed in range(2):
            torch.manual_seed(seed)
            runs.append(
                [t.clone() for _, t in leaves(model(*args, **kwargs)) if isinstance(t, Tensor)]
            )
        found = dict(model.named_buffers())
        changed = [name for name, b in buffers.items() if not torch.equal(found[name], b)]
    if changed:
        fail(
            (
                f"{format_counted(len(changed), 'buffer')} "
                f"{'change' if len(changed) > 1 else 'changes'} in eval mode"
            ),
            details=[f"'{name}'" for name in changed],
            where=class_of(model).__name__,
            fix="update statistics only while self.training",
        )
    _compare_runs(
        model,
        runs,
        "two runs in eval mode differ",
        "look for F.dropout without training=self.training, or for random numbers in forward",
    )


def _compare_runs(model: nn.Module, runs: Sequence[Sequence[Tensor]], what: str, fix: str) -> None:
    __tracebackhide__ = True
    check_values(model, runs[0], "output")
    details = []
    for i, (first, second) in enumerate(zip(*runs, strict=True)):
        if first.shape != second.shape:
            details.append(f"output {i}: shapes {tuple(first.shape)} and {tuple(second.shape)}")
        elif not torch.equal(first.nan_to_num(), second.nan_to_num()):
            apart = (first.double() - second.double()).abs()
            details.append(
                f"output {i}: {int((apart > 0).sum()):,} of {apart.numel():,} values, by up to "
                f"{float(apart.max()):.3g}"
            )
    if details:
        fail(what, details=details, where=class_of(model).__name__, fix=fix)
