"""Finds what repeats in a forward pass, writes it as blocks, and proves the new source: runs it,
transfers the weights, compares at every level.

Runs forward and backward passes of the given model and of the new one. The source that is executed
here is its own, made of numbers and names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cnnprobe.comparison import Tolerance, compare_models, list_tensors, trace_structure
from cnnprobe.comparison.passes import Side
from cnnprobe.comparison.primitives import list_operations
from cnnprobe.comparison.refactoring.branches import list_items
from cnnprobe.comparison.refactoring.describing import describe
from cnnprobe.comparison.refactoring.layers import NotWritableError
from cnnprobe.comparison.refactoring.patterns import Run, fold
from cnnprobe.comparison.refactoring.templates import Template, build_template
from cnnprobe.comparison.refactoring.writing import write_source
from cnnprobe.errors import ProbeError, TargetError
from cnnprobe.recorder.inventory import check_hashable, check_model, class_of, is_lazy
from cnnprobe.records.differences import Rewrite

__all__ = ["refactor_model"]


def refactor_model(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Rewrite:
    """The model in blocks, proven equivalent at every level, or why there are none.

    Raises:
        TargetError: `model` is no model, or its forward raises on these inputs.
    """
    check_model(model, "the model to refactor")
    check_hashable(model, "the model to refactor")
    name = class_of(model).__name__
    if is_lazy(model):
        raise TargetError(
            "the model has lazy modules: its first forward pass creates their parameters",
            where=f"the model to refactor, {name}",
            fix="call it once on a batch before refactoring it",
        )
    trace = trace_structure(Side(model=model, args=args, kwargs=kwargs), training=False)
    if trace.failure is not None:
        raise TargetError(
            f"the forward pass raised {trace.failure.error}",
            where=f"module {trace.failure.module!r} of {name}",
            fix="fix it first (cnnprobe.probe explains it), then refactor",
        )
    try:
        pieces = fold(list_items(list_operations(trace)))
        runs = [piece for piece in pieces if isinstance(piece, Run)]
        templates = _make_templates(runs)
        source, class_name = write_source(name, pieces, templates) if runs else ("", "")
    except NotWritableError as error:
        where = f", at {error.where}" if error.where else ""
        return Rewrite(model=name, notes=(f"nothing was written: {error.what}{where}",))
    if not runs:
        note = "nothing to fold: no pattern of two or more operations repeats in sequence"
        return Rewrite(model=name, notes=(note,))
    blocks = tuple(describe(run, templates[run.sign]) for run in runs)
    draft = Rewrite(model=name, blocks=blocks, source=source, class_name=class_name)
    return _prove(model, (args, kwargs), draft)


def _make_templates(runs: Sequence[Run]) -> dict[str, Template]:
    """One template for all runs of the same pattern."""
    by_sign: dict[str, list[Run]] = {}
    for run in runs:
        by_sign.setdefault(run.sign, []).append(run)
    return {sign: build_template(same) for sign, same in by_sign.items()}


# What the generated class may raise where it is not the model after all.
_UNPROVABLE = (
    RuntimeError, TypeError, ValueError, NameError, AttributeError, SyntaxError, ProbeError,
)  # fmt: skip


def _prove(
    model: nn.Module, inputs: tuple[tuple[Any, ...], Mapping[str, Any]], draft: Rewrite
) -> Rewrite:
    """The draft with its proof, or without its source where the proof fails."""
    try:
        new = build(draft.source, draft.class_name, like=model)
        outcome = compare_models(new, model, inputs, tolerance=Tolerance(), level="operations")
        new.load_state_dict(_copy_weights(new, model, outcome.mapping))
        proof = compare_models(new, model, inputs, tolerance=Tolerance())
    except _UNPROVABLE as error:
        return _hide_source(draft, f"it could not be proven, {type(error).__name__}: {error}")
    failed = [level for level, holds in proof.levels.items() if holds is False]
    if failed:
        first = proof.differences[0]
        where = f"first at {first.expected or first.actual}: {first.message}"
        return replace(_hide_source(draft, f"{', '.join(failed)} differ, {where}"), proof=proof)
    notes = tuple(
        note for note in proof.notes if "(Identity) of the actual model does nothing" not in note
    )  # an empty shortcut is written so
    return replace(draft, mapping=dict(proof.mapping), proof=proof, notes=notes)


def _hide_source(draft: Rewrite, why: str) -> Rewrite:
    """The blocks alone, and the reason why there is no source."""
    note = f"the generated source is not shown: {why}"
    return Rewrite(model=draft.model, blocks=draft.blocks, notes=(note,))


def build(source: str, class_name: str, *, like: nn.Module) -> nn.Module:
    """An instance of the class that the source defines, in the mode, dtype and on the device of
    another model; consumes no random numbers.
    """
    namespace: dict[str, Any] = {"__name__": "cnnprobe_refactored"}
    exec(compile(source, f"<{class_name}>", "exec"), namespace)  # noqa: S102 - our own source, made of numbers and of names that were cleaned
    parameter = next((p for p in like.parameters() if p.is_floating_point()), None)
    with torch.random.fork_rng(devices=[]):
        made: nn.Module = namespace[class_name]()
    if parameter is not None:
        made.to(parameter.device, parameter.dtype)
    for name, other in zip(made.parameters(), like.parameters(), strict=False):
        name.requires_grad_(other.requires_grad)
    return made.train(like.training)


def _copy_weights(
    new: nn.Module, model: nn.Module, mapping: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    theirs = list_tensors(model)
    state = new.state_dict()
    return {
        name: theirs[mapping[name]].detach() if name in mapping else state[name] for name in state
    }
