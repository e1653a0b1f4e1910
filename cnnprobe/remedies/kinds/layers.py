"""Remedies of single layers: another setting, another layer, one more, or one of its own."""

import ast
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.layers import rebuild
from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.remedies.call_lines import make_each
from cnnprobe.remedies.changes import exchange, find_module, initialise_all, set_attribute
from cnnprobe.remedies.kinds.calls import write_elsewhere
from cnnprobe.remedies.kinds.dims import over_other_axis, take_last_step
from cnnprobe.remedies.kinds.modes import follow_mode
from cnnprobe.remedies.model_lines import follow_layer
from cnnprobe.remedies.program import UserProgram, list_files
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.remedies.writing import write_in, write_layer, write_settings
from cnnprobe.rulebook.redundant_bias import find_redundant

USUAL_MOMENTUM = 0.1  # torch.nn.BatchNorm2d
LARGE_EPS = 1e-2  # 1e-5 is torch's, and 1e-3 TensorFlow's


@answers("bn-momentum-zero", "train-eval-gap")
def usual_momentum(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A momentum of 0.1 in every BatchNorm that has less."""
    yield Remedy(
        title=f"momentum=0.1 in {spoken(evidence, finding.module)} and its like",
        change=_usual_momentum,
        written=write_settings(
            [
                n
                for n, m in _name_norms(model)
                if m.momentum is not None and m.momentum < USUAL_MOMENTUM
            ],
            {"momentum": 0.1},
            evidence,
            model,
        ),
        shows="the running statistics follow the batches",
        is_comparable=False,
    )


def _usual_momentum(subject: Subject) -> None:
    for module in _list_norms(subject):
        if module.momentum is not None and module.momentum < USUAL_MOMENTUM:
            module.momentum = USUAL_MOMENTUM
            _settle(subject, module)


def _list_norms(subject: Subject) -> list[nn.modules.batchnorm._NormBase]:
    modules = subject.model.modules()
    return [m for m in modules if isinstance(m, nn.modules.batchnorm._NormBase)]


def _name_norms(model: nn.Module) -> list[tuple[str, nn.modules.batchnorm._NormBase]]:
    modules = named_modules(model)
    return [(n, m) for n, m, _ in modules if isinstance(m, nn.modules.batchnorm._NormBase)]


def _settle(subject: Subject, module: nn.Module) -> None:
    """Statistics as they would be by now: those of one pass in train mode."""
    mean, var = module.running_mean, module.running_var
    if not isinstance(mean, torch.Tensor) or not isinstance(var, torch.Tensor):
        return

    def read(_: nn.Module, args: tuple[Any, ...]) -> None:
        axes = [d for d in range(args[0].dim()) if d != 1]
        if getattr(module.num_batches_tracked, "item", int)() > 0:
            with torch.no_grad():
                mean.copy_(args[0].mean(axes))
                var.copy_(args[0].var(axes))

    handle = module.register_forward_pre_hook(read)
    try:
        subject.call_model()
    finally:
        handle.remove()


@answers("bn-mixed-up")
def swap_constants(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Eps and momentum as torch counts them, in every BatchNorm."""
    norm = find_module(model, finding.module)
    if isinstance(norm, nn.modules.batchnorm._NormBase):
        settings = _unmix(norm)
        shown = ", ".join(f"{name}={value:.3g}" for name, value in settings.items())
        yield Remedy(
            title=f"{shown} in {spoken(evidence, finding.module)} and its like",
            change=_unmix_all,
            written=write_settings(
                [n for n, m in _name_norms(model) if _is_mixed(m) and _unmix(m) == settings],
                settings,
                evidence,
                model,
            ),
            shows="the running statistics are those of many batches",
        )


def _is_mixed(norm: nn.modules.batchnorm._NormBase) -> bool:
    return norm.eps > LARGE_EPS or (norm.momentum or 0.0) > 0.5


def _unmix(norm: nn.modules.batchnorm._NormBase) -> dict[str, float]:
    if norm.eps > LARGE_EPS:
        return {"eps": 1e-5, "momentum": 1.0 - norm.eps}
    return {"momentum": 1.0 - (norm.momentum or 0.1)}


def _unmix_all(subject: Subject) -> None:
    for module in _list_norms(subject):
        if _is_mixed(module):
            for name, value in _unmix(module).items():
                setattr(module, name, value)


@answers("bn-reused", "shared-module")
def copy_for_each_place(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A copy for each name, or for each call of one name."""
    place = spoken(evidence, finding.module)
    count = sum(call.fqn == finding.module for call in evidence.trace.calls)
    has_names = any(m.aliases for m in evidence.trace.modules if m.fqn == finding.module)
    how = "made anew, with first weights of its own" if has_names else f"copy.deepcopy({place})"
    yield Remedy(
        title=f"a module of its own for each place of {place}: {how}",
        change=lambda subject: (
            copy_names(subject, finding.module or "")
            if has_names
            else _copy_calls(subject, finding.module or "", count)
        ),
        written=(lambda: make_each(finding.source)) if finding.source and has_names else None,
        shows=f"each place has {'weights' if has_names else 'statistics'} of its own",
        is_comparable=not has_names,  # a net of more weights is another one
    )


def copy_names(subject: Subject, fqn: str) -> None:
    """Give each place that a shared module stands in a module of its own."""
    shared = subject.module(fqn)
    places = [
        (parent, name)
        for _, parent, first in list(named_modules(subject.model))
        if first
        for name, child in parent._modules.items()
        if child is shared
    ]
    if len(places) < 2:
        raise CannotTryError("it stands at one place only")
    for parent, name in places[1:]:
        parent._modules[name] = _make_another(shared)
        subject.optimise(list(parent._modules[name].parameters()))  # type: ignore[union-attr]


def _make_another(shared: nn.Module) -> nn.Module:
    """A copy that starts from random weights of its own, where its layers can draw them: equal ones
    would get equal gradients side by side.
    """
    made = copy.deepcopy(shared)
    for module in made.modules():
        draw = getattr(module, "reset_parameters", None)
        if callable(draw) and any(p.requires_grad for p in module.parameters(recurse=False)):
            draw()
    return made


def _copy_calls(subject: Subject, fqn: str, count: int) -> None:
    """A stand-in that gives each call within one forward of the model its own copy."""
    shared = subject.module(fqn)
    turns = _Turns(shared, count)
    subject.model.register_forward_pre_hook(turns.begin)
    subject.set_module(fqn, turns)
    subject.optimise(list(turns.parameters()))


class _Turns(nn.Module):
    """Copies of a module, of which each call takes the next."""

    def __init__(self, shared: nn.Module, count: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList([shared, *(copy.deepcopy(shared) for _ in range(count - 1))])
        self.turn = 0

    def begin(self, *_: Any) -> None:
        """A forward of the model begins."""
        self.turn = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the next copy gives."""
        chosen = self.copies[min(self.turn, len(self.copies) - 1)]
        self.turn += 1
        return chosen(*args, **kwargs)


@answers("tied-weights")
def untie(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A weight of its own for each layer."""
    place = spoken(evidence, finding.module)
    yield Remedy(
        title=f"give each layer that has the weight of {place} one of its own",
        change=lambda subject: _untie(subject, finding.module or ""),
        shows="each layer has a weight of its own",
    )


def _untie(subject: Subject, fqn: str) -> None:
    kept = subject.module(fqn)
    own = {id(p) for p in kept.parameters(recurse=False)}
    for module in subject.model.modules():
        if module is kept:
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in own:
                module._parameters[name] = nn.Parameter(torch.randn_like(parameter) * 0.1)
                subject.optimise([module._parameters[name]])  # type: ignore[list-item]


@answers("inplace-skip", "input-mutated")
def out_of_place(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """inplace=False of the layer; a copy of what the function writes to."""
    module = find_module(model, finding.module)
    shown = "what is read later is as it was"
    if module is not None and getattr(module, "inplace", False):
        yield Remedy(
            title=f"inplace=False in {spoken(evidence, finding.module)}",
            change=set_attribute(finding.module or "", "inplace", value=False),
            written=write_settings(finding.module or "", {"inplace": False}, evidence, model),
            shows=shown,
        )
    yield from write_elsewhere(finding, evidence, model, shown)


@answers("dropout-rate")
def keep_rate(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The rate as what is dropped, not as what is kept."""
    module = find_module(model, finding.module)
    rate = getattr(module, "p", None)
    if isinstance(rate, float):
        yield Remedy(
            title=f"p={1 - rate:.3g} in {spoken(evidence, finding.module)}",
            change=set_attribute(finding.module or "", "p", value=1 - rate),
            written=write_settings(
                finding.module or "", {"p": round(1 - rate, 3)}, evidence, model
            ),
            shows=f"{1 - rate:.0%} of the values are dropped",
            is_comparable=False,
        )


@answers("redundant-bias")
def drop_bias(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """No bias before the BatchNorm."""
    if evidence.averages:
        return  # a copy that follows the weights has these biases too
    yield Remedy(
        title=f"bias=False in {spoken(evidence, finding.module)} and its like",
        change=lambda subject: _drop_biases(subject, finding, evidence),
        edited=lambda program: _write_without_bias(program, finding, evidence),
        shows="the same outputs with fewer parameters",
        tidies=True,
    )


def _write_without_bias(
    program: UserProgram, finding: Finding, evidence: Evidence
) -> list[TextChange]:
    """bias=False in every such layer; a file that speaks of a bias may need it."""
    for file in list_files(program):
        if any(isinstance(n, ast.Attribute) and n.attr == "bias" for n in ast.walk(file.tree)):
            raise UnknownPlaceError
    layers = find_redundant(evidence) or [finding.module or ""]
    return write_settings(layers, {"bias": False}, evidence, program.request.model)()


def _drop_biases(subject: Subject, finding: Finding, evidence: Evidence) -> None:
    for fqn in find_redundant(evidence) or [finding.module or ""]:
        subject.module(fqn)._parameters["bias"] = None


@answers("size-changed-late")
def make_anew(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A new layer of the size that the attributes say."""
    module = find_module(model, finding.module)
    if module is None:
        return
    yield Remedy(
        title=(
            f"a new nn.{type(module).__name__} of that size at {spoken(evidence, finding.module)}"
        ),
        change=exchange(finding.module or "", lambda old: rebuild(old, {})),
        shows="the layer has the size that it says",
        is_comparable=False,
    )


@answers("norm-over-one-value")
def fewer_groups(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """One group over all channels."""
    module = find_module(model, finding.module)
    place = spoken(evidence, finding.module)
    if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
        yield Remedy(
            title=f"num_groups=1 in {place}",
            change=set_attribute(finding.module or "", "num_groups", value=1),
            written=write_settings(finding.module or "", {"num_groups": 1}, evidence, model),
            shows="what comes out depends on what comes in",
        )
    yield Remedy(
        title=f"no normalisation at {place}",
        change=exchange(finding.module or "", lambda _: nn.Identity()),
        written=write_layer(finding.module or "", "nn.Identity()", evidence, model),
        shows="what comes out depends on what comes in",
    )


@answers("batch-leak", "batch-as-time")
def batch_first(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """batch_first=True in recurrent layers and attentions; a BatchNorm that follows the mode."""
    if finding.kind in ("norm", "mode"):
        yield from follow_mode(finding, evidence)
        return
    first = [n for n, m, _ in named_modules(model) if getattr(m, "batch_first", None) is False]
    if first:
        yield Remedy(
            title=f"batch_first=True in {spoken(evidence, finding.module)}",
            change=_batch_first,
            written=write_settings(first, {"batch_first": True}, evidence, model),
            shows="every sample depends on its own input alone",
        )
    yield from take_last_step(finding, Flow(evidence.evaluation or evidence.trace))
    yield from over_other_axis(finding, evidence)


def _batch_first(subject: Subject) -> None:
    for module in subject.model.modules():
        if getattr(module, "batch_first", None) is False:
            module.batch_first = True  # type: ignore[assignment]


@answers("missing-nonlinearity")
def insert_relu(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A ReLU behind the layer."""
    if finding.module:
        yield Remedy(
            title=f"nn.ReLU() after {spoken(evidence, finding.module)}",
            change=exchange(finding.module, lambda layer: _Followed(layer, nn.ReLU())),
            written=write_in(evidence, model, follow_layer, finding.module, "nn.ReLU()"),
            shows="the two layers are no longer one linear map",
            is_comparable=False,
            loss_ends="other",
        )


class _Followed(nn.Sequential):
    """A layer and the one behind it; what the model reads of the layer otherwise is still there."""

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__.get("_modules", {})
        if name in own or "0" not in own:
            return super().__getattr__(name)
        return getattr(own["0"], name)


@answers("vanishing-gradient")
def normalise(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """ReLU and an initialisation by fan-in in the place of what saturates."""
    saturates = any(isinstance(m, nn.Sigmoid | nn.Tanh) for _, m, _ in named_modules(model))
    exchanged = "nn.ReLU in place of every sigmoid and tanh, and " if saturates else ""
    yield Remedy(
        title=f"{exchanged}an initialisation of every layer by fan-in",
        change=_rectify,
        shows="the gradient reaches the first layers",
        is_comparable=False,
    )


def _rectify(subject: Subject) -> None:
    for fqn, module, _ in list(named_modules(subject.model)):
        if isinstance(module, nn.Sigmoid | nn.Tanh) and fqn:
            subject.set_module(fqn, nn.ReLU())
    initialise_all(subject)
    heads = [m for m in subject.model.modules() if isinstance(m, nn.Linear)]
    for head in heads[-1:]:  # so that the first outputs are about 0
        with torch.no_grad():
            head.weight.mul_(0.1)
