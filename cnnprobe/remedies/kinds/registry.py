"""Remedies of what a model knows of: what hangs on it unregistered, and what is registered and
never used.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, describe
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.changes import find_module
from cnnprobe.remedies.kinds.calls import rows_at
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.rewriting import Rewriter
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.remedies.writing import write_registered


@answers("unregistered-module", "unregistered-parameter", "unregistered-tensor")
def register(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """What hangs there as a plain attribute, or is made in the forward, registered, and given to
    the optimizer.
    """
    kinds = {"unregistered-module": "module", "unregistered-parameter": "parameter"}
    kind = kinds.get(finding.rule, "tensor")
    names = dict.fromkeys(
        hidden.name.partition("[")[0]
        for hidden in evidence.hidden
        if hidden.owner == finding.module and hidden.kind == kind and hidden.used
    )
    how = {
        "module": "make it nn.ModuleList (nn.ModuleDict for a dict)",
        "parameter": "nn.Parameter(...) around it",
        "tensor": "self.register_buffer(...) for it",
    }[kind]
    place, owner = spoken(evidence, finding.module), find_module(model, finding.module)
    if not names and kind == "module":
        yield from _make_layer_once(finding, evidence)
    if names:
        yield Remedy(
            title=f"{', '.join(f'{place}.{name}' for name in names)}: {how}",
            change=lambda subject: _register(subject, finding.module or "", tuple(names), kind),
            written=None if owner is None else write_registered(owner, names, kind),
            shows="the model knows it"
            + ("" if kind == "tensor" else ", and the optimizer trains it"),
        )


def _make_layer_once(finding: Finding, evidence: Evidence) -> Iterator[Remedy]:
    """The weights of the first pass in every pass."""
    for _, call in rows_at(finding, evidence)[:1]:
        yield Remedy(
            title=f"make the layer of {describe(call)} once, in __init__, as self.layer = ...",
            change=lambda subject, call=call: _keep_weights(  # type: ignore[misc]
                subject, finding.module or "", call
            ),
            shows="the layer is the same in every pass, and the optimizer trains it",
        )


def _keep_weights(subject: Subject, fqn: str, call: ModuleCall) -> None:
    drawn: list[torch.Tensor] = []
    registered = {id(parameter) for parameter in subject.model.parameters()}

    def read(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        made = [a for a in args[1:] if isinstance(a, nn.Parameter) and id(a) not in registered]
        if not drawn:
            drawn.extend(parameter.detach().clone() for parameter in made)
        return func(*args, **kwargs)

    with Rewriter([(call.kind, call.source, read)]):
        subject.call_model()
    if not drawn:
        raise CannotTryError("what its weights are is not seen")
    kept = nn.ParameterList(drawn)
    subject.module(fqn).register_module("kept_weights", kept)
    subject.optimise(list(kept))

    def use(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(id(a) in registered for a in args[1:]):  # a layer of the model's on the same line
            return func(*args, **kwargs)
        return func(args[0], *kept, *args[1 + len(kept) :], **kwargs)

    subject.rewrite(call.kind, call.source, use)


def _register(subject: Subject, fqn: str, names: tuple[str, ...], kind: str) -> None:
    owner = subject.module(fqn)
    for name in names:
        value = owner.__dict__.pop(name)
        if kind == "tensor":
            owner.register_buffer(name, value)
        elif kind == "parameter":
            setattr(owner, name, _as_parameters(value))
        else:
            setattr(owner, name, _as_modules(value))
    subject.optimise(list(owner.parameters()))


def _as_parameters(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return nn.Parameter(value.detach().clone())
    if isinstance(value, Mapping):
        return nn.ParameterDict(value)
    return nn.ParameterList(value)


def _as_modules(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return value
    return nn.ModuleDict(value) if isinstance(value, Mapping) else nn.ModuleList(value)


@answers("unused-module", "unused-params")
def remove(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The model without it."""
    place = spoken(evidence, finding.module)
    unread = [m.fqn for m in evidence.trace.modules if m.fqn in evidence.trace.never_called]
    yield Remedy(
        title=f"remove what is never used in {place}",
        change=lambda subject: _remove(subject, finding, tuple(unread), evidence),
        shows="the outputs are the same without it",
    )


def _remove(
    subject: Subject, finding: Finding, unread: tuple[str, ...], evidence: Evidence
) -> None:
    if finding.rule == "unused-module":
        for fqn in (finding.module, *unread):
            parent, _, name = (fqn or "").rpartition(".")
            if fqn and parent not in unread:
                subject.module(parent)._modules.pop(name, None)
        return
    read = frozenset().union(*(loss.reached for s in evidence.steps for loss in s.losses))
    owner = subject.module(finding.module or "")
    for name in list(owner._parameters):
        if (f"{finding.module}.{name}" if finding.module else name) not in read:
            del owner._parameters[name]
