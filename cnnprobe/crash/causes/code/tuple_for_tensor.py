from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import adapt_call, configure, is_in_sequential
from cnnprobe.crash.edits.calls import AdaptOutput, HandIndices, rewrite_call
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.arrivals import Arrival, find_arrival
from cnnprobe.crash.facts.methods import find_method, is_own
from cnnprobe.crash.facts.source import find_one_tuples
from cnnprobe.crash.facts.words import operation, quote
from cnnprobe.records.trace import ModuleCall

_PROGRAM = """
  class Tagger(nn.Module):
      def __init__(self):
          super().__init__()
          self.gru = nn.GRU(16, 12, batch_first=True)
          self.fc = nn.Linear(12, 5)
      def forward(self, x):
-         out = self.gru(x)
+         out, _ = self.gru(x)
          return self.fc(out)
  model, args = Tagger(), (torch.randn(2, 7, 16),)
"""
EXAMPLE = Example(
    _PROGRAM, blames="gru", repair="take the first element of what 'gru' returns: 'gru'(...)[0]"
)


@cause("CP053", "tuple-for-tensor", EXAMPLE, family="not-a-tensor", prior=898)
def tuple_for_tensor(crash: Crash) -> Suspects:
    """A call returns several things, but they are passed on as if they were one tensor.

    Why it happens: recurrent layers return their state as well, attention its weights, torch.max
    along a dim the indices, a pooling with return_indices=True too; a model may return a dict.
    What to do: unpack what is returned, or take the part that is meant.
    Known exceptions: none.
    Source: "Outputs" of nn.LSTM and nn.MultiheadAttention in the documentation of PyTorch.
    """
    if (found := find_arrival(crash)) is None or found.value is None:
        return
    maker = found.maker
    blamed = crash.owner if maker is None else maker.fqn or crash.owner
    method = find_method(crash.modules[blamed], blamed)
    if method is not None and next(find_one_tuples(method.function), None) is not None:
        return  # a trailing comma
    who = f"the forward of {crash.describe_module(blamed)} makes it"
    inner = _find_pair(crash, maker) if maker is not None else None
    if maker is not None:
        who = f"{crash.describe_call(maker)} returned it"
    if inner is not None:
        who += f": {crash.describe_call(inner)} gives values and indices"
    if getattr(crash.modules[blamed], "return_indices", False):
        who += ", as return_indices=True asks for the indices as well"
    edits = (
        _take_part(crash, found, blamed, inner or maker)
        if maker is not None
        else _take_state(crash)
    )
    message = f"{found.message}; {who}"
    yield blame(blamed, message, *(propose(edit, weight=STRONG) for edit in edits))


def _find_pair(crash: Crash, maker: ModuleCall) -> ModuleCall | None:
    """The function in a module's own forward whose values and indices it returned: torch.max."""
    made = [crash.find_producer(info) for info in maker.outputs]
    if maker.fqn is None or len(made) != 2 or made[0] is not made[1] or made[0] is None:
        return None
    return made[0] if made[0].fqn is None and _gives_indices(made[0]) else None


def _gives_indices(call: ModuleCall) -> bool:
    """Whether a function returns values with their indices."""
    pair = call.outputs
    return len(pair) == 2 and pair[0].shape == pair[1].shape and pair[1].dtype == "int64"


def _take_part(crash: Crash, found: Arrival, blamed: str, maker: ModuleCall) -> list[Edit]:
    if maker.fqn is None:
        return [_take_values(crash, maker)]
    if getattr(crash.modules[blamed], "return_indices", False):
        return [_pass_indices(crash, blamed)]
    if isinstance(found.value, dict):
        keys = [key for key, value in found.value.items() if isinstance(value, Tensor)]
        return [_take(blamed, repr(key), lambda out, key=key: out[key]) for key in keys]
    where = ""
    if is_in_sequential(crash, blamed):
        where = ", by a module of its own after it whose forward returns x[0]"
    edits = [_take(blamed, "0", lambda out: out[0], where)]
    if isinstance(found.value[-1], Tensor) and is_own(crash.modules[blamed]):
        edits.append(_take(blamed, "-1", lambda out: out[-1]))
    return edits


def _take_state(crash: Crash) -> list[Edit]:
    """The last layer's h of the state (h, c) of an LSTM, as it is handed to a layer."""
    is_recurrent = any(isinstance(module, nn.LSTM) for module in crash.modules.values())
    if not is_recurrent or crash.leaf is None:
        return []
    return [adapt_call(crash, lambda state: state[0][-1], "{x}[0][-1]")]


def _take(blamed: str, key: str, function: Any, where: str = "") -> Edit:
    part = {"0": "the first element", "-1": "the last element"}.get(key, f"the entry {key}")
    title = f"take {part} of what {quote(blamed)} returns: {quote(blamed)}(...)[{key}]"
    return AdaptOutput(title=title + where, code=f"{{x}}[{key}]", module=blamed, function=function)


def _pass_indices(crash: Crash, pool: str) -> Edit:
    """A pooling whose indices an unpooling wants, or nobody."""
    kind = nn.modules.pooling._MaxUnpoolNd
    unpool = next((fqn for fqn, module in crash.modules.items() if isinstance(module, kind)), None)
    if unpool is None:
        return configure(crash, pool, return_indices=False)
    title = (
        f"unpack what {quote(pool)} gives, x, indices = {quote(pool)}(...), "
        f"and call {quote(unpool)}(x, indices)"
    )
    return HandIndices(title=title, code="x, indices", module=pool)


def _take_values(crash: Crash, maker: ModuleCall) -> Edit:
    """The values of a function that returns them with their indices: torch.max(x, 1)."""
    name, is_method = operation(maker), maker.kind.startswith("torch.Tensor.")
    called = crash.describe_call(maker)
    return rewrite_call(
        crash,
        maker,
        lambda func, args, kwargs: func(*args, **kwargs)[0],
        title=f"take the first of what {called} returns, the values: {name}(...)[0]",
        code=f"{name}(...)[0]",
        module=crash.owner,
        respell=f"{{x}}.{name}({{rest}})[0]" if is_method else f"{maker.kind}({{x}}, {{rest}})[0]",
    )
