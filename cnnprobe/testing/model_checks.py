"""The checks of `pytest --cnnprobe SPEC`: what can be held against any model without knowing it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cnnprobe.errors import UsageError
from cnnprobe.loading import load_inputs, load_model, parse_arguments
from cnnprobe.testing import behaviour, repeatability
from cnnprobe.testing.failures import Inputs, observe_model
from cnnprobe.testing.health import assert_healthy


def _check_runs(model: nn.Module, inputs: Inputs) -> None:
    __tracebackhide__ = True
    observe_model(model, inputs)


def _check_batch_independent(model: nn.Module, inputs: Inputs) -> None:
    """A batch of one sample, as deployment gives it, is made two: else nothing could be seen."""
    __tracebackhide__ = True
    batches = {
        t.shape[0] if t.dim() else 0
        for t in torch.utils._pytree.tree_leaves(inputs)
        if isinstance(t, Tensor)
    }
    if batches == {1}:
        inputs = torch.utils._pytree.tree_map(
            lambda t: torch.cat([t, t]) if isinstance(t, Tensor) else t, inputs
        )
    repeatability.assert_batch_independent(model, inputs)


CHECKS: Mapping[str, Callable[[nn.Module, Inputs], None]] = {
    "runs": _check_runs,
    "finite": behaviour.assert_finite,
    "gradients-reach": behaviour.assert_gradients_reach,
    "batch-independent": _check_batch_independent,
    "deterministic": repeatability.assert_deterministic,
    "eval-is-stable": repeatability.assert_eval_is_stable,
    "healthy": assert_healthy,
}


def run(check: str, spec: str, shapes: tuple[str, ...], arguments: tuple[str, ...] = ()) -> None:
    """Build the model, in eval mode, and its inputs anew, and run one check."""
    __tracebackhide__ = True
    if not shapes:
        raise UsageError(
            "no input was given for the model",
            where=f"--cnnprobe {spec}",
            fix="give its shape: --cnnprobe-input 2,3,32,32",
        )
    torch.manual_seed(0)
    model = load_model(spec, arguments=parse_arguments(arguments)).eval()
    args, kwargs = load_inputs(shapes)
    CHECKS[check](model, kwargs or args)
