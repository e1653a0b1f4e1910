"""A dropout that is on in eval mode."""

import linecache
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, argument, describe, operation
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import classifying

# True, or a switch of the model's own, such as self.mc, which model.eval() does not set
ALWAYS = re.compile(r"\btraining\s*=\s*(?:True|self\.(?!\w*train)\w+)\b(?![.(])")


def _net(guarded: bool) -> Mapping[str, Any]:
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = self.body(x.flatten(1)).relu()
            x = F.dropout(x, 0.5, training=self.training) if guarded else F.dropout(x, 0.5)
            return self.head(x)

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """`F.dropout(x, 0.5)`."""
    return _net(guarded=False)


def healthy() -> Mapping[str, Any]:
    """`F.dropout(x, 0.5, training=self.training)`."""
    return _net(guarded=True)


@rule(
    code="CP703",
    name="functional-dropout",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("eval-nondeterminism", "train-eval-gap"),
)
def functional_dropout(evidence: Evidence) -> Iterator[Finding]:
    """F.dropout, the dropout of scaled_dot_product_attention, or an nn.Dropout that the forward
    makes, drops values in eval mode.

    Why it matters: F.dropout does not know the module's mode; its `training` is True unless it is
    told otherwise. An nn.Dropout that forward makes anew is in train mode, whatever the model is.
    What to do: F.dropout(x, p, training=self.training), or an nn.Dropout that __init__ makes.
    Known exceptions: Monte Carlo dropout is on purpose: it is info where the line says
    training=True, which is the default, or asks a switch of the model's own, as training=self.mc;
    suppress it elsewhere, with that reason.
    Source: torch.nn.functional.dropout(input, p=0.5, training=True, inplace=False).
    """
    trace = evidence.evaluation
    if trace is None:
        return
    flow = Flow(trace)
    for i in flow.primitives():
        call = flow.calls[i]
        if call.fqn is not None:
            continue
        attention = call.kind.endswith("scaled_dot_product_attention")
        rate = (
            argument(call, "dropout_p", 0.0)
            if attention
            else argument(call, "p", 0.5)
            if operation(call) == "dropout"
            else 0.0
        )
        on = attention or argument(call, "training", True) is True
        if on and isinstance(rate, int | float) and rate > 0:
            fix = (
                "dropout_p=p if self.training else 0.0"
                if attention
                else f"{describe(call)}(x, {rate:g}, training=self.training)"
            )
            if _is_made_anew(call):
                yield _to_unregistered(flow.owner(i), call, rate)
                continue
            yield Finding(
                module=flow.owner(i),
                severity=Severity.INFO if drops_on_purpose(call) else None,
                message=f"{describe(call)} drops {rate:.0%} of the values in eval mode (must be 0)",
                fix=f"nothing for Monte Carlo dropout, else {fix}"
                if drops_on_purpose(call)
                else fix,
                source=call.source,
                subject=describe(call),
            )


def drops_on_purpose(call: ModuleCall) -> bool:
    """Whether the line of a dropout asks for it in both modes, in so many words."""
    return operation(call) == "dropout" and bool(ALWAYS.search(_read_line(call)))


def _read_line(call: ModuleCall) -> str:
    path, _, line = call.source.rpartition(":")
    return linecache.getline(path, int(line)) if line.isdigit() else ""


def _is_made_anew(call: ModuleCall) -> bool:
    """Whether the line makes an nn.Dropout, and calls it at once."""
    text = _read_line(call)
    return operation(call) == "dropout" and "Dropout" in text and ")(" in text


def _to_unregistered(module: str | None, call: ModuleCall, rate: float) -> Finding:
    return Finding(
        module=module,
        message=(
            f"the forward makes an nn.Dropout anew, which drops {rate:.0%} of the values in eval "
            "mode too (must be 0): model.eval() does not know of it"
        ),
        fix=f"make it in __init__: self.dropout = nn.Dropout({rate:g}), and call self.dropout(x)",
        source=call.source,
        kind="made-anew",
        subject=describe(call),
    )
