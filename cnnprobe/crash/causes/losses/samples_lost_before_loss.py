from collections.abc import Iterator

from torch import Tensor, nn

from cnnprobe import operations
from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, cause, propose
from cnnprobe.crash.edits.build import configure, resize_input
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.reshaping import flatten_otherwise, reshape_otherwise
from cnnprobe.crash.facts.losses import FailingLoss, list_comparisons, suspect_loss
from cnnprobe.crash.facts.windows import apply_windows, list_steps
from cnnprobe.crash.facts.words import count_elements, count_of
from cnnprobe.crash.suspect import STRONG, USUAL, Candidates
from cnnprobe.records.trace import ModuleCall

_SIZES = tuple(2**k for k in range(10, 0, -1))  # of images that are usual

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 16, 3, padding=1)
-         self.fc = nn.Linear(1024, 10)
+         self.fc = nn.Linear(4096, 10)
      def forward(self, x):
          x = F.relu(self.conv(x))
-         return self.fc(x.view(-1, 1024))
+         return self.fc(torch.flatten(x, 1))
  model = Net()
  def run(model):
      F.cross_entropy(model(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 2, 3])).backward()
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="use torch.flatten(x, 1) instead of view")


@cause(
    "CP078",
    "samples-lost-before-loss",
    EXAMPLE,
    stage=("loss", "backward"),
    family="batch-merge-view",
    prior=760,
)
def samples_lost_before_loss(crash: Crash) -> Suspects:
    """The output no longer has one row for each sample of the batch.

    Why it happens: x.view(-1, n) moves values into the batch where a sample has not n of them;
    squeeze() drops a batch of one; x[-1] takes the last sample rather than the last step.
    What to do: keep dim 0: torch.flatten(x, 1), squeeze(1), x[:, -1].
    Known exceptions: models that give a row for each patch or box, with as many targets.
    Source: torch.Tensor.view; torch.squeeze, its warning of a batch of size 1.
    """
    for found, x, target in list_comparisons(crash):
        batch = crash.batch
        if batch is None or target.shape[:1] != (batch,) or x.shape[:1] == (batch,):
            continue
        ends = crash.trace.calls[0].outputs
        if ends and ends[0].shape[:1] == (batch,):
            yield _suspect_loop(found, ends[0].shape)
        elif calls := [call for call in crash.trace.calls if _drops_batch(call, batch)]:
            yield _suspect_call(crash, found, calls[0])


def _drops_batch(call: ModuleCall, batch: int) -> bool:
    info = operations.find(call)
    if info is None or info.effect not in ("reshapes", "turns", "selects", "reduces"):
        return False
    if not call.inputs or not call.outputs:
        return False
    return call.inputs[0].shape[:1] == (batch,) != call.outputs[0].shape[:1]


def _suspect_loop(found: FailingLoss, shape: tuple[int, ...]) -> Suspect:
    """The model keeps the batch, but what the loss got of its output does not."""
    x = found.input
    title = f"pass the model's output as it is, {shape}, to the loss"
    give = found.give(f"output.reshape({shape})", title=title)
    message = f"the model gives {shape}, one row for each sample, but {found.shown} got"
    candidates = [propose(give, weight=STRONG)] if x.numel() == count_elements(shape) else []
    return suspect_loss(found, f"{message} {tuple(x.shape)}", candidates, needs_proof=True)


def _suspect_call(crash: Crash, found: FailingLoss, call: ModuleCall) -> Suspect:
    before, after = call.inputs[0].shape, call.outputs[0].shape
    owner = call.fqn if call.fqn is not None else crash.find_module_above(call.parent)
    return suspect_loss(
        found,
        f"{crash.describe_call(call)} does not keep one row for each sample: "
        f"{before} became {after}",
        _keep_rows(crash, call),
        module=owner,
        arithmetic=f"{count_of(before[0], 'sample')} went in, the output is"
        f" {tuple(found.input.shape)}, the targets {tuple(found.target.shape)}",
    )


def _keep_rows(crash: Crash, call: ModuleCall) -> Candidates:
    """What keeps one row for each sample in the place of a call that does not."""
    info = operations.find(call)
    if info is not None and info.effect == "selects":
        yield from _select_step(crash, call)
    if info is None or info.effect not in ("reshapes", "turns"):
        return
    yield propose(*_flatten(crash, call), weight=STRONG)
    x = call.inputs[0]
    if x.shape[1:2] == (1,) and len(x.shape) > 2:
        yield from (propose(edit, weight=STRONG) for edit in _leave_one_place(crash, call))
    is_single = x.shape[1:2] == (1,)
    code = "{x}.flatten(1).mean(1)" if is_single else "{x}.flatten(2).mean(2)"

    def pool(one: Tensor, *_: object) -> Tensor:
        return one.flatten(1).mean(1) if is_single else one.flatten(2).mean(2)

    yield propose(reshape_otherwise(crash, call, pool, code), weight=USUAL)


def _flatten(crash: Crash, call: ModuleCall) -> list[Edit]:
    """torch.flatten(x, 1), with a Linear after it that fits."""
    features = count_elements(call.inputs[0].shape[1:])
    after = crash.trace.calls[crash.trace.calls.index(call) :]
    fqns = [c.fqn for c in after if c.fqn and isinstance(crash.modules.get(c.fqn), nn.Linear)]
    edits: list[Edit] = [flatten_otherwise(crash, call)]
    if fqns and getattr(crash.modules[fqns[0]], "in_features", features) != features:
        edits.append(configure(crash, fqns[0], in_features=features))
    return edits


def _leave_one_place(crash: Crash, call: ModuleCall) -> Iterator[Edit]:
    """What leaves one place of a map of one channel, as a discriminator for smaller images does.

    A smaller image, or a last kernel as large as its map.
    """
    steps = list_steps(crash, call.inputs[0])
    sizes = [s.before for s in steps[:1]]
    if not crash.root_inputs or sizes != [crash.root_inputs[0].shape[2:]]:
        return
    n = len(sizes[0])
    smaller = range(max(sizes[0]) - 1, 0, -1)
    for size in (*(s for s in _SIZES if s in smaller), *smaller):
        if apply_windows([s.window for s in steps], (size,) * n) == (1,) * n:
            yield resize_input((size,) * n, exact=True)
            break
    last = steps[-1]
    is_conv = isinstance(crash.modules.get(last.call.fqn or ""), nn.modules.conv._ConvNd)
    if is_conv and len(set(last.before)) == 1 and not any(last.window.padding):
        yield configure(crash, last.call.fqn or "", kernel_size=last.before[0])


def _select_step(crash: Crash, call: ModuleCall) -> Candidates:
    """The last step of each sample rather than the last sample."""
    if len(call.inputs[0].shape) != 3:
        return
    title = "use x[:, -1] instead of x[-1]" + (" at {place}" if call.source else "")
    step = rewrite_call(
        crash, call, lambda _func, args, _kwargs: args[0][:, -1], title=title, code="{x}[:, -1]"
    )
    wrong = [
        name
        for name, layer in crash.modules.items()
        if isinstance(layer, nn.RNNBase) and not layer.batch_first
    ]
    yield propose(step, *(configure(crash, name, batch_first=True) for name in wrong))
