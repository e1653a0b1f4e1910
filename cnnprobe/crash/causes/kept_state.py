"""A module keeps the graph of an earlier step."""

from collections.abc import Iterator

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.calls import DetachKept
from cnnprobe.crash.edits.writing import add_first_statement
from cnnprobe.crash.facts.saved import find_keepers, find_saved, write_detached
from cnnprobe.crash.facts.source import get_forward
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNNCell(6, 4)
            self.state = torch.zeros(5, 4)

        def forward(self, x):
            self.state = self.cell(x, self.state)
            return self.state


    model = Net()


    def run(model):
        for _ in range(2):
            model(torch.randn(5, 6)).pow(2).mean().backward()
    """,
    old="self.cell(x, self.state)",
    new="self.cell(x, self.state.detach())",
    blames="",
    repair="self.state = self.state.detach()",
)


@cause(
    code="CP085",
    name="state-keeps-graph",
    stage="backward",
    family="backward-twice",
    prior=840,
    examples=EXAMPLE,
)
def kept_state(crash: Crash) -> Iterator[Suspect]:
    """A module keeps a tensor with the graph of an earlier step, which is freed.

    Why it happens: a hidden state, a memory or a running value is kept from step to step with its
    graph. The next backward goes on into the step before.
    What to do: detach it when it is kept. An LSTM's state is a tuple of two: detach both.
    Known exceptions: truncated backpropagation through several steps keeps the graph on purpose,
    and calls backward once for all of them.
    Source: PyTorch, "Word-level language modeling" example, repackage_hidden.
    """
    saved = find_saved(crash)
    if saved.modified or not saved.freed or saved.broke_off:
        return
    for fqn, name, value in list(find_keepers(crash))[:1]:
        code = f"self.{name} = {write_detached(f'self.{name}', value)}"
        forward = getattr(get_forward(crash.modules[fqn]), "__code__", None)
        edit = DetachKept(
            title=f"detach it before it is used again: {code} first in the forward",
            code=code,
            module=fqn,
            name=name,
            written=None if forward is None else add_first_statement(forward, code),
        )
        yield Suspect(
            module=fqn,
            message=f"the attribute '{name}' of {quote(fqn)} keeps the graph of an earlier step, "
            "whose tensors are freed",
            arithmetic=f"{len(saved.freed)} saved tensors are gone, first that of "
            f"{saved.freed[0].node.name()}",
            candidates=(propose(edit),),
            weight=STRONG,
        )
