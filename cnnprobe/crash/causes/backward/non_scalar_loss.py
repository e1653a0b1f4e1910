import torch
from torch import Tensor

from cnnprobe.crash.cause import Candidate, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.losses import differentiated
from cnnprobe.crash.facts.saved import find_start

_PROGRAM = """
  model = nn.Linear(6, 4)
  def run(model):
-     criterion = nn.CrossEntropyLoss(reduction="none")
+     criterion = nn.CrossEntropyLoss()
      criterion(model(torch.randn(5, 6)), torch.tensor([0, 1, 2, 3, 1])).backward()
"""
EXAMPLE = Example(_PROGRAM, repair="loss.mean().backward()")


@cause("CP087", "non-scalar-loss", EXAMPLE, stage="backward", prior=890)
def non_scalar_loss(crash: Crash) -> Suspects:
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
    yield blame(
        None,
        f"the loss has the shape {tuple(loss.shape)}, but backward() starts from one number",
        *(_reduce(crash, loss, name) for name in ("mean", "sum")),
        arithmetic=f"{loss.numel()} elements",
        evidence=evidence,
        tensors=(loss,),
    )


def _reduce(crash: Crash, loss: Tensor, name: str) -> Candidate:
    trained = [p for p in crash.parameters if p.requires_grad]

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
