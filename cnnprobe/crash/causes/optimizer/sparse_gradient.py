from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.cause import Candidate, Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.layers import Reconfigure
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.frames import find_optimizer
from cnnprobe.crash.facts.saved import name_parameters
from cnnprobe.crash.facts.words import quote

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.table = nn.Embedding(10, 4, sparse=True)
+         self.table = nn.Embedding(10, 4)
          self.fc = nn.Linear(4, 1)
      def forward(self, x):
          return self.fc(self.table(x))
  model = Net()
  def run(model):
      optimizer = torch.optim.AdamW(model.parameters())
      model(torch.tensor([1, 2])).sum().backward()
      optimizer.step()
"""
EXAMPLE = Example(_PROGRAM, blames="table", repair="set sparse=False in 'table'")


@cause("CP0F2", "sparse-gradient", EXAMPLE, stage="step", prior=760)
def sparse_gradient(crash: Crash) -> Suspects:
    """An optimizer got a sparse gradient, which its step does not take.

    Why it happens: an embedding that is built with sparse=True has a sparse gradient. Most
    optimizers, and weight decay, need dense ones.
    What to do: build it with sparse=False, or step it with SGD or SparseAdam.
    Known exceptions: SGD without weight decay, Adagrad and SparseAdam take sparse gradients.
    Source: PyTorch, torch.nn.Embedding, sparse.
    """
    if (optimizer := find_optimizer(crash.error)) is None:
        return
    for i, group in enumerate(optimizer.param_groups):
        sparse = [p for p in group["params"] if p.grad is not None and p.grad.is_sparse]
        if sparse and _refuses(optimizer, i):
            yield _suspect(crash, optimizer, i, sparse)
            return


def _suspect(crash: Crash, optimizer: Any, index: int, sparse: list[Tensor]) -> Suspect:
    kind, names = type(optimizer).__name__, name_parameters(crash)
    known = [names[id(p)] for p in sparse if id(p) in names]
    owner = crash.owner_of_parameter(known[0]) if known else None
    what = quote(known[0]) if known else f"a parameter of {tuple(sparse[0].shape)}"
    candidates: list[Candidate] = []
    if owner is not None and getattr(crash.modules.get(owner), "sparse", False) is True:
        what += f": {crash.describe_module(owner)} is built with sparse=True"

        def check() -> str:
            _step(optimizer, index, is_sparse=False)
            return f"{kind} steps with a dense gradient"

        dense = Reconfigure(title="", module=owner, changes={"sparse": False})
        edit = Check(
            title=f"set sparse=False in {quote(owner)}",
            code="sparse=False",
            module=owner,
            check=check,
            written=lambda: dense.write(crash, (dense,)),
        )
        candidates.append(propose(edit))
    title = "or leave it out of this optimizer, and step it with torch.optim.SparseAdam"
    candidates.append(propose(Advice(title=title, code="torch.optim.SparseAdam([weight])")))
    message = f"{kind} does not take the sparse gradient of {what}"
    arithmetic = (
        f"{len(sparse)} of {sum(len(g['params']) for g in optimizer.param_groups)} "
        "parameters of the optimizer have a sparse gradient"
    )
    return blame(owner, message, *candidates, arithmetic=arithmetic, raised_in=f"{kind}.step")


def _step(optimizer: Any, index: int, *, is_sparse: bool) -> None:
    """A step of another optimizer of the kind over one small parameter."""
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.ones(2, 2).to_sparse(1) if is_sparse else torch.ones(2, 2)
    type(optimizer)([{**optimizer.param_groups[index], "params": [weight]}]).step()


def _refuses(optimizer: Any, index: int) -> bool:
    """Whether it is the sparse gradient that it does not take."""
    try:
        _step(optimizer, index, is_sparse=False)
    except Exception:  # it takes no step at all
        return False
    try:
        _step(optimizer, index, is_sparse=True)
    except Exception:  # whatever it says
        return True
    return False
