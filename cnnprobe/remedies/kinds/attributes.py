"""Remedies of attributes that torch does not read: the one that it reads is set."""

from collections.abc import Iterator
from typing import Any

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, IdleAttribute
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import Subject
from cnnprobe.rulebook.idle_attribute import say_fix, say_setting

HOLDERS = ("parameter", "module", "optimizer", "group")  # what can be set on; the others are code


@answers("idle-attribute")
def set_what_is_read(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The attribute that torch reads, set."""
    for idle in evidence.idle:
        if (
            idle.holder == finding.kind
            and idle.holder in HOLDERS
            and say_setting(idle) == finding.subject
        ):
            yield Remedy(
                title=say_fix(evidence, idle),
                change=lambda subject, idle=idle: _set(subject, idle),  # type: ignore[misc]
                shows=f"{idle.meant} is {idle.wanted}",
                is_comparable=False,
                is_meant=True,
            )
            return


def _set(subject: Subject, idle: IdleAttribute) -> None:
    """Now, and again before each step."""
    subject.before_each_step(lambda: _write(subject, idle))


def _write(subject: Subject, idle: IdleAttribute) -> None:
    if idle.holder in ("optimizer", "group"):
        for optimizer in subject.optimizers:
            for group in optimizer.param_groups:
                if idle.meant in group:
                    group[idle.meant] = type(group[idle.meant])(float(idle.wanted))
    elif idle.holder == "parameter":
        named = dict(subject.model.named_parameters())
        for name in idle.owners:
            named[name].requires_grad_(idle.wanted == "True")
    elif idle.holder == "module":
        for fqn in idle.owners if idle.attribute in ("train", "eval") else ():
            vars(subject.module(fqn)).pop(idle.attribute, None)  # it hides the method
        for fqn in idle.owners:
            _write_module(subject, fqn, idle)


def _write_module(subject: Subject, fqn: str, idle: IdleAttribute) -> None:
    module = subject.module(fqn)
    if idle.meant == "requires_grad":
        module.requires_grad_(idle.wanted == "True")
    elif idle.meant == "training":
        module.train(idle.wanted == "True")
    else:
        kind = type(getattr(module, idle.meant))
        setattr(module, idle.meant, kind(float(idle.wanted)))
