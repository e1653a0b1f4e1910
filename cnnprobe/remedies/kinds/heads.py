"""Remedies of the head: what is between the last layer and the loss."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import LossCall, loss_calls, spoken, variable
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.call_lines import append_argument, pass_by
from cnnprobe.remedies.changes import find_module
from cnnprobe.remedies.kinds.calls import instead, pass_on, rows_at
from cnnprobe.remedies.loop_lines import drop_call
from cnnprobe.remedies.model_lines import follow_layer, rename_call, wrap_call
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import Subject
from cnnprobe.remedies.writing import Written, write_in, write_layer, write_no_layer
from cnnprobe.rulebook.activation_on_logits import SCALE

TINY = 1e-12  # keeps the logarithm of a probability finite


def _drop(call: ModuleCall) -> Callable[[Subject], None]:
    """The model or loss without a row."""

    def change(subject: Subject) -> None:
        if call.fqn is not None and call.fqn:
            subject.set_module(call.fqn, nn.Identity())
        else:
            subject.rewrite(call.kind, call.source, pass_on)

    return change


def _pass_by(call: ModuleCall, loss: ModuleCall) -> Callable[[Subject], None]:
    """The loss gets what goes into a function whose result others read too."""
    known: list[tuple[Any, Any]] = []

    def remember(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        known.append((result, args[0] if args else kwargs["input"]))
        return result

    def exchange(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = next((before for result, before in known if args and result is args[0]), None)
        known.clear()
        return func(*args, **kwargs) if given is None else func(given, *args[1:], **kwargs)

    def change(subject: Subject) -> None:
        subject.rewrite(call.kind, call.source, remember)
        subject.rewrite(loss.kind, loss.source, exchange)

    return change


def _write_drop(call: ModuleCall, evidence: Evidence, model: Any) -> Written:
    """A layer as nn.Identity(); a function's call by what goes into it."""
    if call.fqn:
        return write_no_layer(call.fqn, evidence, model)
    return lambda: drop_call(call.source, call.kind)


def _prediction(finding: Finding, evidence: Evidence) -> tuple[LossCall, ModuleCall] | None:
    """The loss, and the row at the finding's place that makes what it gets."""
    losses = list(loss_calls(evidence))
    for loss in losses:
        is_here = loss.origin is not None and loss.flow.line(loss.origin) == finding.source
        if is_here and len(losses) > 1 and loss.flow.owner(loss.origin) == finding.module:
            assert loss.origin is not None  # noqa: S101
            return loss, loss.flow.calls[loss.origin]
    for loss in losses:
        named = [
            call for _, call in rows_at(finding, evidence) if describe(call) == finding.subject
        ]
        if named:
            return loss, named[0]
        for row in (loss.origin, loss.flow.producer(loss.prediction)):
            if row is not None and loss.flow.line(row) == finding.source:
                return loss, loss.flow.calls[row]
    return None


