"""A backward of the user's own that is not the derivative of its forward."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, WrongDerivative
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, perceptron


def _squaring(factor: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            (x,) = ctx.saved_tensors
            return factor * x * gradient

    class Squared(nn.Module):
        def forward(self, x: Any) -> Any:
            return Square.apply(x)

    return classifying(perceptron(end=(Squared(),)))


def sick() -> Mapping[str, Any]:
    """The derivative of the square as -x."""
    return _squaring(-1.0)


def healthy() -> Mapping[str, Any]:
    """As 2x."""
    return _squaring(2.0)


@rule(
    code="CP230",
    name="wrong-backward",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit", "exploding-gradient", "vanishing-gradient"),
)
def wrong_backward(evidence: Evidence) -> Iterator[Finding]:
    """The backward of a custom torch.autograd.Function is not the derivative of its forward, leaves
    out the incoming gradient, or does not reverse it although its name says so.

    Why it matters: the layers before it follow a wrong gradient; the loss falls slowly, or not at
    all, and nothing raises.
    What to do: correct the formula, and keep torch.autograd.gradcheck as a test; where the forward
    consists of torch's operations, drop the class and call them.
    Known exceptions: functions that change nothing in their forward (clipping, a reversal whose
    factor is 0), step functions (straight-through), places where the forward is flat or the
    backward lets nothing through; info where the name or the text says that it is on purpose.
    Source: torch.autograd.gradcheck, which compares with central differences in float64 too.
    """
    for wrong in evidence.derivatives:
        if wrong.is_upright:
            yield _tell_upright(wrong)
            continue
        if wrong.is_deaf:
            yield _tell_deaf(wrong)
            continue
        yield Finding(
            module=None,
            severity=Severity.INFO if wrong.on_purpose else Severity.ERROR,
            message=_describe(wrong),
            fix=(
                "nothing, where this is on purpose"
                if wrong.on_purpose
                else f"correct the formula in {wrong.name}.backward, and test it with "
                "torch.autograd.gradcheck"
            ),
            source=wrong.source,
            subject=wrong.qualified,
        )


def _tell_upright(wrong: WrongDerivative) -> Finding:
    return Finding(
        module=None,
        kind="not-reversed",
        severity=Severity.WARNING,
        message=(
            f"{wrong.name}.backward does not reverse the gradient: it multiplies it by "
            f"{wrong.factor:.4g} (a reversal has a factor below 0), so that the layers before it "
            "help the loss behind it"
        ),
        fix=(
            "return -factor * gradient with a factor of 0 or more, and look at the sign of the "
            f"factor that {wrong.name}.apply gets"
        ),
        source=wrong.source,
        subject=wrong.qualified,
    )


def _tell_deaf(wrong: WrongDerivative) -> Finding:
    return Finding(
        module=None,
        kind="deaf",
        message=(
            f"{wrong.name}.backward gives argument {wrong.argument} the same gradient whatever "
            f"gradient comes in (norm {wrong.analytic:.3g}): what the layers before it get does "
            "not depend on the loss"
        ),
        fix=(
            f"multiply by the incoming gradient in {wrong.name}.backward: its second argument, of "
            "the shape of the output"
        ),
        source=wrong.source,
        subject=wrong.qualified,
    )


def _describe(wrong: WrongDerivative) -> str:
    start = f"the gradient of {wrong.name}.backward by argument {wrong.argument}"
    if wrong.factor is not None:
        return (
            f"{start} is {wrong.factor:.4g} times the derivative of its forward (1 is right), in "
            f"{format_counted(wrong.checked, 'element')}"
        )
    return (
        f"{start} is not the derivative of its forward in {wrong.wrong} of "
        f"{format_counted(wrong.checked, 'element')}: {wrong.analytic:.4g} where differences of "
        f"the forward give {wrong.numeric:.4g}"
    )
