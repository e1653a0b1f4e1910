from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Suspects, blame, cause, propose, vary
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.frames import list_frames

_NET = """
model = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2, bias=False))
def init(layer):
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
def run(model):
    model.apply(init)
"""
_RIGHT = "isinstance(layer, nn.Linear) and layer.bias is not None"
EXAMPLES = tuple(
    vary(_NET, _RIGHT, wrong, repair, blames=blames, is_tried=False)
    for wrong, blames, repair in (
        ('hasattr(layer, "weight")', "1", "if isinstance(layer, nn.Linear)"),
        ("isinstance(layer, nn.Linear | nn.ReLU)", "2", "isinstance(layer"),
        ("isinstance(layer, nn.Linear)", "3", "if layer.bias is not None"),
    )
)


@cause(
    "CP0G3", "init-of-wrong-layer", EXAMPLES, stage="loss", family="missing-attribute", prior=870
)
def init_of_wrong_layer(crash: Crash) -> Suspects:
    """A function given to apply() met a layer that it is not for.

    Why it happens: model.apply(init) calls init for every module, with containers, activations
    and norms. A ReLU has no weight, a norm's weight has one dim, and a layer before a norm may
    have no bias.
    What to do: ask for the classes that are meant: if isinstance(layer, (nn.Linear, nn.Conv2d)).
    Known exceptions: none.
    Source: PyTorch, torch.nn.Module.apply and torch.nn.init.
    """
    frames = list_frames(crash.error)
    if not (applied := [f for f in frames if f.f_code is nn.Module.apply.__code__]):
        return
    layer, function = applied[-1].f_locals["self"], applied[-1].f_locals["fn"]
    fqn = next((fqn for fqn, module in crash.modules.items() if module is layer), None)
    shown = crash.describe_module(fqn) if fqn is not None else f"a {type(layer).__name__}"
    name = getattr(function, "__name__", "the function")
    what, title = _judge(frames[-1].f_locals, layer, crash.error)
    if what:
        yield blame(
            fqn,
            f"apply({name}) calls {name} for every module, but {shown} {what}",
            propose(Advice(title=f"{title} in {name}", module=fqn)),
            arithmetic=f"{len(crash.modules)} modules",
        )


def _judge(values: dict[str, Any], layer: nn.Module, error: BaseException) -> tuple[str, str]:
    tensor = values.get("tensor")
    if isinstance(tensor, Tensor) and tensor.dim() < 2:
        what = (
            f"has a parameter of shape {tuple(tensor.shape)}, and this initialisation needs 2 dims"
        )
        return what, "ask for the layers that are meant: if isinstance(layer, nn.Linear):"
    for name in ("weight", "bias"):
        if isinstance(error, AttributeError) and getattr(error, "obj", None) is layer:
            missing = error.name or name
            title = f"ask for the layers that have {missing!r}: if isinstance(layer, nn.Linear):"
            return f"has no {missing!r}", title
        if getattr(layer, name, 0) is None and isinstance(error, AttributeError | TypeError):
            return f"has no {name} ({name}=False)", f"ask first: if layer.{name} is not None:"
    return "", ""
