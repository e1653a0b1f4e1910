import ast
from typing import Any

from torch import Tensor, nn
from torch.amp.grad_scaler import OptState

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.frames import parse_function
from cnnprobe.crash.facts.scaler import find_scaler_call

_ORDER = "scaler.scale(loss).backward(), scaler.step(optimizer), scaler.update()"
_NEW = "model.parameters()"
_Told = tuple[str, str, str]  # message, title and code of the repair
_CLOSURE: _Told = (
    "scaler.step() got a closure, but it cannot unscale the gradients that a closure makes",
    "use an optimizer that steps without a closure, or leave the GradScaler out",
    "optimizer.step(closure)",
)
_UNSCALED_TWICE: _Told = (
    "scaler.unscale_() ran a second time for one optimizer since the last scaler.update()",
    (
        "call scaler.unscale_(optimizer) once, after the last backward of the step, and "
        "scaler.update() at its end"
    ),
    "scaler.update()",
)
_NOT_UPDATED: _Told = (
    "scaler.step() was followed by another call without scaler.update() in between",
    "call scaler.update() once at the end of each step, after every scaler.step()",
    "scaler.update()",
)
_NOT_STEPPED: _Told = (
    (
        "scaler.update() was called without scaler.step() before it: the optimizer's own "
        "step took the gradients with the scale in them"
    ),
    "write scaler.step(optimizer) for optimizer.step()",
    "scaler.step(optimizer)",
)
_NO_BACKWARD = (
    "call scaler.scale(loss).backward() right before scaler.step(optimizer), and "
    "optimizer.zero_grad() before the backward"
)
_LEAF_LOSS = (
    "compute the loss from the outputs themselves, as torch.stack(losses).mean(): no "
    "torch.tensor(...), .item() or requires_grad=True on the way"
)
_ELSEWHERE = (
    "step only the optimizers whose parameters the loss reaches, or let the loss reach "
    "them: no detach() or frozen part on the way"
)

_PROGRAM = """
  model = nn.Linear(6, 4)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
      scaler = torch.amp.GradScaler("cpu")
      loss = F.cross_entropy(model(torch.randn(5, 6)), torch.tensor([0, 1, 2, 3, 1]))
-     loss.backward()
+     scaler.scale(loss).backward()
      scaler.step(optimizer)
      scaler.update()
"""
EXAMPLE = Example(_PROGRAM, repair="write scaler.scale(loss).backward()", is_tried=False)


@cause("CP093", "scaler-order", EXAMPLE, stage="step", prior=950)
def scaler_order(crash: Crash) -> Suspects:
    """The calls of a GradScaler came in the wrong order.

    Why it happens: the scaler keeps for each optimizer whether its gradients are scaled, unscaled
    or used. A call that is left out, or made twice, does not fit.
    What to do: scaler.scale(loss).backward(), scaler.step(optimizer), scaler.update(); with
    unscale_(optimizer) once between backward and step.
    Known exceptions: scaler.step() steps nothing where gradients are infinite; that is no error.
    Source: PyTorch, "Automatic Mixed Precision examples".
    """
    call = find_scaler_call(crash)
    told = _judge(crash, call.function, call.values) if call is not None else None
    if told is not None:
        message, title, code = told
        edit: Edit = Advice(title=title, code=code)
        if code == _NEW:
            edit = _rebuild(crash, title, call.values["optimizer"])  # type: ignore[union-attr]
        yield blame(None, message, propose(edit), arithmetic=f"the order is {_ORDER}")


def _rebuild(crash: Crash, title: str, optimizer: Any) -> Check:
    """An optimizer of the kind over copies of what the model has and that has a gradient."""

    def check() -> str:
        held = []
        for p in {id(p): p for p in crash.parameters if p.grad is not None}.values():
            held.append(nn.Parameter(p.detach().clone()))
            held[-1].grad = p.grad.detach().clone()  # type: ignore[union-attr]
        type(optimizer)([{**optimizer.param_groups[0], "params": held}]).step()
        return f"a step over copies of the model's {len(held)} parameters with a gradient passes"

    return Check(title=title, code=_NEW, check=check)


def _judge(crash: Crash, function: str, values: dict[str, Any]) -> _Told | None:
    """What the scaler's function and its variables say; None where that is nothing known."""
    scaler, optimizer = values.get("self"), values.get("optimizer")
    state = values.get("optimizer_state") or {}
    stage = state.get("stage")
    if function == "_check_scale_growth_tracker" and getattr(scaler, "_scale", None) is None:
        return (
            (
                f"scaler.{values.get('funcname', 'step')}() was called before scaler.scale(): the "
                "backward before it was that of a loss that is not scaled"
            ),
            "write scaler.scale(loss).backward() for loss.backward()",
            "scaler.scale(loss).backward()",
        )
    if function == "step" and "closure" in values.get("kwargs", {}):
        return _CLOSURE
    if function == "unscale_" and stage is OptState.UNSCALED:
        return _UNSCALED_TWICE
    if function in ("step", "unscale_") and stage is OptState.STEPPED:
        return _NOT_UPDATED
    if function == "step" and state and not state["found_inf_per_device"]:
        return _judge_gradients(crash, optimizer)
    if function == "update" and values.get("found_infs") == []:
        return _NOT_STEPPED
    return None


def _judge_gradients(crash: Crash, optimizer: Any) -> _Told:
    """The scaler found no gradient to check: why there is none."""
    groups = getattr(optimizer, "param_groups", ())
    held = [p for group in groups for p in group["params"] if isinstance(p, Tensor)]
    own = crash.parameters
    shared = {id(p) for p in held} & {id(p) for p in own}
    numbers = f"0 of {len(held)} parameters of the optimizer have a gradient"
    if own and not shared:
        return (
            f"{numbers}, and none of them is the model's: the optimizer was built over others",
            "build the optimizer over model.parameters() once the model is what is trained",
            _NEW,
        )
    if elsewhere := sum(p.grad is not None for p in own):
        return (
            (
                f"{numbers}, but {elsewhere} others of the model have one: the loss does not "
                "depend on what this optimizer holds"
            ),
            _ELSEWHERE,
            "scaler.step(optimizer)",
        )
    if (line := _find_new_leaf(crash)) is not None:
        return (
            f"{numbers}: line {line} makes the loss anew as a leaf, which has no graph to them",
            _LEAF_LOSS,
            "torch.stack(losses).mean()",
        )
    return (
        (
            f"{numbers} at scaler.step(): no backward came before it, its loss does not reach "
            "them, or zero_grad() came in between"
        ),
        _NO_BACKWARD,
        "scaler.scale(loss).backward()",
    )


def _find_new_leaf(crash: Crash) -> int | None:
    """The line of the user's function that makes a tensor from values and lets it require grad."""
    for node in ast.walk(parse_function(crash.error) or ast.Pass()):
        if isinstance(node, ast.Call) and any(k.arg == "requires_grad" for k in node.keywords):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in ("tensor", "as_tensor", "Variable", "Tensor"):
                return node.lineno
    return None
