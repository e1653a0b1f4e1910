"""Remedies of averages of the weights that do not follow them, and of wrong derivatives."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.training.averages import list_copies
from cnnprobe.training.derivatives import list_functions

USUAL = 0.01  # weight of the newest weights, where another one is not to be read of the loop


@answers("average-astray")
def follow(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The average moved towards the weights after each step."""
    found = next((a for a in evidence.averages if a.name == finding.subject), None)
    if found is None:
        return
    last = found.weights[-1]
    newest = -last if last < 0 else 1 - last if last > 0.5 else last or USUAL
    yield Remedy(
        title=f"{found.name}: average.lerp_(weights, {newest:.3g}) in each step",
        change=lambda subject: _follow(subject, found.name, newest),
        shows="the average follows the weights",
        is_comparable=False,
    )


def _follow(subject: Subject, name: str, newest: float) -> None:
    copies = list_copies(subject.model, subject.around)
    read = {copy.name: (copy.read, copy.read_of) for copy in copies}
    if name not in read:
        raise CannotTryError("the average is not found again")
    own, of = read[name]
    before: list[Tensor] = []

    def keep() -> None:
        before[:] = [tensor.detach().clone() for tensor in own()]

    def write() -> None:
        with torch.no_grad():
            for tensor, old, weights in zip(own(), before, of(), strict=True):
                tensor.detach().copy_(torch.lerp(old, weights.detach(), newest))

    subject.before_each_step(keep)
    subject.after_each_step(write)


@answers("left-behind")
def bring_along(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The parameters or statistics that stay behind copied after each step."""
    found = next((one for one in evidence.left if one.name == finding.subject), None)
    if found is None:
        return
    is_parameters = finding.kind == "parameters"
    names = found.parameters if is_parameters else found.statistics
    what = "parameters" if is_parameters else "buffers"
    yield Remedy(
        title=f"copy the {what} of {found.of} to {found.name} after each step",
        change=lambda subject: _bring_along(subject, found.name, names),
        shows=f"the {what} of {found.name} follow",
        is_comparable=False,
    )


def _bring_along(subject: Subject, name: str, tensors: tuple[str, ...]) -> None:
    pairs = [c.modules for c in list_copies(subject.model, subject.around) if c.name == name]
    if not pairs or pairs[0] is None:
        raise CannotTryError("the copy is not found again")
    copy, of = (dict([*m.named_parameters(), *m.named_buffers()]) for m in pairs[0])

    def write() -> None:
        with torch.no_grad():
            for tensor in tensors:
                copy[tensor].copy_(of[tensor])

    subject.after_each_step(write)


@answers("wrong-backward")
def differentiate(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The operations of the forward, which autograd differentiates itself."""
    wrong = next((w for w in evidence.derivatives if w.qualified == finding.subject), None)
    if wrong is None or wrong.on_purpose or wrong.is_deaf:
        return  # of a forward in steps, autograd's own derivative is 0
    if wrong.is_upright:
        yield Remedy(
            title=f"the other sign in {wrong.name}.backward, or of the factor that it gets",
            change=lambda subject: _reverse(subject, wrong.qualified),
            shows="the gradient is reversed",
            is_comparable=False,
        )
        return
    yield Remedy(
        title=f"without {wrong.name}.backward: the operations of its forward called as they are",
        change=lambda subject: _call_forward(subject, wrong.qualified),
        shows="the gradient is the derivative of the forward",
        is_comparable=False,
    )


class _Context:
    """Takes what a forward leaves for its backward, which is not called: of its methods each does
    nothing.
    """

    def __getattr__(self, name: str) -> Any:
        return _pass_over


def _pass_over(*args: Any, **kwargs: Any) -> None:
    """Nothing is needed of them."""


def _call_forward(subject: Subject, qualified: str) -> None:
    """Of each class of the name: a cell of a notebook that ran twice has left the older one."""
    kinds = [k for k in list_functions() if f"{k.__module__}.{k.__qualname__}" == qualified]
    if not kinds:
        raise CannotTryError("the class is not found again")
    for kind in kinds:
        subject.undo(_pass_backward_by(kind))


def _reverse(subject: Subject, qualified: str) -> None:
    kinds = [k for k in list_functions() if f"{k.__module__}.{k.__qualname__}" == qualified]
    if not kinds:
        raise CannotTryError("the class is not found again")
    for kind in kinds:
        subject.undo(_negate_backward(kind))


def _negate_backward(kind: Any) -> Callable[[], None]:
    """Lets a backward give the gradients with the other sign; gives how that is taken back."""
    original, own = kind.backward, vars(kind).get("backward")

    def backward(*args: Any) -> Any:
        found = original(*args)
        negated = (-g if isinstance(g, Tensor) else g for g in _as_tuple(found))
        return tuple(negated) if isinstance(found, tuple) else next(negated)

    def undo() -> None:
        if own is not None:
            kind.backward = own
        else:
            with contextlib.suppress(AttributeError):
                del kind.backward

    kind.backward = staticmethod(backward)
    return undo


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _pass_backward_by(kind: Any) -> Callable[[], None]:
    """Lets apply call the forward as it is; gives how that is taken back."""
    has_context = kind.setup_context is torch.autograd.Function.setup_context

    def run(*args: Any) -> Any:
        return kind.forward(_Context(), *args) if has_context else kind.forward(*args)

    def undo() -> None:
        with contextlib.suppress(AttributeError):
            del kind.apply

    kind.apply = staticmethod(run)
    return undo
