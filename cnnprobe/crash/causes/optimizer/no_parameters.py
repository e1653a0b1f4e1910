import inspect
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.cause import Candidate, Crash, Suspects, blame, cause, propose, vary
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.frames import get_path, list_frames

_STEP = """
model = nn.Linear(6, 4)
def run(model):
    torch.optim.Adam(model.parameters(), lr=0.1)
"""
_NAMES = "[name for name, _ in model.named_parameters()]"
EXAMPLES = tuple(
    vary(_STEP, "model.parameters()", wrong, repair, blames=blames, is_tried=is_tried)
    for wrong, blames, repair, is_tried in (
        ("model.parameters", "", "write parameters(), with parentheses", True),
        ("model", "", "pass its parameters: model.parameters()", True),
        ("model.weight", None, "pass a list", False),
        (_NAMES, None, "pass parameters", False),
        ("[model.weight * 2]", None, "a leaf", False),
    )
)


@cause("CP0G4", "no-parameters", EXAMPLES, stage="step", family="empty-parameters", prior=795)
def no_parameters(crash: Crash) -> Suspects:
    """An optimizer got something else than an iterable of parameters.

    Why it happens: it got the model, the method without parentheses, one tensor without a list,
    names, or a tensor that was computed.
    What to do: pass model.parameters(), or a list of leaves that require grad.
    Known exceptions: dicts with the key "params" are groups.
    Source: PyTorch, torch.optim.Optimizer.
    """
    optim = [frame for frame in list_frames(crash.error) if "/torch/optim/" in get_path(frame)]
    given = next((f.f_locals["params"] for f in optim if "params" in f.f_locals), None)
    values = [f.f_locals.get("param") for f in optim if f.f_code.co_name == "add_param_group"]
    owner = getattr(given, "__self__", None) if inspect.ismethod(given) else given
    found = _judge(given, owner) or _judge_value(values[0] if values else None)
    if found is not None:
        what, candidate = found
        message = f"the optimizer got {what}"
        yield blame(
            "" if owner is crash.model and crash.model is not None else None, message, candidate
        )


def _judge(given: Any, owner: Any) -> tuple[str, Candidate] | None:
    if isinstance(given, Tensor):
        edit = Advice(title="pass a list: [tensor]")
        return f"one tensor of shape {tuple(given.shape)} where a list is needed", propose(edit)
    if inspect.ismethod(given):
        what = f"the method {given.__name__} itself, not the parameters that it returns"
        title, code = f"write {given.__name__}(), with parentheses", f"model.{given.__name__}()"
    elif isinstance(given, nn.Module):
        what = f"the {type(given).__name__} itself, not its parameters"
        title, code = "pass its parameters: model.parameters()", "model.parameters()"
    else:
        return None
    if not (count := sum(1 for _ in owner.parameters()) if isinstance(owner, nn.Module) else 0):
        return what, propose(Advice(title=title, code=code))
    check = Check(title=title, code=code, check=lambda: f"it gives {count} parameters")
    return what, propose(check)


def _judge_value(value: Any) -> tuple[str, Candidate] | None:
    """One of the parameters is none."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        edit = Advice(
            title="pass parameters: model.parameters(), or (p for _, p in named_parameters())"
        )
        return f"a {type(value).__name__} among its parameters", propose(edit)
    if not value.is_leaf:
        title = "make it a leaf: x.detach().requires_grad_(), or compute it from what is trained"
        return (
            f"a tensor of shape {tuple(value.shape)} that was computed, so it is not a leaf",
            propose(Advice(title=title)),
        )
    return None
