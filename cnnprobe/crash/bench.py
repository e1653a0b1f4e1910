"""The bench on which candidates are tried: at most twenty forwards of a shadow. Runs the model again, never the user's own."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from cnnprobe.crash.case import Case, size
from cnnprobe.crash.edits import Edit
from cnnprobe.crash.shadow import Outcome, Shadow, make_shadow

MOST_FORWARDS = 20
SMALL_MODEL = (
    4_000_000  # elements of parameters that are copied for real rather than shadowed on meta
)
SMALL_INPUT = 100_000  # elements of its input: 8 images of 3 x 64 x 64


@dataclass(kw_only=True)
class Bench:
    """A shadow on which the crash happens as it did, and how often it may still be run."""

    case: Case
    meta: bool = True
    left: int = MOST_FORWARDS
    shadow: Shadow | None = None
    baseline: Outcome | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        """Whether the crash can be seen on the shadow, and forwards are left."""
        return self.shadow is not None and self.left > 0

    def attempt(self, edits: Sequence[Edit]) -> Outcome | None:
        """One forward with these edits, which are taken back; None where they cannot be made, or no forward is left."""
        shadow = self.shadow
        if shadow is None or self.left <= 0:
            return None
        self.left -= 1
        try:
            shadow.apply(edits)
            return shadow.run()
        except Exception:  # an edit that does not fit this model is no repair
            return None
        finally:
            shadow.reset()


def set_up(case: Case, *, budget: int = MOST_FORWARDS) -> Bench:
    """A bench whose shadow crashes where the model did: on meta if that shows it, else a real copy."""
    bench = Bench(case=case, left=budget)
    for meta in _worlds(case):
        shadow = make_shadow(
            case.model, case.args, case.kwargs, meta=meta, grad=torch.is_grad_enabled()
        )
        if shadow is None or bench.left <= 0:
            continue
        bench.left -= 1
        outcome = shadow.run()
        if not outcome.works and _fails_alike(case, outcome):
            bench.shadow, bench.baseline, bench.meta = shadow, outcome, meta
            return bench
    bench.notes.append(
        "no repair was tried: the model could not be copied, or its copy does not crash as it did"
    )
    return bench


def _worlds(case: Case) -> tuple[bool, ...]:
    """First meta, unless the devices themselves may be at fault: there is only one device there."""
    tensors = [t.device for t in case.inputs]
    devices = (
        {p.device for p in case.trace.parameters}
        | {t.device for t in case.root_inputs}
        | set(tensors)
    )
    if len(devices) > 1:
        return (False,)
    # A small copy runs faster than torch imports what its meta kernels need, and it sees values, dtypes and branches as they are.
    small = (
        sum(p.numel for p in case.trace.parameters) <= SMALL_MODEL
        and sum(size(t.shape) for t in case.root_inputs) <= SMALL_INPUT
    )
    return (False, True) if small else (True, False)


def _fails_alike(case: Case, outcome: Outcome) -> bool:
    failure = outcome.trace.failure
    if failure is None:  # it ran through on meta, but a layer was given what it would have refused
        return not outcome.works
    if failure.call is None or case.index is None:
        return failure.call == case.index
    here, there = outcome.trace.calls[failure.call], case.trace.calls[case.index]
    return (here.fqn, here.kind, here.index) == (
        there.fqn,
        there.kind,
        there.index,
    ) and failure.call == case.index


def is_plausible(case: Case, outcome: Outcome) -> bool:
    """Whether what came out looks like what the model is for: a row for each sample, and logits where the last layer makes logits."""
    if not outcome.works or not outcome.shapes or not outcome.trace.calls:
        return False
    first, inputs = outcome.shapes[0], outcome.trace.calls[0].inputs
    images = bool(inputs) and len(inputs[0].shape) >= 4
    sequence = len(first) == 3 and any(
        isinstance(m, nn.RNNBase | nn.MultiheadAttention) for m in case.modules.values()
    )
    if (
        inputs
        and inputs[0].shape
        and first
        and inputs[0].shape[0] not in first[: 2 if sequence else 1]
    ):
        return False
    last = _last_layer(case, outcome)
    if last is None or not first:
        return True
    return first[-1] == last.out_features and (not images or len(first) == 2 or sequence)


def _last_layer(case: Case, outcome: Outcome) -> nn.Linear | None:
    """The Linear that was called last, if no other layer with weights came after it."""
    for call in reversed(outcome.trace.calls):
        module = case.modules.get(call.fqn) if call.fqn is not None else None
        if module is not None and not module._modules and module._parameters:
            return module if isinstance(module, nn.Linear) else None
    return None
