"""Remedies of the mode: what trains and what rests in a step."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, operation
from cnnprobe.diagnosis.evidence.questions import spoken, variable
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.remedies.loop_lines import freeze_modules
from cnnprobe.remedies.mode_lines import add_train
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import Subject
from cnnprobe.rulebook.eval_mode_in_train import find_eval
from cnnprobe.training.probing import find_resting


@answers("eval-mode-in-train")
def train_first(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """train() before each step."""
    yield Remedy(
        title=f"call {variable(evidence, 'model')}.train() before the training step",
        change=_train_at_forward,
        edited=lambda program: add_train(program, find_eval(evidence)),
        shows="dropout and BatchNorm train in every step",
        is_comparable=False,
    )


def _train_at_forward(subject: Subject) -> None:
    """train() before each forward that is trained with; what is evaluated under no_grad is left
    alone.
    """

    def train(model: nn.Module, *_: Any) -> None:
        if torch.is_grad_enabled():
            model.train()

    subject.model.register_forward_pre_hook(train)


@answers("frozen-bn-drift")
def freeze_statistics(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """eval() of every BatchNorm that is frozen."""
    bare = replace(evidence, names={"model": ""})
    others = ", and the others alike" if len(_name_frozen(model)) > 1 else ""
    yield Remedy(
        title=f"call {spoken(evidence, finding.module)}.eval() after "
        f"{variable(evidence, 'model')}.train(){others}",
        change=_freeze_statistics,
        edited=lambda program: freeze_modules(
            program, [spoken(bare, n) for n in _name_frozen(model)]
        ),
        shows="the running statistics of frozen layers stay as they are",
        lays_bare=("other-statistics",),  # those that the drift would have written over
        is_comparable=False,
    )


def _freeze_statistics(subject: Subject) -> None:
    frozen = list(_name_frozen(subject.model).values())

    def freeze() -> None:
        for module in frozen:
            module.eval()

    for module in frozen:  # also where the step itself calls train()
        module.__dict__["train"] = functools.partial(_stay_in_eval, module)
    subject.before_each_step(freeze)


def _name_frozen(model: nn.Module) -> dict[str, nn.Module]:
    """The BatchNorms without a trained weight, or that were put into eval mode, by name."""
    resting = find_resting(model)
    return {
        name: module
        for name, module, _ in named_modules(model)
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (name in resting or not any(p.requires_grad for p in module.parameters()))
    }


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, mode=False)


def follow_mode(finding: Finding, evidence: Evidence) -> Iterator[Remedy]:
    """Running statistics in eval mode, in each call of F.batch_norm."""
    trace = evidence.evaluation or evidence.trace
    lines = {(c.kind, c.source) for c in trace.calls if operation(c) == "batch_norm" and not c.fqn}
    place = spoken(evidence, finding.module)
    if finding.kind == "norm":
        yield Remedy(
            title=f"F.batch_norm(..., training=self.training) in {place}",
            change=lambda subject: _rewrite_all(subject, lines),
            shows="every sample depends on its own input alone",
            is_comparable=False,
        )


def _rewrite_all(subject: Subject, lines: set[tuple[str, str]]) -> None:
    model = subject.model

    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if model.training:
            return func(*args, **kwargs)
        return func(*args[:5], **{k: v for k, v in kwargs.items() if k != "training"})

    for kind, source in lines:
        subject.rewrite(kind, source, run)
