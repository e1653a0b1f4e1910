"""Output and targets on different devices."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.losses import list_losses
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    model = nn.Linear(6, 4)


    def run(model):
        labels = torch.zeros(5, dtype=torch.long, device="meta")
        F.cross_entropy(model(torch.randn(5, 6)), labels).backward()
    """,
    old=', device="meta"',
    new="",
    repair="move the targets: targets.to('cpu')",
)


@cause(
    code="CP071",
    name="loss-on-two-devices",
    stage="loss",
    family="device-mismatch",
    prior=770,
    examples=EXAMPLE,
)
def loss_on_two_devices(crash: Crash) -> Iterator[Suspect]:
    """The output and the targets of a loss are on different devices.

    Why it happens: a loader gives its batches on the CPU; the model and its output are on the GPU.
    What to do: move the targets of each batch as well as its inputs.
    Known exceptions: none.
    Source: PyTorch, "CUDA semantics".
    """
    for found in list_losses(crash):
        x, target = found.input, found.target
        if not isinstance(x, Tensor) or not isinstance(target, Tensor) or x.device == target.device:
            continue
        code = f"targets.to({str(x.device)!r})"
        change = found.change(code, _move_targets, title=f"move the targets: {code}")
        yield Suspect(
            module=None,
            message=f"{found.shown} got an output on {x.device}, but targets on {target.device}",
            arithmetic=f"output {tuple(x.shape)} on {x.device}, "
            f"targets {tuple(target.shape)} on {target.device}",
            candidates=(propose(change),),
            weight=STRONG,
            needs_proof=found.is_own,
            tensors=(x, target),
            raised_in=found.shown,
        )
        return


def _move_targets(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if target.is_meta:  # it has no values to move
        return x, torch.zeros(target.shape, dtype=target.dtype, device=x.device)
    return x, target.to(x.device)
