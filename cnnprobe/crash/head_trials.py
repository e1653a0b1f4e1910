"""Changes of the model that a loss asks for, tried on a shadow: the output is to have the targets' size, or one row for each sample."""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import configure, resize_input
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.edits.edit import Edit, write_diff
from cnnprobe.crash.edits.reshaping import flatten_otherwise
from cnnprobe.crash.facts.branches import refit_every_upsampling, refit_size
from cnnprobe.crash.facts.windows import apply_windows, list_steps
from cnnprobe.crash.facts.words import count_elements, shorten
from cnnprobe.crash.loss_trials import BY_CLASS, repaired
from cnnprobe.crash.model_copy import Outcome, copy_model
from cnnprobe.crash.training import Loss
from cnnprobe.explanation import Repair
from cnnprobe.trace import ModuleCall

_MOST_TRIALS = 3


def _outcome(crash: Crash, edits: Sequence[Edit]) -> Outcome | None:
    """One forward of a shadow with these edits; None where that cannot be tried."""
    if crash.model is None or not (crash.args or crash.kwargs):
        return None
    shadow = copy_model(crash.model, crash.args, crash.kwargs, meta=True, grad=False)
    if shadow is None:
        return None
    try:
        shadow.apply(edits)
        return shadow.run()
    except Exception:  # the edits do not fit
        return None


def _said(outcome: Outcome) -> str:
    return f"tried: the forward passes and gives {outcome.shapes[0]}; on meta, by shapes alone"


def _worked(case: Crash, edits: Sequence[Edit], outcome: Outcome) -> Repair:
    """Edits after which the model gives what the loss wants."""
    return Repair(
        title=", and ".join(edit.title for edit in edits),
        code="; ".join(edit.code for edit in edits),
        module=edits[0].module,
        works=True,
        plausible=True,
        tried=_said(outcome),
        outputs=outcome.shapes,
        patch=write_diff(case, edits),
    )


def resized_by_layers(crash: Crash, found: Loss) -> Iterator[Repair]:
    """Where only height and width differ: the layer that could be another for the output to have the targets' size, or an interpolation."""
    x, target, case = found.input, found.target, (crash if crash.trace.calls else None)
    if (
        x.dim() != target.dim()
        or x.dim() < 3
        or x.shape[:2] != target.shape[:2]
        or x.shape == target.shape
    ):
        return
    sizes = tuple(target.shape[2:])
    if case is not None:
        yield from _other_layers(crash, case, tuple(x.shape), sizes)
    resize = lambda a, b: (F.interpolate(a, size=sizes), b)  # noqa: E731
    title = f"bring the output to the targets' size: F.interpolate(output, size={sizes})"
    yield repaired(
        found,
        BY_CLASS.get(found.name, found.name),
        title,
        resize,
        code=f"F.interpolate({{x}}, size={sizes})",
    )


def _other_layers(
    crash: Crash, case: Crash, shape: tuple[int, ...], sizes: tuple[int, ...]
) -> Iterator[Repair]:
    ends = case.trace.calls[0].outputs if case.trace.calls else ()
    if not ends or ends[0].shape != shape:
        return
    several = refit_every_upsampling(case, ends[0], sizes)
    wholes = [several] if len(several) > 1 else []
    wholes += [
        [odd] for odd in sorted(refit_size(case, ends[0], sizes), key=lambda one: -one.weight)
    ]
    for odds in wholes[:_MOST_TRIALS]:
        edits = [configure(case, odd.fqn, **odd.settings) for odd in odds]
        outcome = _outcome(crash, edits)
        if outcome is not None and outcome.works and outcome.shapes[:1] == ((*shape[:2], *sizes),):
            yield _worked(case, edits, outcome)


def flattened_instead(
    crash: Crash, case: Crash, call: ModuleCall, found: Loss
) -> tuple[Repair, ...]:
    """What keeps one row for each sample in the place of a view that does not, with a Linear after it that fits; the loss has to pass too."""
    owner = call.fqn if call.fqn is not None else case.find_module_above(call.parent)
    flat: list[Edit] = [flatten_otherwise(case, call)]
    features = count_elements(call.inputs[0].shape[1:])
    at = case.trace.calls.index(call)
    after = next(
        (
            c
            for c in case.trace.calls[at:]
            if isinstance(case.modules.get(c.fqn or ""), nn.Linear) and c.fqn
        ),
        None,
    )
    layer = case.modules.get(after.fqn or "") if after is not None else None
    if isinstance(layer, nn.Linear) and after is not None and layer.in_features != features:
        flat.append(configure(case, after.fqn or "", in_features=features))
    tried = [
        _kept_rows(crash, case, edits, found)
        for edits in (flat, *_one_place(case, call), _pooled(call, owner))
    ]
    working = [repair for repair in tried if repair.works]
    return tuple(working) or (
        Repair(title="use torch.flatten(x, 1) there", code="torch.flatten(x, 1)", module=owner),
    )