@answers("softmax-before-ce", "sigmoid-before-bcewl", "activation-on-logits")
def drop_activation(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The loss gets what went into the activation; for a softmax by hand, its logarithm."""
    found = _prediction(finding, evidence)
    loss_fn = variable(evidence, "loss_fn")
    call = found[1] if found is not None else _inner(finding, evidence)
    if call is None:
        return
    if finding.kind in ("shrunk-cosines", "cosines"):
        yield _widen_cosines(finding, call, loss_fn)
    elif operation(call) in ("div", "mul") and finding.rule == "softmax-before-ce":
        yield Remedy(
            title=f"give {loss_fn} the logits: leave the softmax by hand out",
            change=instead(call, _logarithm),
            shows=f"{loss_fn} gets logits",
            is_comparable=False,
        )
    elif found is not None and found[0].has_other_readers:
        yield _spare_other_readers(call, found[0].call, loss_fn)
    else:
        yield Remedy(
            title=f"remove {describe(call)} and give {loss_fn} the logits",
            change=_drop(call),
            written=_write_drop(call, evidence, model),
            shows=f"{loss_fn} gets logits",
            is_comparable=False,
        )


def _widen_cosines(finding: Finding, call: ModuleCall, loss_fn: str) -> Remedy:
    """Cosines times a factor above 1, so that their softmax can be sure of a class."""
    shows = f"{loss_fn} gets logits that can be large"
    if finding.kind == "shrunk-cosines":
        return Remedy(
            title=f"the factor of {describe(call)} turned round: divide by the temperature",
            change=instead(call, _invert_factor),
            shows=shows,
            is_comparable=False,
        )
    wrapped = f"{SCALE:g} * {{x}}"
    return Remedy(
        title=f"multiply {describe(call)} by {SCALE:g}",
        change=instead(call, _scale),
        written=None if call.fqn else lambda: wrap_call(call.source, call.kind, wrapped),
        shows=shows,
        is_comparable=False,
    )


def _spare_other_readers(call: ModuleCall, loss: ModuleCall, loss_fn: str) -> Remedy:
    """The loss alone gets what went into the activation."""
    title = f"give {describe(loss)} the input of {describe(call)}"
    return Remedy(
        title=f"{title}, and its output to its other readers alone",
        change=_pass_by(call, loss),
        written=lambda: pass_by(call.source, call.kind, loss.source, loss.kind),
        shows=f"{loss_fn} gets logits",
        is_comparable=False,
    )


def _invert_factor(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    plain = func(*args, **kwargs)
    factor = args[1] if isinstance(args[0], Tensor) and args[0].dim() else args[0]
    return plain / factor / factor if "mul" in func.__name__ else plain * factor * factor


def _scale(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return SCALE * func(*args, **kwargs)


def _inner(finding: Finding, evidence: Evidence) -> ModuleCall | None:
    flow = Flow(evidence.trace)
    rows = [flow.calls[i] for i in flow.primitives() if flow.line(i) == finding.source]
    return next((c for c in rows if c.fqn == finding.module or c.fqn is None), None)


def _logarithm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs).clamp_min(TINY).log()


@answers("probs-into-nll", "loss-activation-mismatch")
def match_head(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """log_softmax for a loss of log-probabilities; nothing for values without bounds."""
    if finding.kind == "ctc":
        yield from _normalise_first(finding, evidence)
        return
    found = _prediction(finding, evidence)
    if found is None or finding.kind == "single-class-batch":
        return
    loss, call = found
    if finding.kind == "distances":
        yield from _turn_scores(loss)
    elif finding.kind in ("logarithms-as-targets", "raw-targets"):
        yield from _give_probabilities(loss.call, finding)
    elif loss.operation in ("nll_loss", "kl_div") and finding.kind != "state-as-output":
        softmax = operation(call) == "softmax"
        yield Remedy(
            title=f"log_softmax in place of {describe(call)}"
            if softmax
            else "log_softmax(x, dim=1) before the loss",
            change=instead(call, _as_logarithm if softmax else _log_softmax),
            written=_write_logarithm(call, evidence, model),
            shows="the loss gets log-probabilities",
            is_comparable=False,
        )
    else:
        yield from _free_outputs(finding, evidence, model, loss, call)


def _turn_scores(loss: LossCall) -> Iterator[Remedy]:
    """A minus before what a cross entropy takes for scores."""
    if loss.operation == "cross_entropy":
        yield Remedy(
            title=f"a minus before the scores of {describe(loss.call)}",
            change=instead(loss.call, _turn_first),
            shows="the nearest class has the greatest score",
            is_comparable=False,
        )


def _turn_first(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(-args[0], *args[1:], **kwargs)


def _normalise_first(finding: Finding, evidence: Evidence) -> Iterator[Remedy]:
    flow = Flow(evidence.trace)
    for i in (i for i in flow.primitives({"ctc_loss"}) if flow.line(i) == finding.source):
        yield Remedy(
            title="log_softmax(x, dim=-1) before the loss",
            change=instead(flow.calls[i], _log_softmax_first),
            shows="the loss gets log-probabilities",
            is_comparable=False,
        )


def _free_outputs(
    finding: Finding, evidence: Evidence, model: Any, loss: LossCall, call: ModuleCall
) -> Iterator[Remedy]:
    """A head that can reach every target, or the loss of such targets."""
    if finding.kind == "state-as-output":
        yield Remedy(
            title=f"a Linear after {spoken(evidence, finding.module)}",
            change=lambda subject: _add_linear(subject, finding.module or ""),
            shows="the outputs can reach every target",
            is_comparable=False,
        )
        return
    if finding.kind == "smoothing":
        yield Remedy(
            title=f"label_smoothing=0.1 in {describe(loss.call)}",
            change=instead(loss.call, _smooth_little),
            shows="the loss depends on the labels",
            is_comparable=False,
        )
        return
    if loss.operation in ("cross_entropy", "binary_cross_entropy"):
        yield from _several_labels(loss, call)
        return
    yield Remedy(
        title=f"remove {describe(call)} after the last layer",
        change=_drop(call),
        written=_write_drop(call, evidence, model),
        shows="the outputs can reach every target",
        is_comparable=False,
    )


class _Widened(nn.Module):
    """A recurrent layer with a Linear after it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        sides = 2 if getattr(layer, "bidirectional", False) else 1
        self.layer, self.head = layer, nn.Linear(*[sides * layer.hidden_size] * 2)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's result, its output through the Linear."""
        result = self.layer(*args, **kwargs)
        if isinstance(result, tuple):
            return (self.head(result[0]), *result[1:])
        return self.head(result)


def _add_linear(subject: Subject, fqn: str) -> None:
    layer = subject.module(fqn)
    widened = _Widened(layer).to(next(layer.parameters()))
    subject.set_module(fqn, widened)
    subject.optimise(list(widened.head.parameters()))


def _write_logarithm(call: ModuleCall, evidence: Evidence, model: Any) -> Written:
    """log_softmax in place of a softmax, or behind another layer."""
    is_softmax = operation(call) == "softmax"
    if call.fqn and is_softmax:
        dim = find_module(model, call.fqn).dim  # type: ignore[union-attr]
        return write_layer(call.fqn, f"nn.LogSoftmax(dim={dim})", evidence, model)
    if call.fqn:
        return write_in(evidence, model, follow_layer, call.fqn, "nn.LogSoftmax(dim=1)")
    if is_softmax:
        return lambda: rename_call(call.source, "softmax", "log_softmax")
    return lambda: wrap_call(call.source, call.kind, "torch.log_softmax({x}, dim=1)")


def _give_probabilities(call: ModuleCall, finding: Finding) -> Iterator[Remedy]:
    are_logarithms = finding.kind == "logarithms-as-targets"
    how = _with_log_target if are_logarithms else _of_softmax
    yield Remedy(
        title=(
            f"{describe(call)} with {'log_target=True' if are_logarithms else 'softmax(y, dim=1)'}"
        ),
        change=instead(call, how),
        written=(lambda: append_argument(call.source, call.kind, "log_target=True"))
        if are_logarithms
        else None,
        shows="the targets are probabilities",
        is_comparable=False,
    )


def _with_log_target(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return func(*args, **kwargs | {"log_target": True})


def _of_softmax(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(args[0], args[1].softmax(1), *args[2:], **kwargs)


def _smooth_little(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs | {"label_smoothing": 0.1})


def _several_labels(loss: LossCall, call: ModuleCall) -> Iterator[Remedy]:
    row = loss.call
    if loss.operation == "cross_entropy":
        yield Remedy(
            title="nn.BCEWithLogitsLoss() for labels that do not exclude each other",
            change=lambda subject: subject.rewrite(row.kind, row.source, _binary),
            shows="each label has a probability of its own",
            is_comparable=False,
        )
        return
    yield Remedy(
        title=f"a sigmoid in place of {describe(call)}",
        change=instead(call, lambda _func, args, _kwargs: torch.sigmoid(args[0])),
        shows="each label has a probability of its own",
        is_comparable=False,
    )


def _binary(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target = args[1] if len(args) > 1 else kwargs["target"]
    return nn.functional.binary_cross_entropy_with_logits(args[0], target)


def _as_logarithm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    dim = kwargs.get("dim", getattr(func, "dim", 1))
    return torch.log_softmax(args[0], dim=dim if isinstance(dim, int) else 1)


def _log_softmax_first(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return func(torch.log_softmax(args[0], dim=-1), *args[1:], **kwargs)


def _log_softmax(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return torch.log_softmax(func(*args, **kwargs), dim=1)


@answers("squashed-distance", "exponential-loss", "one-sided-residual")
def drop_function(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """What it is given, in the place of the sigmoid, exp or ReLU."""
    shows = {
        "squashed-distance": "the loss gets the distance itself",
        "exponential-loss": "the loss itself is minimised",
        "one-sided-residual": "the output can lie on both sides of the input",
    }[finding.rule]
    for _, call in rows_at(finding, evidence)[:1]:
        yield Remedy(
            title=f"remove {describe(call)}",
            change=_drop(call),
            written=_write_drop(call, evidence, model),
            shows=shows,
            is_comparable=False,
        )
