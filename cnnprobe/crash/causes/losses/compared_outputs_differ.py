from collections import Counter

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.losses import list_losses, suspect_loss

_PROGRAM = """
  class Pair(nn.Module):
      def __init__(self):
          super().__init__()
          self.image = nn.Linear(6, 8)
-         self.text = nn.Linear(5, 16)
+         self.text = nn.Linear(5, 8)
      def forward(self, image, text):
          return self.image(image), self.text(text)
  model = Pair()
  def run(model):
      a, b = model(torch.randn(3, 6), torch.randn(3, 5))
      nn.CosineEmbeddingLoss()(a, b, torch.ones(3)).backward()
"""
EXAMPLE = Example(_PROGRAM, blames="text", repair="set out_features=8 in 'text'")


@cause(
    "CP077", "compared-outputs-differ", EXAMPLE, stage="loss", family="shape-mismatch", prior=780
)
def compared_outputs_differ(crash: Crash) -> Suspects:
    """A loss compares outputs that have different shapes.

    Why it happens: the encoders of a pair or a triplet end in layers of different sizes.
    What to do: give the last layers of all of them the same number of features.
    Known exceptions: none.
    Source: torch.nn.CosineEmbeddingLoss and torch.nn.TripletMarginLoss, "Shape".
    """
    for found in list_losses(crash):
        shapes = [tuple(t.shape) for t in found.compared]
        if len(set(shapes)) < 2:
            continue
        edits = _refit_heads(crash, Counter(shapes).most_common(1)[0][0])
        distinct = " and ".join(map(str, dict.fromkeys(shapes)))
        yield suspect_loss(
            found,
            f"{found.shown} expects outputs of one shape, but got {distinct}",
            [propose(*edits)] if edits else [],
            module=edits[0].module if edits else None,
            arithmetic="; ".join(map(str, shapes)),
            tensors=tuple(found.compared),
        )


def _refit_heads(crash: Crash, wanted: tuple[int, ...]) -> list[Edit]:
    """The last Linear of each output of another size, as wide as the others."""
    edits: list[Edit] = []
    for info in crash.trace.calls[0].outputs if crash.trace.calls else ():
        made = crash.find_producer(info)
        fqn = made.fqn if made is not None else None
        is_odd = info.shape[:-1] == wanted[:-1] and info.shape != wanted
        if is_odd and fqn is not None and isinstance(crash.modules.get(fqn), nn.Linear):
            edits.append(configure(crash, fqn, out_features=wanted[-1]))
    return edits
