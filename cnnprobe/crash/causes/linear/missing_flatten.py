from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import adapt_call, configure, flatten, insert_before, keep_present
from cnnprobe.crash.edits.reshaping import flatten_otherwise
from cnnprobe.crash.facts.products import MatrixProduct, find_product, find_reshaping
from cnnprobe.crash.facts.words import count_elements, quote, write_product
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 8, 3, padding=1)
          self.pool = nn.MaxPool2d(2)
          self.fc = nn.Linear(8 * 16 * 16, 10)
      def forward(self, x):
          x = self.pool(F.relu(self.conv(x)))
-         return self.fc(x)
+         return self.fc(torch.flatten(x, 1))
  model, args = Net(), (torch.randn(4, 3, 32, 32),)
"""
EXAMPLE = Example(_PROGRAM, blames="fc", repair="torch.flatten(x, 1)")


@cause("CP001", "missing-flatten", EXAMPLE, prior=799)
def missing_flatten(crash: Crash) -> Suspects:
    """A Linear got a feature map that was not flattened.

    Why it happens: a Linear works on the last dim alone. A map (N, C, H, W) has to become
    (N, C * H * W) first; a global pooling leaves (N, C, 1, 1), which has to be flattened too.
    What to do: flatten all dims but the first: nn.Flatten() before the Linear, or
    torch.flatten(x, 1) in the forward.
    Known exceptions: a Linear over the channels of a map wants them on the last dim instead.
    Source: docs of torch.nn.Linear and torch.nn.Flatten.
    """
    if (found := find_product(crash)) is None or len(found.x.shape) < 3:
        return
    shape = found.x.shape
    is_exact = count_elements(shape[1:]) == found.wanted
    is_unpooled = len(shape) == 4 and shape[1] == found.wanted
    if len(shape) == 3 and not is_exact:
        return
    layer, origin = crash.describe_module(found.module), crash.describe_origin(found.x)
    arithmetic = f"{quote(found.module)} expects {found.wanted} features; "
    partial = _find_partial_flatten(crash, found) if is_exact else None
    if partial is not None:
        message = (
            f"{crash.describe_call(partial)} leaves several dims for each sample, {shape}, but "
            f"{layer} expects one"
        )
        arithmetic += f"{write_product(shape[1:])} arrives as {shape}"
        candidates = (_flatten_fully(crash, partial), *_propose_flattening(crash, found))
    elif is_exact:
        message = (
            f"the flatten between {origin} and {layer} is missing: {shape} arrives unflattened"
        )
        arithmetic += f"{write_product(shape[1:])} arrives as {shape}"
        candidates = _propose_flattening(crash, found)
    elif is_unpooled:
        message = f"{layer} got {shape}, which is neither pooled nor flattened"
        arithmetic += f"the map has {shape[1]} channels of {shape[2]} x {shape[3]}"
        candidates = _propose_pooling(crash, found)
    else:
        total = count_elements(shape[1:])
        message = f"{layer} got {shape} unflattened, and flattened it would have {total} features"
        arithmetic += write_product(shape[1:])
        candidates = _propose_flattening(crash, found, in_features=total)
    yield blame(
        crash.find_container(found.module) if found.is_layer else found.module,
        message,
        *candidates,
        arithmetic=arithmetic,
        weight=STRONG if is_exact else USUAL,
    )


def _find_partial_flatten(crash: Crash, found: MatrixProduct) -> ModuleCall | None:
    """The flatten before it that leaves out some dims: flatten(1, 2), nn.Flatten(2)."""
    call = find_reshaping(crash, found.x)
    info = find(call) if call is not None else None
    is_whole = call is not None and call.outputs[0].shape == found.x.shape
    return call if info is not None and info.name == "flatten" and is_whole else None


def _flatten_fully(crash: Crash, call: ModuleCall) -> Candidate:
    if call.fqn is not None:
        return propose(configure(crash, call.fqn, start_dim=1, end_dim=-1), weight=STRONG)
    return propose(flatten_otherwise(crash, call), weight=STRONG)


def _propose_flattening(
    crash: Crash, found: MatrixProduct, **changes: int
) -> tuple[Candidate, ...]:
    """A flatten before the Linear, which may need another in_features as well."""
    if changes and not found.is_layer:
        return ()
    layer = [configure(crash, found.module, **changes)] if changes else []
    edits = keep_present(
        insert_before(crash, found.module, nn.Flatten, "nn.Flatten()") if found.is_layer else None,
        adapt_call(crash, flatten, "torch.flatten({x}, 1)"),
    )
    return tuple(propose(edit, *layer, weight=USUAL if layer else STRONG) for edit in edits)


def _propose_pooling(crash: Crash, found: MatrixProduct) -> tuple[Candidate, ...]:
    code = "nn.AdaptiveAvgPool2d(1), nn.Flatten()"

    def make() -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    edits = keep_present(
        insert_before(crash, found.module, make, code) if found.is_layer else None,
        adapt_call(crash, lambda x: x.mean((-2, -1)), "{x}.mean((-2, -1))"),
    )
    to_last = adapt_call(crash, lambda x: x.permute(0, 2, 3, 1), "{x}.permute(0, 2, 3, 1)")
    return (*map(propose, edits), propose(to_last, weight=POSSIBLE))
