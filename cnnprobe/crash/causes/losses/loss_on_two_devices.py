from dataclasses import replace

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, cause, propose
from cnnprobe.crash.facts.losses import list_comparisons, suspect_loss

_PROGRAM = """
  model = nn.Linear(6, 4)
  def run(model):
-     labels = torch.zeros(5, dtype=torch.long, device="meta")
+     labels = torch.zeros(5, dtype=torch.long)
      F.cross_entropy(model(torch.randn(5, 6)), labels).backward()
"""
EXAMPLE = Example(_PROGRAM, repair="move the targets: targets.to('cpu')")


@cause("CP071", "loss-on-two-devices", EXAMPLE, stage="loss", family="device-mismatch", prior=770)
def loss_on_two_devices(crash: Crash) -> Suspects:
    """The output and the targets of a loss are on different devices.

    Why it happens: a loader gives its batches on the CPU; the model and its output are on the GPU.
    What to do: move the targets of each batch as well as its inputs.
    Known exceptions: none.
    Source: PyTorch, "CUDA semantics".
    """
    for found, x, target in list_comparisons(crash):
        if x.device == target.device:
            continue
        code = f"targets.to({str(x.device)!r})"
        move = replace(found.give(code, title=f"move the targets: {code}"), function=_move_targets)
        message = f"got an output on {x.device}, but targets on {target.device}"
        yield suspect_loss(found, f"{found.shown} {message}", [propose(move)])
        return


def _move_targets(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if target.is_meta:  # it has no values to move
        return x, torch.zeros(target.shape, dtype=target.dtype, device=x.device)
    return x, target.to(x.device)
