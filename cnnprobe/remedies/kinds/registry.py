"""Remedies of what a model knows of: what hangs on it unregistered, and what is registered and
never used.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import Subject


@answers("unregistered-module", "unregistered-parameter", "unregistered-tensor")
def register(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """What hangs there as a plain attribute, registered, and given to the optimizer."""
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
    if names:
        place = spoken(evidence, finding.module)
        yield Remedy(
            title=f"{', '.join(f'{place}.{name}' for name in names)}: {how}",
            change=lambda subject: _register(subject, finding.module or "", tuple(names), kind),
            shows="the model knows it"
            + ("" if kind == "tensor" else ", and the optimizer trains it"),
        )


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
