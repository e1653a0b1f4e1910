"""Reads the text of the user's program for what runs in a diagnosis."""

import ast
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor, nn
from torch.utils.data import RandomSampler, WeightedRandomSampler

from cnnprobe.diagnosis.evidence.texts import ShortLoop, Texts, UnreadName
from cnnprobe.records.trace import Trace
from cnnprobe.training.accumulation_texts import find_accumulations
from cnnprobe.training.argument_texts import find_swapped
from cnnprobe.training.average_texts import find_averages
from cnnprobe.training.checkpoint_names import note_fit
from cnnprobe.training.choices import find_chosen
from cnnprobe.training.epoch_texts import find_epochs
from cnnprobe.training.freezing_texts import find_thawed, unfreezes
from cnnprobe.training.init_texts import find_inits, find_uncalled
from cnnprobe.training.kept_weights import find_kept
from cnnprobe.training.metric_texts import find_outputs
from cnnprobe.training.quotient_texts import find_quotients
from cnnprobe.training.request import Request, find_arguments
from cnnprobe.training.residual_texts import find_taken_off
from cnnprobe.training.schedule_texts import find_schedules
from cnnprobe.training.sourcing import (
    DYNAMIC,
    FunctionText,
    find_text,
    is_own_file,
    list_classes,
    list_functions,
    name_of,
)
from cnnprobe.training.statements import (
    find_loads,
    find_odd_statements,
    find_repeated,
    find_short_loops,
)
from cnnprobe.training.surroundings import Surroundings, is_own, look_around
from cnnprobe.training.turn_texts import find_turns
from cnnprobe.training.unread_names import find_unread_names
from cnnprobe.training.validation_texts import find_measured


def read_texts(request: Request, around: Surroundings, trace: Trace) -> Texts:
    """What the text says of the classes of the model, the functions of the step and the file that
    asked.
    """
    classes = list_classes(request.model)
    functions = list_functions(around)
    methods = {id(m.node): m for each in classes for m in each.methods.values()}
    files = {m.path for m in methods.values()} | {f.path for f in functions}
    if is_own_file(request.caller):
        files.add(request.caller)
    ordered = sorted(files)
    names = _list_names(request, around)
    called = [*functions, *_list_loss_functions(request)]
    unread = find_unread_names(classes, called, ordered, trace)
    return Texts(
        unread=(*_list_step_arguments(request), *unread),
        odd=tuple(find_odd_statements(classes)),
        loads=tuple(note_fit(load, request.model, request.space) for load in find_loads(ordered)),
        loops=tuple(_note_order(loop, around) for loop in find_short_loops(functions)),
        kept=tuple(find_kept(functions, request.caller, _list_models(request, around))),
        repeated=tuple(find_repeated(classes)),
        chosen=tuple(find_chosen(classes)),
        slips=(
            *find_schedules(ordered, functions),
            *find_swapped(ordered),
            *find_accumulations(ordered, functions),
            *find_averages(ordered, functions),
            *find_epochs(ordered, functions),
            *find_inits(request.model, classes, ordered, names, request.space),
            *find_uncalled(ordered, functions),
            *find_thawed(ordered),
            *find_quotients(ordered),
            *find_turns(ordered, functions),
            *find_taken_off(ordered),
        ),
        outputs=tuple(find_outputs(ordered, names, functions)),
        measured=tuple(find_measured(ordered, names, functions)),
        unfreezes=unfreezes(ordered),
    )


def _note_order(loop: ShortLoop, around: Surroundings) -> ShortLoop:
    """The same; of a loader that draws a new order each time it begins, as that."""
    if not loop.loader:
        return loop
    held = [function.__globals__.get(loop.loader) for function in around.functions]
    for function in around.functions:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        held += [cell.cell_contents for name, cell in cells if name == loop.loader]
    shuffles = (RandomSampler, WeightedRandomSampler)
    if any(isinstance(getattr(loader, "sampler", None), shuffles) for loader in held):
        return replace(loop, kind="new-order")
    return loop


def _list_loss_functions(request: Request) -> list[FunctionText]:
    """The functions of the loss, which is the user's own part of a step that is not."""
    if request.train_step is not None:
        return []
    if isinstance(request.loss_fn, nn.Module):
        classes = list_classes(request.loss_fn)
        methods = {id(m.node): m for each in classes for m in each.methods.values()}
        return [m for m in methods.values() if m.node.name != "__init__"]
    return list_functions(look_around(request.loss_fn, {}))


def _list_models(request: Request, around: Surroundings) -> frozenset[str]:
    """The variables that hold a module."""
    return frozenset({request.names.get("model", "model")} | {n for n, _ in around.models.values()})


def _list_names(request: Request, around: Surroundings) -> frozenset[str]:
    """The variables that hold the model itself, also those of the files of the step's functions."""
    held = {name for name, model in around.models.values() if model is request.model}
    for function in around.functions:
        space = list(function.__globals__.items()) if is_own(function.__code__) else []
        held |= {name for name, value in space if value is request.model}
    return frozenset(held | {request.names.get("model", "model")})


def _list_step_arguments(request: Request) -> Iterator[UnreadName]:
    """The arguments of the training step that it is given a tensor for and does not read."""
    step = request.train_step
    text = find_text(step) if step is not None else None
    if step is None or text is None or any(name_of(n) in DYNAMIC for n in ast.walk(text.node)):
        return
    _, given = find_arguments(request)
    for name, value in given.items():
        used = any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(text.node))
        if isinstance(value, Tensor) and not used and not name.startswith("_"):
            yield UnreadName(
                kind="argument",
                name=name,
                function=text.name,
                source=f"{text.path}:{text.node.lineno}",
                value=f"a tensor of shape {tuple(value.shape)}",
            )
