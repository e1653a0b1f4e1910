import ast
from collections.abc import Iterable

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.edits.method import change_method
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.methods import find_method, list_layers_read
from cnnprobe.crash.facts.products import find_product
from cnnprobe.crash.facts.words import quote

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv1 = nn.Conv2d(3, 8, 3)
          self.conv2 = nn.Conv2d(8, 16, 3)
      def forward(self, x):
-         x = F.relu(self.conv2(x))
-         x = F.relu(self.conv1(x))
+         x = F.relu(self.conv1(x))
+         x = F.relu(self.conv2(x))
          return x.mean((2, 3))
  model, args = Net(), (torch.randn(2, 3, 9, 9),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="call 'conv1' before 'conv2'")
_WIDTHS = ("in_channels", "in_features")


@cause("CP0H7", "layers-swapped", EXAMPLE, family="shape-mismatch", prior=796)
def layers_swapped(crash: Crash) -> Suspects:
    """Two layers of a forward are called in the wrong order.

    Why it happens: the lines were written or pasted in another order than the layers were made.
    What to do: exchange the two lines.
    Known exceptions: reported only where the forward passes with the lines exchanged.
    Source: none; the sizes say it.
    """
    product, mismatch = find_product(crash), find_mismatch(crash)
    if product is not None and product.is_layer:
        module, got = product.module, product.got
    elif mismatch is not None and mismatch.kind == "conv" and mismatch.setting:
        module, got = mismatch.module, mismatch.got
    else:
        return
    parent, _, name = module.rpartition(".")
    method = find_method(crash.modules[parent], parent)
    names = list_layers_read(method) if method is not None else []
    if method is None or names.count(name) != 1:
        return
    for other in names[names.index(name) + 1 :]:
        layer = crash.modules.get(f"{parent}.{other}" if parent else other)
        is_alike = layer is not None and type(layer) is type(crash.modules[module])
        if not is_alike or names.count(other) != 1 or got not in _read_widths(layer):
            continue
        title = f"call {quote(other)} before {quote(name)}"
        swap = change_method(method, title, lambda f, n, o=other: _exchange(f, n, name, o))  # type: ignore[misc]
        if swap is not None:
            yield blame(
                parent,
                f"{crash.describe_module(module)} is called before {quote(other)}, but it is "
                f"{quote(other)} that takes {got}",
                swap,
                arithmetic=f"{quote(name)} expects {_read_widths(crash.modules[module])[0]}",
                weight=STRONG + 1,
                needs_proof=True,
            )
            return


def _read_widths(layer: object) -> list[int]:
    return [getattr(layer, name) for name in _WIDTHS if hasattr(layer, name)]


def _exchange(file: File, node: ast.FunctionDef, first: str, second: str) -> Iterable[TextChange]:
    """The statements of two layers, each in the place of the other; the names, within one."""
    a, b = (_find_statement(node, name) for name in (first, second))
    if a is not b:
        texts = [file.text[slice(*file.span(one))] for one in (a, b)]
        return [file.replace(a, texts[1]), file.replace(b, texts[0])]
    found = {n.attr: n for n in ast.walk(a) if isinstance(n, ast.Attribute)}
    names = (f"self.{second}", f"self.{first}")
    return [file.replace(found[n], t) for n, t in zip((first, second), names, strict=True)]


def _find_statement(function: ast.FunctionDef, name: str) -> ast.stmt:
    """The statement of a method's own block that calls a layer."""
    for statement in function.body:
        names = [n.attr for n in ast.walk(statement) if isinstance(n, ast.Attribute)]
        if name in names and not hasattr(statement, "body"):
            return statement
    raise UnknownPlaceError
