from collections.abc import Iterator

from torch import Tensor, nn
from torch.optim import Optimizer

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.facts.frames import find_optimizer, read_names
from cnnprobe.crash.facts.words import write_module
from cnnprobe.crash.suspect import Candidate
from cnnprobe.crash.trials import SMALL_MODEL

_PROGRAM = """
  model = nn.Linear(6, 4)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
      model(torch.randn(3, 6)).mean().backward()
      optimizer.step()
      model.weight.data, model.bias.data = torch.randn(2, 6), torch.randn(2)
+     optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
      model.zero_grad()
      model(torch.randn(3, 6)).mean().backward()
      optimizer.step()
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="make a new SGD")


@cause("CP0J5", "stale-optimizer-state", EXAMPLE, stage="step", family="state-mismatch", prior=905)
def stale_state(crash: Crash) -> Suspects:
    """What an optimizer keeps for a parameter has another shape than the parameter.

    Why it happens: the parameter was pruned or replaced after the first step, or the state was
    loaded from a model with another head. The momentum has the old shape.
    What to do: make a new optimizer for the model as it is; load a state only into its own model.
    Known exceptions: an optimizer that factors its state (Adafactor) keeps other shapes on purpose.
    Source: torch.optim.Optimizer.load_state_dict, which does not compare shapes.
    """
    optimizer = find_optimizer(crash.error)
    found = list(_list_stale(optimizer)) if optimizer is not None else []
    if optimizer is None or not found:
        return
    parameter, key, state = found[0]
    fqn, name = _find_name(crash, parameter)
    kind = type(optimizer).__name__
    variable = next((n for n, v in read_names(crash.error).items() if v is optimizer), "optimizer")
    title = (
        f"make a new {kind} for the parameters as they are: "
        f"{variable} = torch.optim.{kind}(model.parameters(), ...)"
    )
    yield blame(
        fqn,
        f"{kind} keeps a {key} of {tuple(state.shape)} for {name}, which is "
        f"{tuple(parameter.shape)}: its state is that of another model, or of an earlier shape",
        *_try_new(optimizer, title),
        arithmetic=f"{len({id(p) for p, _, _ in found})} of "
        f"{sum(len(g['params']) for g in optimizer.param_groups)} parameters have another shape",
        tensors=(parameter, state),
        raised_in=f"{kind}.step",
    )


def _list_stale(optimizer: Optimizer) -> Iterator[tuple[Tensor, str, Tensor]]:
    """The parameters whose state has as many dims, of other sizes, with its name."""
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        for key, value in optimizer.state.get(parameter, {}).items():
            is_like = isinstance(value, Tensor) and value.dim() == parameter.dim() > 0
            if is_like and value.shape != parameter.shape:
                yield parameter, key, value


def _find_name(crash: Crash, parameter: Tensor) -> tuple[str | None, str]:
    for fqn, module in crash.modules.items():
        for name, value in module._parameters.items():
            if value is parameter:
                return fqn, f"{write_module(fqn)}.{name}"
    return None, "a parameter"


def _try_new(optimizer: Optimizer, title: str) -> Iterator[Candidate]:
    """A new optimizer of the class takes a step on copies of the parameters."""
    given = [p for group in optimizer.param_groups for p in group["params"]]
    if sum(p.numel() for p in given) > SMALL_MODEL:
        return

    def check() -> str:
        copies = [nn.Parameter(p.detach().clone()) for p in given]
        for one, like in zip(copies, given, strict=True):
            one.grad = None if like.grad is None else like.grad.detach().clone()
        kind: type = type(optimizer)
        kind(copies, **optimizer.defaults).step()
        return f"a new one steps on copies of the {len(copies)} parameters"

    yield propose(Check(title=title, code=title.rpartition(": ")[2], check=check))
