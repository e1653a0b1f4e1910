"""Remedies of deep stacks of sigmoids and tanhs, and of a softmax among layers."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.changes import initialise_all
from cnnprobe.remedies.model_lines import prepare_model
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import Subject


@answers("stacked-sigmoids")
def rectify(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Xavier's initialisation for tanhs alone; ReLU in place of each sigmoid and tanh."""
    flow = Flow(evidence.trace)
    inside = [
        flow.calls[i]
        for i in flow.primitives(("sigmoid", "tanh"))
        if flow.owner(i) is not None and flow.calls[i].fqn != ""
    ]
    shown = "the gradient reaches the first layers"
    if all(operation(call) == "tanh" for call in inside):
        yield Remedy(
            title="nn.init.xavier_normal_(weight) for every layer, and biases of 0",
            change=_initialise_for_tanh,
            edited=lambda program: prepare_model(program, _write_for_tanh),
            shows=shown,
            is_comparable=False,
            loss_ends="lower",
        )
    yield Remedy(
        title="nn.ReLU in place of each sigmoid and tanh, and an initialisation by fan-in",
        change=lambda subject: _rectify(subject, inside),
        shows=shown,
        is_comparable=False,
        loss_ends="lower",
    )


@answers("softmax-between-layers")
def rectify_one(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """ReLU in place of the softmax."""
    flow = Flow(evidence.trace)
    rows = [flow.calls[i] for i in flow.primitives({"softmax"}) if flow.line(i) == finding.source]
    inside = [c for c in rows if describe(c) == finding.subject]
    if inside:
        yield Remedy(
            title=f"ReLU in place of {finding.subject}",
            change=lambda subject: _put_relu(subject, inside),
            shows="the values of a layer no longer sum to 1",
            loss_ends="lower",
        )


def _initialise_for_tanh(subject: Subject) -> None:
    for parameter in subject.model.parameters():
        with torch.no_grad():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
            elif parameter.dim() == 1 and not bool((parameter == 1).all()):
                parameter.zero_()


def _write_for_tanh(model: str, nn_name: str) -> list[str]:
    return [
        f"for parameter in {model}.parameters():",
        "    if parameter.dim() > 1:",
        f"        {nn_name}.init.xavier_normal_(parameter)",
        "    elif not bool((parameter == 1).all()):  # no scale of a normalisation",
        f"        {nn_name}.init.zeros_(parameter)",
    ]


def _rectify(subject: Subject, rows: list[ModuleCall]) -> None:
    _put_relu(subject, rows)
    initialise_all(subject)
    heads = [m for m in subject.model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for head in heads[-1:]:  # so that the first outputs are about 0
        with torch.no_grad():
            head.weight.mul_(0.1)


def _put_relu(subject: Subject, rows: list[ModuleCall]) -> None:
    for call in rows:
        if call.fqn is not None:
            subject.set_module(call.fqn, nn.ReLU())
        else:
            subject.rewrite(call.kind, call.source, _as_relu)


def _as_relu(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return torch.relu(args[0] if args else kwargs["input"])
