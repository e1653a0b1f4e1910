"""What a comparison of two models found, as plain frozen data: operations, pairs, differences,
levels. No torch, no model, no tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

LEVELS = (
    "operations",
    "shapes",
    "parameters",
    "hyperparameters",
    "state_dict",
    "numbers",
    "train_numbers",
    "gradients",
    "autograd",
)
"""What can be the same in two models, in the order in which it is asked: from what is free to what
needs a backward pass.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One primitive step of a forward pass: a leaf module's call or a torch function, under one
    name however it was written.
    """

    name: (
        str  # "conv2d", "relu", "flatten": the same for nn.Flatten, torch.flatten and x.view(n, -1)
    )
    kind: str  # as it was written: "Conv2d", "torch.flatten"
    module: str  # fqn of the layer, or of the module whose forward called the function
    call: int  # index of its row in the trace
    config: Mapping[str, object] = field(
        default_factory=dict
    )  # hyper-parameters in their shortest form: 3 for (3, 3)
    given: tuple[tuple[int, ...], ...] = ()  # shapes of the inputs that are no parameters
    made: tuple[tuple[int, ...], ...] = ()
    sources: tuple[
        int | None, ...
    ] = ()  # the operations that made these inputs; None: the model's own input
    parameters: Mapping[str, str] = field(
        default_factory=dict
    )  # role ("weight") -> fqn, buffers too
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # role -> shape
    source: str = ""  # the user's line
    completed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two operations that stand for each other, by their positions; None where one has no
    counterpart.
    """

    actual: int | None
    expected: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """How far two tensors are apart, in the terms of torch.testing.assert_close."""

    mismatched: int
    elements: int
    greatest_absolute: float
    index: tuple[int, ...]
    greatest_relative: float
    allowed_absolute: float
    allowed_relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference: at which level, at which pair, in words, and how great where it is one of
    numbers.
    """

    level: str
    # index into `Outcome.pairs`, in execution order; len(pairs) where it belongs to the whole
    position: int
    actual: str  # the place in the actual model: "'conv1' (Conv2d)"; "" where it has none
    expected: str
    message: str
    # of a difference of numbers: what went in was equal, so it began here
    inputs_equal: bool | None = None
    discrepancy: Discrepancy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that a comparison found. `levels` says of each level whether it holds; None where it was
    not compared, and `notes` say why.
    """

    actual: str  # class name of the model
    expected: str
    actual_operations: tuple[Operation, ...] = ()
    expected_operations: tuple[Operation, ...] = ()
    pairs: tuple[Pair, ...] = ()
    levels: Mapping[str, bool | None] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    mapping: Mapping[str, str] = field(
        default_factory=dict
    )  # name in the actual model's state_dict -> name in the expected one's
    unmapped: tuple[str, ...] = ()  # why a parameter or buffer has no counterpart, in sentences
    parameters: tuple[int, int] = (0, 0)  # totals of the actual and of the expected model
    costs: Mapping[str, tuple[int, int]] = field(
        default_factory=dict
    )  # of both: trainable, macs, counted, operations, activation_bytes
    notes: tuple[str, ...] = ()


def describe_place(operation: Operation) -> str:
    """Where an operation stands, as a user finds it: a layer by its name, a function by its module.

    >>> describe_place(Operation(name="conv2d", kind="Conv2d", module="conv1", call=1))
    "'conv1' (Conv2d)"
    >>> describe_place(Operation(name="flatten", kind="torch.flatten", module="", call=8, source="/home/me/net.py:12"))
    'torch.flatten (net.py:12)'
    """  # noqa: E501
    if "." not in operation.kind:
        return f"'{operation.module}' ({operation.kind})" if operation.module else operation.kind
    inside = f" in '{operation.module}'" if operation.module else ""
    line = operation.source.replace("\\", "/").rsplit("/", maxsplit=1)[-1]
    return operation.kind + inside + (f" ({line})" if line else "")


def describe_discrepancy(found: Discrepancy) -> str:
    """The discrepancy in one line.

    >>> describe_discrepancy(Discrepancy(mismatched=1, elements=4, greatest_absolute=0.5, index=(0, 3), greatest_relative=0.25,
    ...                                  allowed_absolute=1e-05, allowed_relative=1.3e-06))
    'greatest absolute difference 0.5 at (0, 3) (up to 1e-05 allowed), greatest relative 0.25 (up to 1.3e-06 allowed), 1 / 4 elements differ'
    """  # noqa: E501
    return (
        f"greatest absolute difference {found.greatest_absolute:.3g} at {found.index} (up to "
        f"{found.allowed_absolute:.3g} allowed), "
        f"greatest relative {found.greatest_relative:.3g} (up to {found.allowed_relative:.3g} "
        "allowed), "
        f"{found.mismatched:,} / {found.elements:,} elements differ"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A pattern of operations that repeats in a row: its class, the pattern in one line, and what
    varies from one instance to the next.
    """

    name: str
    pattern: str  # "[Conv2d 3x3 p1, ReLU, MaxPool2d 2] x 3, channels 3->32->64->128"
    repeats: int
    varying: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    operations: tuple[int, ...] = ()  # positions of all operations that it covers


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A model written in blocks: `source` is "" where nothing folds or the proof failed, and
    `notes` say why.
    """

    model: str
    blocks: tuple[Block, ...] = ()
    source: str = ""
    class_name: str = ""
    mapping: Mapping[str, str] | None = None  # name in the new model -> name in the given one
    proof: Outcome | None = None
    notes: tuple[str, ...] = ()
