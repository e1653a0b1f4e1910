"""A statement that lacks what those like it have."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import complete
from cnnprobe.diagnosis.evidence.texts import OddStatement
from cnnprobe.rulebook.material import classifying, images


def _train(model: Any) -> Mapping[str, Any]:
    return classifying(model, inputs=images())


def sick() -> Mapping[str, Any]:
    """Three residual steps, of which the second adds nothing."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 4)
            self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            x = x + F.relu(self.a(x))
            x = F.relu(self.b(x))
            x = x + F.relu(self.c(x))
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    return _train(Net())


def healthy() -> Mapping[str, Any]:
    """The first does not, as the number of channels changes there."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 4)
            self.b, self.c, self.d = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

        def forward(self, x: Any) -> Any:
            x = F.relu(self.a(x))
            x = x + F.relu(self.b(x))
            x = x + F.relu(self.c(x))
            x = x + F.relu(self.d(x))
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    return _train(Net())


@rule(
    code="CP323",
    name="sibling-differs",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def sibling_differs(evidence: Evidence) -> Iterator[Finding]:
    """One statement of a forward lacks a part that the equal ones before and behind it have: a
    skip, a normalisation, an activation.

    Why it matters: of blocks that are written out one by one, one was copied or edited wrongly.
    What to do: write it as the others, or loop over the blocks.
    Known exceptions: the first and the last of a row, and two statements that differ: what is meant
    differs there. A part that the sizes do not allow stays away.
    Source: the text of the forward; copies with an edit that was forgotten are a kind of their own:
    Li et al. 2006, "CP-Miner", doi:10.1109/TSE.2006.28.
    """
    if not complete(evidence):
        return
    for odd in evidence.texts.odd:
        if odd.lacks.startswith(("+", "*")) and _changes_shape(evidence, odd):
            continue
        others = ", ".join(map(str, odd.lines))
        yield Finding(
            module=odd.module,
            message=(
                f"{odd.function} has `{odd.text}`, and lines {others} around it, which are the "
                f"same but for the names of their layers, have {odd.lacks} too"
            ),
            fix=f"write it as `{odd.usual}`, with its own layers, or say in a comment why not",
            source=odd.source,
        )


def _changes_shape(evidence: Evidence, odd: OddStatement) -> bool:
    """Whether what goes into the layers of a statement has another shape than what comes out, so
    that it could not be added.
    """
    prefix = f"{odd.module}." if odd.module else ""
    names = {prefix + name for name in odd.layers}
    calls = [c for c in evidence.trace.calls if c.fqn in names and c.inputs and c.outputs]
    if not calls:
        return False
    given, made = calls[0].inputs[0].shape, calls[-1].outputs[0].shape
    # one element spreads over all, as the weights of a squeeze-and-excitation do
    return len(given) != len(made) or any(
        a != b and 1 not in (a, b) for a, b in zip(given, made, strict=True)
    )
