import torch

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.scaler import find_scaler_call

_PROGRAM = """
- model = nn.Linear(6, 4).half()
+ model = nn.Linear(6, 4)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
      scaler = torch.amp.GradScaler("cpu")
      output = model(torch.randn(5, 6).to(model.weight.dtype)).float()
      scaler.scale(F.cross_entropy(output, torch.tensor([0, 1, 2, 3, 1]))).backward()
      scaler.step(optimizer)
      scaler.update()
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="without .half()", is_tried=False)


@cause("CP094", "scaled-half-weights", EXAMPLE, stage="step", prior=940)
def scaled_half_weights(crash: Crash) -> Suspects:
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
    yield blame(
        halves[0] if len(halves) == 1 else "",
        "a GradScaler needs weights in float32, but these and their gradients are float16",
        propose(Advice(title=title, code="torch.autocast")),
        arithmetic=f"gradients {gradient.dtype}{layers}",
    )
