"""A backward from a tensor of several values."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.losses import differentiated
from cnnprobe.crash.facts.saved import find_start
from cnnprobe.crash.suspect import STRONG, Candidate, Suspect, propose

EXAMPLE = Example(
    """
    model = nn.Linear(6, 4)


    def run(model):
        criterion = nn.CrossEntropyLoss(reduction="none")
        criterion(model(torch.randn(5, 6)), torch.tensor([0, 1, 2, 3, 1])).backward()
    """,
    old='nn.CrossEntropyLoss(reduction="none")',
    new="nn.CrossEntropyLoss()",
    blames=None,
    repair="loss.mean().backward()",
)


@cause(code="CP087", name="non-scalar-loss", stage="backward", prior=890, examples=EXAMPLE)
def non_scalar_loss(crash: Crash) -> Iterator[Suspect]:
    """The loss has several values, but backward() starts from one.

    Why it happens: a loss with reduction="none", or the output itself, has a value for each sample.
    What to do: reduce it: loss.mean(), or loss.sum().
    Known exceptions: backward(gradient) starts from several values, weighted by the gradient.
    Source: PyTorch, torch.Tensor.backward.
    """
    loss = differentiated(crash)
    if loss is None or not loss.requires_grad or find_start(crash) is not None:
        return
    evidence = ("a loss with reduction='none' is for you to reduce",) if loss.dim() else ()
    yield Suspect(
        module=None,
        message=f"the loss has the shape {tuple(loss.shape)}, but backward() starts from one number",
        arithmetic=f"{loss.numel()} elements",
        candidates=tuple(_reduce(crash, loss, name) for name in ("mean", "sum")),
        weight=STRONG,
        evidence=evidence,
        tensors=(loss,),
    )


def _reduce(crash: Crash, loss: Tensor, name: str) -> Candidate:
    parameters = [p for m in crash.modules.values() for p in m._parameters.values()]
    trained = [p for p in parameters if p is not None and p.requires_grad]

    def check() -> str:
        scalar = getattr(loss, name)()
        found = torch.autograd.grad(scalar, trained, retain_graph=True, allow_unused=True)
        reached = sum(gradient is not None for gradient in found)
        return f"the backward passes, and gradients reach {reached} of {len(trained)} parameters"

    code = f"loss.{name}()"
    title = f"call {code}.backward()"
    return propose(
        Check(title=title, code=code, check=check) if trained else Advice(title=title, code=code)
    )
