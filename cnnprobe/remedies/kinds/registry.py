"""Remedies of what a model knows of: what hangs on it unregistered, and what is registered and
never used.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, describe
from cnnprobe.diagnosis.evidence.containers import write_container
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.changes import find_module
from cnnprobe.remedies.kinds.calls import rows_at
from cnnprobe.remedies.model_lines import remove_attribute
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.rewriting import Rewriter
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.remedies.writing import write_beside, write_in, write_registered


@answers("unregistered-module", "unregistered-parameter", "unregistered-tensor")
def register(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """What hangs there as a plain attribute, or is made in the forward, registered, and given to
    the optimizer.
    """
    kinds = {"unregistered-module": "module", "unregistered-parameter": "parameter"}
    kind = kinds.get(finding.rule, "tensor")
    found = {
        base: hidden.containers
        for hidden in evidence.hidden
        if hidden.owner == finding.module and hidden.kind == kind and hidden.used
        for base in [hidden.name.partition("[")[0]]
    }
    names = [name for name in found if name == finding.subject] or list(found)
    is_nested = any(len(found[name]) > 1 or "numbered" in found[name] for name in names)
    how = "; ".join(
        f'self.register_buffer("{name}", ...)'
        if kind == "tensor"
        else write_container(name, found[name], kind.capitalize())
        for name in names
    )
    place, owner = spoken(evidence, finding.module), find_module(model, finding.module)
    if not names and kind == "module":
        yield from _make_layer_once(finding, evidence)
    if names:
        yield Remedy(
            title=f"{', '.join(f'{place}.{name}' for name in names)}: {how}",
            change=lambda subject: _register(subject, finding.module or "", tuple(names), kind),
            written=None
            if owner is None
            else write_beside(owner, names, kind)
            if is_nested
            else write_registered(owner, names, kind),
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
        value = owner.__dict__[name]
        if kind == "tensor":
            del owner.__dict__[name]
            owner.register_buffer(name, value)
            continue
        contained = _contain(value, "Parameter" if kind == "parameter" else "Module")
        if contained is not None:
            del owner.__dict__[name]
            setattr(owner, name, contained)
            continue
        # What reads it has its own keys: it stays, and what it holds is registered beside it.
        made: list[Any] = []
        owner.__dict__[name] = _collect(value, kind, made)
        holder = nn.ModuleList if kind == "module" else nn.ParameterList
        owner.register_module(f"{name}_registered", holder(made))
    subject.optimise(list(owner.parameters()))


def _contain(value: Any, of: str) -> nn.Module | nn.Parameter | None:
    """The value as torch registers it; None where its keys or what else it holds do not fit."""
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, Tensor):
        return nn.Parameter(value.detach().clone())
    if not isinstance(value, Mapping | list | tuple):
        return None
    items = list(value.values()) if isinstance(value, Mapping) else list(value)
    held = [_contain(item, of) for item in items]
    if not held or any(each is None for each in held):
        return None
    name = of if all(isinstance(each, nn.Parameter) for each in held) else "Module"
    if name == "Module" and any(isinstance(each, nn.Parameter) for each in held):
        return None
    kind: Any = getattr(nn, f"{name}{'Dict' if isinstance(value, Mapping) else 'List'}")
    if not isinstance(value, Mapping):
        return cast("nn.Module", kind(held))
    if not all(isinstance(key, str) and key.isidentifier() for key in value):
        return None
    try:
        return cast("nn.Module", kind(dict(zip(value, held, strict=True))))
    except KeyError:  # a key that is an attribute of the container
        return None


def _collect(value: Any, kind: str, made: list[Any]) -> Any:
    """The same nested container, with what can be registered in `made` too."""
    if isinstance(value, Mapping):
        return {key: _collect(item, kind, made) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_collect(item, kind, made) for item in value]
    if kind == "module" and isinstance(value, nn.Module):
        made.append(value)
    elif kind == "parameter" and isinstance(value, Tensor) and value.requires_grad:
        made.append(value := nn.Parameter(value.detach().clone()))
    return value


@answers("unused-module", "unused-params")
def remove(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The model without it."""
    if finding.kind in ("chosen", "unapplied"):  # another batch may call it; it is to be called
        return
    place = spoken(evidence, finding.module)
    unread = [m.fqn for m in evidence.trace.modules if m.fqn in evidence.trace.never_called]
    yield Remedy(
        title=f"remove what is never used in {place}",
        change=lambda subject: _remove(subject, finding, tuple(unread), evidence),
        written=write_in(evidence, model, remove_attribute, finding.module or "")
        if finding.rule == "unused-module"
        else None,
        shows="the outputs are the same without it",
        tidies=True,
    )


def _remove(
    subject: Subject, finding: Finding, unread: tuple[str, ...], evidence: Evidence
) -> None:
    if finding.rule == "unused-module":
        gone = {finding.module, *unread}
        for fqn in (finding.module, *unread):
            parent, _, name = (fqn or "").rpartition(".")
            above = itertools.accumulate(parent.split("."), "{}.{}".format)
            if fqn and not gone & set(above):  # what holds it goes with it
                subject.module(parent)._modules.pop(name, None)
        return
    read = frozenset().union(*(loss.reached for s in evidence.steps for loss in s.losses))
    owner = subject.module(finding.module or "")
    for name in list(owner._parameters):
        if (f"{finding.module}.{name}" if finding.module else name) not in read:
            del owner._parameters[name]
