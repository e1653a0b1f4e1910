import inspect

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause
from cnnprobe.crash.edits.method import add_return
from cnnprobe.crash.facts.arrivals import Arrival, find_arrival
from cnnprobe.crash.facts.frames import list_called, list_frames, list_names
from cnnprobe.crash.facts.methods import Method, find_failing_method, find_method
from cnnprobe.crash.facts.source import returns_nothing

_PROGRAM = """
  class Block(nn.Module):
      def __init__(self, i, o):
          super().__init__()
          self.conv = nn.Conv2d(i, o, 3, padding=1)
      def forward(self, x):
-         x = F.relu(self.conv(x))
+         return F.relu(self.conv(x))
  model, args = nn.Sequential(Block(3, 8), nn.Conv2d(8, 2, 1)), (torch.randn(1, 3, 8, 8),)
"""
EXAMPLE = Example(
    _PROGRAM, blames="0", repair="end the forward of '0' (Block) with a return: return x"
)


@cause("CP054", "none-for-tensor", EXAMPLE, family="not-a-tensor", prior=897)
def none_for_tensor(crash: Crash) -> Suspects:
    """None stands where a tensor was meant.

    Why it happens: a forward without a return returns None, or an argument kept its default None.
    What to do: end the forward with return; pass the argument, or skip what needs it.
    Known exceptions: none.
    Source: section 4.7, "Defining Functions", of the tutorial of Python.
    """
    if (found := find_arrival(crash)) is None or found.value is not None:
        return
    method, who = _find_giver(crash, found)
    if method is None:
        yield _blame_argument(crash, found)
        return
    is_without = returns_nothing(method.function)
    title = f"end the {method.name} of {who} with a return"
    edit = add_return(method, title)
    message = f"{found.message}; the {method.name} of {who} returned it" + (
        ": it has no return" if is_without else ""
    )
    yield blame(method.fqn, message, edit, advice=(title,))


def _find_giver(crash: Crash, found: Arrival) -> tuple[Method | None, str]:
    """The method that returned None: the forward of a module, or another of the same class."""
    if found.maker is not None:
        fqn = found.maker.fqn or ""
        return find_method(crash.modules[fqn], fqn), crash.describe_module(fqn)
    here = find_failing_method(crash)
    for name in list_called(crash.error) if here is not None else ():
        method = find_method(here.module, here.fqn, name)  # type: ignore[union-attr]
        if method is not None and returns_nothing(method.function):
            return method, crash.describe_module(method.fqn)
    return None, ""


def _blame_argument(crash: Crash, found: Arrival) -> Suspect:
    """None that was passed on, as it was the default of a parameter."""
    is_own = found.receiver == crash.index and crash.leaf is None
    above = crash.find_module_above(crash.trace.calls[found.receiver].parent)
    fqn = crash.owner if is_own else above
    name, who = _find_defaulted(crash, fqn), crash.describe_module(fqn)
    why = f"its forward was not given {name!r}, which is None by default"
    return blame(
        fqn,
        f"{found.message}; {who} passes it on" + (f": {why}" if name else ""),
        advice=(f"give {who} {name!r} as well, or skip what needs it where it is None",)
        if name
        else (),
    )


def _find_defaulted(crash: Crash, fqn: str) -> str:
    """The parameter of a forward that kept its default None; by preference on the failing line."""
    module = crash.modules.get(fqn)
    frames = list_frames(crash.error)
    frame = next(
        (f for f in frames if f.f_code.co_name == "forward" and f.f_locals.get("self") is module),
        None,
    )
    if module is None or frame is None:
        return ""
    parameters = inspect.signature(module.forward).parameters
    found = [
        n for n, p in parameters.items() if p.default is None and frame.f_locals.get(n, n) is None
    ]
    line = list_names(crash.error)
    return next((n for n in found if n in line), found[0] if len(found) == 1 else "")