def _one_place(case: Crash, call: ModuleCall) -> Iterator[list[Edit]]:
    """What leaves one place of a map of one channel, where a discriminator for smaller images leaves several: smaller ones, or a last kernel as large as its map."""
    x = call.inputs[0]
    steps = [s for s in list_steps(case, x) if s.window is not None]
    if (
        x.shape[1:2] != (1,)
        or len(x.shape) < 3
        or not steps
        or not case.root_inputs
        or steps[0].before != case.root_inputs[0].shape[2:]
    ):
        return
    windows, one = [s.window for s in steps], (1,) * len(x.shape[2:])
    fitting_size = next(
        (
            n
            for n in range(max(steps[0].before) - 1, 0, -1)
            if apply_windows(windows, (n,) * len(one)) == one
        ),
        None,
    )
    rounded = next(
        (
            n
            for n in (2**k for k in range(10, 0, -1))
            if n < max(steps[0].before) and apply_windows(windows, (n,) * len(one)) == one
        ),
        None,
    )
    if fitting_size is not None:
        yield [resize_input((rounded or fitting_size,) * len(one), exact=True)]
    last = steps[-1]
    layer = case.modules.get(last.call.fqn or "") if last.call.fqn else None
    if (
        isinstance(layer, nn.modules.conv._ConvNd)
        and len(set(last.before)) == 1
        and last.window is not None
        and not any(last.window.padding)
    ):
        yield [configure(case, last.call.fqn or "", kernel_size=last.before[0])]


def _pooled(call: ModuleCall, owner: str) -> list[Edit]:
    """One value for each channel, or for each sample where there is one channel."""
    one = call.inputs[0].shape[1:2] == (1,)
    code = "{x}.flatten(1).mean(1)" if one else "{x}.flatten(2).mean(2)"
    return [
        Rewrite(
            title=f"use {code.format(x='x')} instead of {call.kind.rpartition('.')[2]} at {shorten(call.source)}",
            code=code,
            module=owner,
            kind=call.kind,
            source=call.source,
            function=lambda _func, args, _kwargs: (
                args[0].flatten(1).mean(1) if one else args[0].flatten(2).mean(2)
            ),
            respell=code,
        )
    ]


def of_one_size(crash: Crash, wanted: tuple[int, ...]) -> Iterator[Repair]:
    """The last Linear of each output of the model that has another number of features than a loss compares it with, as wide as that."""
    case = crash if crash.trace.calls else None
    outputs = case.trace.calls[0].outputs if case is not None and case.trace.calls else ()
    edits: list[Edit] = []
    for info in outputs:
        made = case.find_producer(info) if case is not None else None
        layer = (
            case.modules.get(made.fqn or "")
            if case is not None and made is not None and made.fqn
            else None
        )
        if (
            case is not None
            and made is not None
            and info.shape[:-1] == wanted[:-1]
            and info.shape != wanted
            and isinstance(layer, nn.Linear)
        ):
            edits.append(configure(case, made.fqn or "", out_features=wanted[-1]))
    outcome = _outcome(crash, edits) if edits else None
    if (
        case is not None
        and outcome is not None
        and outcome.works
        and set(outcome.shapes) == {wanted}
    ):
        yield _worked(case, edits, outcome)


def _kept_rows(crash: Crash, case: Crash, edits: list[Edit], found: Loss) -> Repair:
    outcome = _outcome(crash, edits)
    works = outcome is not None and outcome.works and outcome.shapes[0][:1] == (case.batch,)
    said = ""
    if works and outcome is not None:
        given = found.input.detach().flatten()[:1].expand(outcome.shapes[0])
        passed = repaired(found, BY_CLASS.get(found.name, found.name), "", lambda _a, b: (given, b))
        works, said = passed.works, _said(outcome) + "; the loss takes it"
    return Repair(
        title=", and ".join(e.title for e in edits),
        code="; ".join(e.code.replace("{x}", "x") for e in edits),
        module=edits[0].module,
        works=works,
        plausible=works,
        tried=said if works else "",
        outputs=outcome.shapes if works and outcome is not None else (),
        patch=write_diff(case, edits) if works else "",
    )
