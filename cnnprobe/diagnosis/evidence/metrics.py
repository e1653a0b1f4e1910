"""Questions about what is computed of the output beside the loss: predictions and metrics."""

from cnnprobe.diagnosis.evidence.evidence import Evidence
from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import FORWARDING, argument, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls
from cnnprobe.records.trace import ModuleCall, TensorInfo

# Values change one by one, or not at all: the shape stays.
SQUASHED = frozenset({"sigmoid", "softmax", "log_softmax", "logsigmoid", "tanh"})
KEEPING = frozenset(
    {"float", "long", "int", "double", "half", "bool", "byte", "cpu", "cuda", "to", "detach",
     "clone", "type", "data", "numpy", "contiguous"}
)  # fmt: skip
THRESHOLDS = frozenset({"gt", "ge", "lt", "le"})
PLAIN = KEEPING | SQUASHED | THRESHOLDS | {"round"}


def find_output(evidence: Evidence) -> TensorInfo | None:
    """What the model gives in its first call of a step, where that is one tensor."""
    roots = Flow(evidence.trace).roots()
    outputs = evidence.trace.calls[roots[0]].outputs if roots else ()
    return outputs[0] if len(outputs) == 1 else None


def is_of_model(flow: Flow, info: TensorInfo) -> bool:
    """Whether a tensor was computed of anything that a model gave."""
    made = flow.producer(info)
    return made is not None and any(
        flow.owner(row) is not None for row in (made, *flow.before(made))
    )


def read_dim(call: ModuleCall) -> object:
    """The dim that a row runs over; None where it is not given."""
    return argument(call, "dim")


def find_logits(evidence: Evidence) -> dict[object, str]:
    """The rows whose values a loss of logits takes, by what made them, with the loss."""
    found: dict[object, str] = {}
    for loss in loss_calls(evidence):
        is_known = loss.operation in ("binary_cross_entropy_with_logits", "cross_entropy")
        if is_known and loss.origin is not None:
            found[name_row(loss.flow, loss.origin)] = loss.operation
    return found


def name_row(flow: Flow, row: int) -> object:
    """A row by its layer, or by its function and line: the same in each pass."""
    call = flow.calls[row]
    return call.fqn if call.fqn is not None else (call.kind, call.source)


def find_origin(flow: Flow, info: TensorInfo) -> tuple[int | None, bool]:
    """The row whose values these are, and whether the largest of several was taken."""
    is_largest = False
    through = FORWARDING | {"detach", "alias"}
    row = flow.origin(info, through)
    while row is not None and operation(flow.calls[row]) in ("max", "amax"):
        is_largest = True
        data = flow.data(row)
        row = flow.origin(data, through) if data is not None else None
    return row, is_largest


def read_number(call: ModuleCall) -> float | None:
    """The number that a row compares its only tensor with."""
    numbers = [v for v in call.arguments.values() if isinstance(v, int | float)]
    return float(numbers[0]) if len(numbers) == 1 else None
