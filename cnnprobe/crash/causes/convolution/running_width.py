import ast

from torch import nn

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.files import UnknownPlaceError
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.methods import find_method, is_own, open_method
from cnnprobe.crash.facts.words import quote, shorten
from cnnprobe.recorder.inventory import class_of

_PROGRAM = """
  class Block(nn.Module):
      expansion = 4
      def __init__(self, width, planes):
          super().__init__()
          self.conv1 = nn.Conv2d(width, planes, 1)
          self.conv2 = nn.Conv2d(planes, planes * 4, 1)
      def forward(self, x):
          return self.conv2(F.relu(self.conv1(x)))
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.width = 8
          self.stem = nn.Conv2d(3, 8, 3)
          self.layer1 = self.make_layer(4, 3)
          self.layer2 = self.make_layer(8, 3)
      def make_layer(self, planes, count):
          blocks = []
          for i in range(count):
              blocks.append(Block(self.width, planes))
-             self.width = planes
+             self.width = planes * Block.expansion
          return nn.Sequential(*blocks)
      def forward(self, x):
          return self.layer2(self.layer1(F.relu(self.stem(x))))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
EXAMPLE = Example(
    _PROGRAM,
    blames="layer1.1.conv1",
    repair="write self.width = planes * Block.expansion",
    is_tried=False,
)


@cause("CP0J7", "running-width", EXAMPLE, family="channel-mismatch", prior=698)
def running_width(crash: Crash) -> Suspects:
    """A loop builds blocks for another width than the block before puts out.

    Why it happens: a method keeps the width in an attribute, and sets it to the planes of a block;
    a bottleneck puts out `expansion` times as many channels.
    What to do: set the attribute to what the block really puts out, planes * expansion.
    Known exceptions: none.
    Source: torchvision.models.resnet, ResNet._make_layer.
    """
    found = find_mismatch(crash)
    if found is None or found.setting != "in_channels" or found.expected < 1:
        return
    factor, rest = divmod(found.got, found.expected)
    block = _find_block(crash, found.module)
    parent, _, name = block.rpartition(".")
    if rest or factor < 2 or not block or not is_own(crash.modules[block]):
        return
    names = list(crash.modules[parent]._modules)
    at = names.index(name)
    before = f"{parent}.{names[at - 1]}".lstrip(".") if at else ""
    kind = class_of(crash.modules[block])
    row = next((row for row in reversed(crash.trace.calls) if row.fqn == block), None)
    is_given = row is not None and bool(row.inputs) and row.inputs[0].source == found.x.source
    if not at or not is_given or class_of(crash.modules[before]) is not kind:
        return
    if (place := _find_assignment(crash, parent, kind.__name__)) is None:
        return
    target, value, line = place
    by = f"{kind.__name__}.expansion" if getattr(kind, "expansion", 0) == factor else str(factor)
    yield blame(
        found.module,
        f"{quote(before)} ({kind.__name__}) puts out {found.got} channels, but {quote(block)} was "
        f"built for {found.expected}: {line} keeps the width as {target} = {value}",
        f"write {target} = {value} * {by} at {line}",
        arithmetic=f"{found.expected} x {factor} = {found.got}",
        weight=STRONG,
    )


def _find_block(crash: Crash, fqn: str) -> str:
    """The member of a Sequential that a layer is in; "": it is in none."""
    while fqn and type(crash.modules[fqn.rpartition(".")[0]]) is not nn.Sequential:
        fqn = fqn.rpartition(".")[0]
    return fqn


def _find_assignment(crash: Crash, parent: str, kind: str) -> tuple[str, str, str] | None:
    """Where a method that makes blocks of a class sets the attribute that it makes them with."""
    owner = parent
    while owner and not is_own(crash.modules[owner]):
        owner = owner.rpartition(".")[0]
    module = crash.modules[owner]
    for name in vars(class_of(module)):
        try:
            method = find_method(module, owner, name) if is_own(module) else None
            nodes = list(ast.walk(open_method(method.function.__code__)[1])) if method else []
        except (UnknownPlaceError, TypeError):
            continue
        calls = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == kind]
        read = {ast.unparse(argument) for call in calls for argument in call.args}
        for node in [n for n in nodes if isinstance(n, ast.Assign) and method is not None]:
            target = ast.unparse(node.targets[0])
            if target in read and target.startswith("self.") and isinstance(node.value, ast.Name):
                path = method.function.__code__.co_filename  # type: ignore[union-attr]
                return target, node.value.id, shorten(f"{path}:{node.lineno}")
    return None
