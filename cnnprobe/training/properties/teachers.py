"""What a distillation is given: outputs of a teacher that belong to the samples of the labels."""

from torch import Tensor

from cnnprobe.recorder.values import leaves
from cnnprobe.training.batch_facts import find_teacher
from cnnprobe.training.formula_calls import Call

Found = tuple[str, str] | None


def check_teacher(call: Call) -> Found:
    """A teacher that is sure of its outputs names the labels more often than chance does."""
    given = {
        f"{name}{path}": t
        for name, value in call.arguments.items()
        for path, t in leaves(value)
        if isinstance(t, Tensor)
    }
    scores = [name for name, t in given.items() if t.dim() == 2 and t.is_floating_point()]
    teacher = find_teacher(given) if len(scores) > 1 or call.owner else None
    if teacher is None or not teacher.is_astray:
        return None
    return (
        f"that {teacher.name} names the label more often than chance does ({teacher.chance:.0%})",
        (
            f"{teacher.agreement:.0%} of {teacher.samples} samples, at a mean probability of "
            f"{teacher.surety:.2f}"
        ),
    )
