"""An input of the model that is zero everywhere, in every step."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, Step, operation
from cnnprobe.diagnosis.evidence.questions import input_stats, rms, spoken, variable
from cnnprobe.records.trace import TensorInfo
from cnnprobe.records.words import format_counted


def _decode(zeros: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source, self.target = nn.Linear(3, 16), nn.Linear(3, 16)
            self.read = nn.MultiheadAttention(16, 2, batch_first=True)
            self.out = nn.Linear(16, 3)

        def forward(self, x: Any, y: Any) -> Any:
            memory, asked = self.source(x), self.target(y)
            return self.out(asked + self.read(asked, memory, memory)[0])

    torch.manual_seed(0)
    model = Decoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train_step(inputs: Any, targets: Any) -> None:
        optimizer.zero_grad()
        given = torch.zeros_like(targets[:, 1:]) if zeros else targets[:, :-1]
        loss = nn.functional.mse_loss(model(inputs, given), targets[:, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    wave = torch.sin(torch.linspace(0, 9, 60)).view(4, 5, 3)
    return {
        "model": model,
        "inputs": wave,
        "targets": wave.roll(1, 0),
        "optimizer": optimizer,
        "train_step": train_step,
    }


def sick() -> Mapping[str, Any]:
    """A decoder is given zeros."""
    return _decode(zeros=True)


def healthy() -> Mapping[str, Any]:
    """It is given the targets, one step back."""
    return _decode(zeros=False)


@rule(code="CP743", name="blank-input", severity=Severity.WARNING, examples=(sick, healthy))
def blank_input(evidence: Evidence) -> Iterator[Finding]:
    """A sequence or map that the step gives to the model is zero everywhere, in every step, and a
    trained layer reads it.

    Why it matters: the layer puts out its bias alone, the same at all positions: what comes after
    cannot tell them apart, and its weights get no gradient.
    What to do: give it what it is to read; to a decoder the targets one step back,
    targets[:, :-1], as in teacher forcing.
    Known exceptions: zeros that are joined with, or added to, something else before a layer reads
    them; states of recurrent layers; calls of the model of which some are given more than zeros.
    Source: the model's inputs in the observed steps; torch.nn.Transformer, "tgt".
    """
    steps = [s for s in evidence.steps if s.losses]
    if len(steps) < 2:
        return
    found = find_blank(steps[0])
    last = find_blank(steps[-1])
    for path, (flow, info, reader) in found.items():
        module = flow.calls[reader].fqn
        if path not in last or module is None:
            continue
        name = variable(evidence, "model")
        yield Finding(
            module=module,
            message=(
                f"input {path} of {name}, of shape {info.shape}, is 0 everywhere in the first and "
                f"the last of {format_counted(len(steps), 'step')}: what "
                f"{spoken(evidence, module)} makes of it is the same at all positions"
            ),
            fix=(
                f"give {name} what this input is to hold: a decoder gets the targets one step "
                "back, targets[:, :-1]"
            ),
            source=flow.line(flow.producer(info)),
        )


def find_blank(step: Step) -> dict[str, tuple[Flow, TensorInfo, int]]:
    """The inputs of the model that are 0 in each of its calls, by path, each with the row of a
    layer with weights that reads it; none where all inputs are.
    """
    flow = Flow(step.trace)
    roots = [flow.calls[i] for i in flow.roots()]
    blank: dict[str, tuple[Flow, TensorInfo, int]] = {}
    for info in roots[0].inputs if roots else ():
        reader = _find_reader(flow, info)
        same = [given for call in roots for given in call.inputs if given.path == info.path]
        if reader is not None and all(rms(input_stats(flow, g)) == 0 for g in same):
            blank[info.path] = (flow, info, reader)
    others = [i for i in (roots[0].inputs if roots else ()) if i.path not in blank]
    return blank if others else {}


def _find_reader(flow: Flow, info: TensorInfo) -> int | None:
    """The layer that reads the input as it is; None where something else does too."""
    made = flow.producer(info)
    if made is None or len(info.shape) < 3 or not info.dtype.startswith(("float", "bfloat")):
        return None
    readers = [i for i in flow.passes_on(made) if flow.is_primitive[i]]
    known = [i for i in readers if operation(flow.calls[i]) in PROJECTIONS]
    return known[0] if len(known) == len(readers) == 1 else None
