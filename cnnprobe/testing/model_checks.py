"""The checks of `pytest --cnnprobe SPEC`: what can be held against any model without knowing it."""

from collections.abc import Callable, Mapping

from torch import nn

from cnnprobe.errors import UsageError
from cnnprobe.targets import load_inputs, load_model
from cnnprobe.testing import behaviour
from cnnprobe.testing.failures import Inputs, observed


def _runs(model: nn.Module, inputs: Inputs) -> None:
    __tracebackhide__ = True
    observed(model, inputs)


CHECKS: Mapping[str, Callable[[nn.Module, Inputs], None]] = {
    "runs": _runs,
    "finite": behaviour.assert_finite,
    "gradients-reach": behaviour.assert_gradients_reach,
    "batch-independent": behaviour.assert_batch_independent,
    "deterministic": behaviour.assert_deterministic,
    "eval-is-stable": behaviour.assert_eval_is_stable,
}


def run(check: str, spec: str, shapes: tuple[str, ...]) -> None:
    """Build the model and its inputs anew, and run one check."""
    __tracebackhide__ = True
    model = load_model(spec)
    if not shapes:
        raise UsageError("there is no input for the model", where=f"--cnnprobe {spec}", fix="give its shape: --cnnprobe-input 2,3,32,32")
    args, kwargs = load_inputs(shapes)
    CHECKS[check](model, kwargs or args)
