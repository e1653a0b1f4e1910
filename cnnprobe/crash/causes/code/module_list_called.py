"""A list of modules is called as if it were a module."""

import ast
from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import UnknownPlaceError
from cnnprobe.crash.edits.layers import Exchange
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.facts.frames import list_calls, read_names
from cnnprobe.crash.facts.methods import (
    find_failing_method,
    lacks_forward,
    open_method,
)
from cnnprobe.crash.facts.values import read_attribute
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)])

        def forward(self, x):
            return self.layers(x)


    model, args = Net(), (torch.randn(3, 4),)
    """,
    old="nn.ModuleList([nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)])",
    new="nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))",
    blames="layers",
    repair="make 'layers' an nn.Sequential",
)


@cause(
    code="CP0D1", name="module-list-called", family="missing-forward", prior=1100, examples=EXAMPLE
)
def module_list_called(crash: Crash) -> Iterator[Suspect]:
    """A list of modules is called as if it were a module.

    Why it happens: an nn.ModuleList only holds modules, and a Python list does not even register
    them. In a loop over them, the list is called instead of its element.
    What to do: call the modules one by one, or make the list an nn.Sequential.
    Known exceptions: none.
    Source: torch.nn.ModuleList in the documentation of PyTorch.
    """
    module, call = crash.module, crash.call
    yield from _blame_plain_list(crash)
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict) and lacks_forward(module)
    if is_list and module is not None and call is not None:
        yield _blame_list(crash, call.fqn or "", module)


def _blame_list(crash: Crash, fqn: str, module: nn.Module) -> Suspect:
    children = list(module._modules)

    def chain(old: nn.Module) -> nn.Module:
        return nn.Sequential(*(old._modules[name] for name in children))  # type: ignore[arg-type]

    title = f"make {quote(fqn)} an nn.Sequential, or call its modules one by one"
    edit: Edit = _call_element(crash) or Exchange(
        title=title, code="nn.Sequential(*...)", module=fqn, layer=chain
    )
    kind = type(module).__name__
    return Suspect(
        module=fqn,
        message=f"{quote(fqn)} is an nn.{kind}: it only holds modules, and cannot be called itself",
        candidates=(propose(edit, weight=STRONG),),
        weight=STRONG,
    )


def _blame_plain_list(crash: Crash) -> Iterator[Suspect]:
    """A list or dict of layers that is called; its layers are not registered either."""
    method, calls = find_failing_method(crash), list_calls(crash.error)
    if method is None or not calls or not isinstance(crash.error, TypeError):
        return
    written = ast.unparse(calls[0].func)
    held = read_attribute(calls[0].func, read_names(crash.error))
    layers = list(held.values()) if isinstance(held, dict) else held
    is_held = isinstance(layers, list | tuple) and len(layers) > 1 and written.startswith("self.")
    if not is_held or not all(isinstance(layer, nn.Module) for layer in layers):
        return
    edit: Edit = _call_element(crash) or SetAttribute(
        title=f"write {written} = nn.Sequential(*...) in __init__",
        code="nn.Sequential(*...)",
        module=method.fqn,
        name=written.removeprefix("self."),
        value=lambda _module: nn.Sequential(*layers),
    )
    yield Suspect(
        module=method.fqn,
        message=f"{written} is a {type(held).__name__} of layers, which cannot be called itself",
        arithmetic="the parameters of its layers are not registered either",
        candidates=(propose(edit, weight=STRONG),),
        weight=STRONG,
    )


def _call_element(crash: Crash) -> Edit | None:
    """`for layer in self.layers: x = self.layers(x)`: the one of the loop is meant."""
    method = find_failing_method(crash)
    calls = list_calls(crash.error)
    if method is None or not calls:
        return None
    called = calls[0].func
    try:
        tree = open_method(method.function.__code__)[1]
    except UnknownPlaceError:
        return None
    for loop in [node for node in ast.walk(tree) if isinstance(node, ast.For)]:
        is_same = ast.unparse(loop.iter) == ast.unparse(called)
        if is_same and isinstance(loop.target, ast.Name) and calls[0] in list(ast.walk(loop)):
            return replace_node(method, called, loop.target.id)
    return None
