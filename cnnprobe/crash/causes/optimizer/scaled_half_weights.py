"""A GradScaler over weights in half precision."""

from collections.abc import Iterator

import torch

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.scaler import find_scaler_call
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    model = nn.Linear(6, 4).half()


    def run(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        output = model(torch.randn(5, 6).to(model.weight.dtype)).float()
        scaler.scale(F.cross_entropy(output, torch.tensor([0, 1, 2, 3, 1]))).backward()
        scaler.step(optimizer)
        scaler.update()
    """,
    old="nn.Linear(6, 4).half()",
    new="nn.Linear(6, 4)",
    blames="",
    repair="without .half()",
    is_tried=False,
)


@cause(code="CP094", name="scaled-half-weights", stage="step", prior=940, examples=EXAMPLE)
def scaled_half_weights(crash: Crash) -> Iterator[Suspect]:
    """A GradScaler met gradients in float16, because the weights are in float16.

    Why it happens: the scaler multiplies the loss, so that small gradients survive the casts of
    autocast. It divides the gradients in float32, in which the weights have to be.
    What to do: leave the model in float32 and run the forward under torch.autocast.
    Known exceptions: bfloat16 has the range of float32 and needs no scaler.
    Source: PyTorch, torch.amp.GradScaler.unscale_.
    """
    call = find_scaler_call(crash)
    gradient = getattr(call.values.get("param"), "grad", None) if call is not None else None
    if call is None or call.function != "_unscale_grads_" or gradient is None:
        return
    if gradient.dtype is not torch.float16:
        return
    halves = [
        fqn
        for fqn, module in crash.modules.items()
        if any(p is not None and p.dtype is torch.float16 for p in module._parameters.values())
    ]
    layers = f", {len(halves)} layer{'s' * (len(halves) != 1)} in float16" if halves else ""
    title = "leave the model in float32, without .half(), and run the forward under torch.autocast"
    yield Suspect(
        module=halves[0] if len(halves) == 1 else "",
        message="a GradScaler needs weights in float32, but these and their gradients are float16",
        arithmetic=f"gradients {gradient.dtype}{layers}",
        candidates=(propose(Advice(title=title, code="torch.autocast")),),
        weight=STRONG,
    )
