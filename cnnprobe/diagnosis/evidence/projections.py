"""The layers with weights of a trace: their sizes, and their gradients in the order of the
forward.
"""

from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.evidence import Evidence, Step
from cnnprobe.diagnosis.evidence.groups import PROJECTIONS, operation, option
from cnnprobe.diagnosis.evidence.questions import owner
from cnnprobe.records.trace import ModuleCall, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight matrix or kernel in the order in which the forward first uses it, with its gradient
    relative to its size.
    """

    name: str
    module: str
    relative: float  # rms of the gradient over rms of the weight


def weights_in_order(evidence: Evidence, step: Step) -> list[Weight]:
    """Weights of two or more dimensions with a finite gradient, of modules that are projections, in
    order of first use.
    """
    order: dict[str, int] = {}
    for i, call in enumerate(step.trace.calls):
        if call.fqn is not None and operation(call) in PROJECTIONS:
            order.setdefault(call.fqn + ".weight" if call.fqn else "weight", i)
        elif call.fqn is None and operation(call) in PROJECTIONS | {"matmul"}:
            for info in call.inputs:
                if isinstance(info.source, str):
                    order.setdefault(info.source, i)
    found = []
    for name in sorted(order, key=lambda n: order[n]):
        gradient, value = step.gradients.get(name), evidence.values.get(name)
        if (
            gradient is None
            or value is None
            or len(value.shape) < 2
            or gradient.nonfinite
            or value.norm == 0
        ):
            continue
        found.append(Weight(name=name, module=owner(name), relative=gradient.norm / value.norm))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The sizes of a linear layer or convolution, module or function."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    groups: int = 1


def projection(trace: Trace, call: ModuleCall) -> Projection | None:
    """The sizes of a row that is a linear layer or a convolution; None where they are not known."""
    kind = operation(call)
    if call.fqn is not None:
        config = trace.module(call.fqn).config
        sizes = [
            config.get(a, config.get(b))
            for a, b in (("in_features", "in_channels"), ("out_features", "out_channels"))
        ]
        kernel = config.get("kernel_size", ())
        if all(isinstance(s, int) for s in sizes):
            return Projection(
                inputs=int(str(sizes[0])), outputs=int(str(sizes[1])),
                kernel=tuple(kernel) if isinstance(kernel, tuple) else (),
                groups=int(str(config.get("groups", 1))),
            )  # fmt: skip
        return None
    if len(call.inputs) < 2 or len(call.inputs[1].shape) < 2:
        return None
    shape = call.inputs[1].shape
    groups = option(trace, call, "groups", 1)
    if kind == "conv" and isinstance(groups, int):
        return Projection(
            inputs=shape[1] * groups, outputs=shape[0], kernel=shape[2:], groups=groups
        )
    return Projection(inputs=shape[1], outputs=shape[0]) if kind == "linear" else None
