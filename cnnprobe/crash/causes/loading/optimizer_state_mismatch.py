"""A state that does not fit the optimizer that it is loaded into."""

from collections.abc import Iterator, Mapping

from torch.optim import Optimizer

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.fc = nn.Linear(16, 2)

        def forward(self, x):
            return self.fc(self.body(x))


    model = Net()


    def run(model):
        saved = torch.optim.Adam(model.parameters()).state_dict()
        optimizer = torch.optim.Adam(model.fc.parameters())
        optimizer.load_state_dict(saved)
    """,
    old="torch.optim.Adam(model.fc.parameters())",
    new="torch.optim.Adam(model.parameters())",
    blames=None,
    repair="make it for the parameters",
    is_tried=False,
)


@cause(
    code="CP0B1",
    name="optimizer-state-mismatch",
    stage="around",
    family="state-mismatch",
    prior=899,
    examples=EXAMPLE,
)
def optimizer_state_mismatch(crash: Crash) -> Iterator[Suspect]:
    """A state does not fit the optimizer that it is loaded into.

    Why it happens: it was saved of an optimizer with other parameters, as layers were added or
    frozen since; or it is the state of the model, or a checkpoint that holds both.
    What to do: make the optimizer for the same parameters, or start it afresh.
    Known exceptions: none.
    Source: torch.optim.Optimizer.load_state_dict.
    """
    found = read_frame(crash.error, "torch/optim/optimizer.py", "load_state_dict") or {}
    optimizer, state = found.get("self"), found.get("state_dict")
    if not isinstance(optimizer, Optimizer):
        return
    kind = type(optimizer).__name__
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    message = f"{kind} got what is no state of an optimizer: it has no param_groups"
    advice = "load what optimizer.state_dict() gave when it was saved"
    if isinstance(state, Mapping) and "param_groups" in state:
        saved = [len(group["params"]) for group in state["param_groups"]]
        if saved == sizes:
            return
        message = f"{kind} holds {_count_groups(sizes)}, but the state is of {_count_groups(saved)}"
        advice = "make it for the parameters that it had when it was saved, or start it afresh"
    yield Suspect(
        module=None,
        message=message,
        candidates=(propose(Advice(title=advice)),),
        weight=STRONG,
        raised_in="load_state_dict",
    )


def _count_groups(sizes: list[int]) -> str:
    groups = "1 group" if len(sizes) == 1 else f"{len(sizes)} groups"
    return f"{' + '.join(map(str, sizes))} parameters in {groups}"
