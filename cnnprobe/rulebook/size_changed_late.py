"""A size that was set after the layer had been built."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import called, spoken
from cnnprobe.rulebook.material import classifying, perceptron

AXES = {
    "Linear": {"out_features": 0, "in_features": 1},
    "Conv1d": {"out_channels": 0},
    "Conv2d": {"out_channels": 0},
    "Conv3d": {"out_channels": 0},
    "BatchNorm1d": {"num_features": 0},
    "BatchNorm2d": {"num_features": 0},
    "BatchNorm3d": {"num_features": 0},
}  # attribute: the axis of the weight that has this size


def _head(size: int) -> Mapping[str, Any]:
    model = perceptron()
    model[3].out_features = size
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """A head of 4 outputs, relabelled as one of 10."""
    return _head(10)


def healthy() -> Mapping[str, Any]:
    """The size that it has."""
    return _head(4)


@rule(code="CP318", name="size-changed-late", severity=Severity.WARNING, examples=(sick, healthy))
def size_changed_late(evidence: Evidence) -> Iterator[Finding]:
    """A layer says one size, and its weight has another.

    Why it matters: out_features and out_channels are read when the layer is built; to set them
    afterwards changes the printed name, not the layer.
    What to do: replace the layer: model.fc = nn.Linear(model.fc.in_features, 10).
    Known exceptions: subclasses of torch's layers, which may store their weights in another way.
    Source: torch.nn.Linear.__init__, which makes the weight.
    """
    used = called(evidence)
    shapes = {p.fqn: p.shape for p in evidence.trace.parameters}
    for module in evidence.trace.modules:
        shape = shapes.get(f"{module.fqn}.weight" if module.fqn else "weight", ())
        for attribute, axis in (
            AXES.get(module.kind, {}).items() if module.is_stock and module.fqn in used else ()
        ):
            said = module.config.get(attribute)
            if isinstance(said, int) and len(shape) > axis and shape[axis] != said:
                name = spoken(evidence, module.fqn)
                yield Finding(
                    module=module.fqn,
                    message=(
                        f"{name} says {attribute}={said}, but its weight has shape {shape}: "
                        f"{shape[axis]}, not {said}"
                    ),
                    fix=(
                        f"make a new layer, {name} = nn.{module.kind}(...): setting {attribute} "
                        "does not change the weight"
                    ),
                )
