from torch import Tensor

from cnnprobe.crash.cause import Crash, Suspects, blame, cause, propose, vary
from cnnprobe.crash.edits.attributes import Unfreeze
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.frames import find_cut
from cnnprobe.crash.facts.grad_mode import find_off
from cnnprobe.crash.facts.losses import differentiated
from cnnprobe.crash.facts.words import operation, quote, write_module
from cnnprobe.operations import find_function
from cnnprobe.records.trace import ModuleCall

_COPIERS = ("data", "obj", "ndarray", "s")  # the first argument of what makes a tensor from values

_NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)
    def forward(self, x):
        return self.fc(x)
model = Net()
def run(model):
    x, y = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    output = model(x)
    F.cross_entropy(output, y).backward()
"""
_LOSS = "F.cross_entropy(output, y).backward()"

EXAMPLES = tuple(
    vary(_NET, right, wrong, repair, blames=blames, is_tried=is_tried)
    for right, wrong, blames, repair, is_tried in (
        (
            _LOSS,
            "F.mse_loss(output.argmax(1).float(), y.float()).backward()",
            None,
            "argmax",
            False,
        ),
        ("self.fc(x)", "self.fc(x).detach()", "", "take detach out", False),
        (
            _LOSS,
            "torch.tensor(F.cross_entropy(output, y).item()).backward()",
            None,
            "torch.tensor",
            False,
        ),
        (
            "output = model(x)",
            "with torch.no_grad(): output = model(x)",
            None,
            "off the forward",
            False,
        ),
        (
            "model = Net()",
            "model = Net().requires_grad_(False)",
            "",
            "model.fc.requires_grad_(True)",
            True,
        ),
    )
)


@cause(
    "CP086", "detached-graph", EXAMPLES, stage="backward", prior=900, explains=("loss-detached",)
)
def detached_graph(crash: Crash) -> Suspects:
    """The loss has no graph, so that no gradient can flow back from it.

    Why it happens: all parameters are frozen, the forward ran under torch.no_grad(), or something
    on the way to the loss passes no gradient: argmax, .item(), .numpy(), .detach(), .data, a new
    torch.tensor(...).
    What to do: compute the loss from the output itself, with torch's own functions.
    Known exceptions: none; a loss that shall not be differentiated needs no backward().
    Source: PyTorch, "Autograd mechanics", setting requires_grad.
    """
    if (loss := differentiated(crash)) is None or loss.requires_grad:
        return
    module, message, edit = _find_cut(crash, loss)
    arithmetic = f"loss.requires_grad is False, loss.grad_fn is {loss.grad_fn}"
    yield blame(module, message, propose(edit), arithmetic=arithmetic, tensors=(loss,))


def _find_cut(crash: Crash, loss: Tensor) -> tuple[str | None, str, Edit]:
    parameters, calls = crash.parameters, crash.trace.calls
    if not parameters and crash.model is not None:
        edit = Advice(title="give it layers, as attributes that __init__ sets")
        return "", "the model has no parameters: there is nothing to train", edit
    if parameters and not any(p.requires_grad for p in parameters):
        message = "no parameter of the model requires a gradient: all are frozen"
        return "", message, _unfreeze(crash)
    if not loss.is_floating_point() and not loss.is_complex():
        edit = Advice(title="compute the loss from the logits, not from argmax")
        return None, f"the loss is {loss.dtype}: no gradient passes through integers", edit
    if not calls:
        edit = Advice(title="do not use .detach(), .item() or torch.no_grad() before it")
        return None, "nothing that the loss was made from requires a gradient", edit
    if any(t.requires_grad for t in calls[0].outputs):
        return _find_cut_behind(crash)
    is_recorded = any(t.requires_grad for call in calls for t in call.outputs)
    if not is_recorded and not any(cuts_graph(operation(call)) for call in calls):
        message = "the forward ran without a graph, although parameters require gradients"
        place = find_off(crash)
        where = f", at {place}" if place else ""
        title = f"take torch.no_grad() off the forward{where}"
        if place:
            title += ": keep under it only what is not trained"
        return None, message + where, Advice(title=title)
    return _find_cut_inside(crash, calls)


def cuts_graph(name: str) -> bool:
    """Whether a function of this name gives a tensor without a graph from one that has one."""
    if (found := find_function(name)) is None or "cuts" not in found.traits:
        return name in ("Tensor", "FloatTensor", "LongTensor")
    if found.effect == "makes":
        return found.signature.names[:1][0] in _COPIERS
    return found.effect != "asks" or name in ("item", "numpy", "tolist", "__array__")


def _unfreeze(crash: Crash) -> Edit:
    title, last = "set requires_grad_(True) on what is to be trained", crash.find_last_layer()
    if last is None:
        return Advice(title=title)
    code = f"{write_module(last)}.requires_grad_(True)"
    return Unfreeze(title=f"{title}, at least on {quote(last)}: {code}", code=code, module=last)


def _find_cut_behind(crash: Crash) -> tuple[None, str, Edit]:
    """Between the model's output, which has a graph, and the loss."""
    where = "the model's output requires a gradient but the loss does not: it was cut off"
    cut = find_cut(crash.error, cuts_graph)
    if cut is not None:
        info = find_function(cut[0])
        is_maker = info is not None and info.effect == "makes"
        name = f"torch.{cut[0]}()" if is_maker else f"{cut[0]}()"
        title = f"compute the loss without {name}, through which no gradient passes"
        return None, f"{where} by {name}, at line {cut[1]}", Advice(title=title)
    title = (
        "do not wrap the loss in torch.tensor(...), and do not use .item(), .detach(), argmax "
        "or numpy on the way to it"
    )
    return None, f"{where} after the model", Advice(title=title)


def _find_cut_inside(crash: Crash, calls: tuple[ModuleCall, ...]) -> tuple[str | None, str, Edit]:
    for call in reversed(calls):
        has_graph = any(t.requires_grad for t in call.inputs)
        if call.outputs and has_graph and not any(t.requires_grad for t in call.outputs):
            owner = call.fqn if call.fqn is not None else crash.find_module_above(call.parent)
            message = (
                f"{crash.describe_call(call)} cuts the graph: its input requires a gradient "
                "but its output does not"
            )
            title = f"take {operation(call) or quote(call.fqn or '')} out"
            return owner, message, Advice(title=title, module=owner)
    for call in reversed(calls):
        unknown = [t for t in call.inputs if t.source is None and not crash.is_input(t)]
        if call.parent is not None and any(not t.requires_grad for t in unknown):
            message = (
                f"{crash.describe_call(call)} got a tensor that no recorded call made: "
                "the graph ends there (numpy, torch.tensor, .data)"
            )
            edit = Advice(title="stay with torch's own functions on the way")
            return crash.find_module_above(call.parent), message, edit
    ends = "torch.no_grad(), .detach(), .data, numpy or torch.tensor(...)"
    return "", "the graph ends inside the model", Advice(title=f"look for {ends} in its forward")
