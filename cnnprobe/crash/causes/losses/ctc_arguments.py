import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, cause, propose
from cnnprobe.crash.edits.outside import ChangeLoss
from cnnprobe.crash.facts.losses import FailingLoss, list_losses, suspect_loss

_PROGRAM = """
  model = nn.LSTM(8, 5, batch_first=True)
  def run(model):
      log_probs = model(torch.randn(3, 12, 8))[0].log_softmax(2)
      targets = torch.randint(1, 5, (3, 4))
      lengths = torch.full((3,), 12), torch.full((3,), 4)
-     nn.CTCLoss()(log_probs, targets, *lengths).backward()
+     nn.CTCLoss()(log_probs.transpose(0, 1), targets, *lengths).backward()
"""
EXAMPLE = Example(_PROGRAM, repair="pass log_probs.transpose(0, 1)")
_Fault = tuple[str, str, ChangeLoss | None]  # what is wrong, its numbers, what may mend it


@cause("CP080", "ctc-arguments", EXAMPLE, stage="loss", family="target-shape", prior=775)
def ctc_arguments(crash: Crash) -> Suspects:
    """A CTC loss got a layout, lengths or a blank that do not fit each other.

    Why it happens: it expects log-probabilities as (T, N, C), time first; one input length and
    one target length for each of N samples; input lengths of at most T, as they leave the model;
    and targets as (N, S), or all in one row as long as the target lengths together.
    What to do: transpose the output, and count the lengths on what the model gives.
    Known exceptions: (T, C) for a single sequence.
    Source: torch.nn.CTCLoss, "Shape".
    """
    for found in list_losses(crash):
        x = found.input
        if found.name != "ctc_loss" or not isinstance(x, Tensor) or x.dim() not in (2, 3):
            continue
        for message, arithmetic, change in itertools.islice(_list_faults(found), 1):
            candidates = [propose(change)] if change is not None else []
            text = f"{found.shown} {message}{_mention_change(crash, found)}"
            yield suspect_loss(found, text, candidates, arithmetic=arithmetic)


def _list_faults(found: FailingLoss) -> Iterator[_Fault]:
    """What does not fit, the most telling first."""
    x = found.input if found.input.dim() == 3 else found.input.unsqueeze(1)
    steps, samples, classes = x.shape
    inputs, targets = _read_lengths(found, "input_lengths"), _read_lengths(found, "target_lengths")
    if not inputs or not targets:
        return
    shapes = f"log_probs {tuple(found.input.shape)}, targets {_shape(found.target)}"
    counts = f"{shapes}; {len(inputs)} input lengths, {len(targets)} target lengths"
    if len(inputs) == len(targets) == steps != samples:
        text = "expects log_probs of shape (T, N, C), but the batch is dim 0"
        yield text, counts, found.give("log_probs.transpose(0, 1)")
    full = f"torch.full(({samples},), {steps})"
    if len(inputs) != samples:
        text = f"expects {samples} input lengths, one a sample, but got {len(inputs)}"
        options = {"input_lengths": torch.full((samples,), steps)}
        yield text, counts, found.give(f"input_lengths={full}", options=options)
    elif max(inputs) > steps:
        code = full if len(set(inputs)) == 1 else f"input_lengths * {steps} // {max(inputs)}"
        text = f"got an input length of {max(inputs)}, but the output has {steps} steps"
        options = {"input_lengths": torch.tensor(inputs) * steps // max(inputs)}
        change = found.give(f"input_lengths={code}", options=options)
        yield text, f"{shapes}; input lengths {inputs[:8]}", change
    if len(targets) != samples:
        text = f"expects {samples} target lengths, one a sample, but got {len(targets)}"
        yield text, counts, None
    yield from _judge_targets(found, targets, samples, shapes)
    blank = found.arguments.get("blank", 0)
    if not 0 <= blank < classes:
        text = f"has blank={blank}, but the output has {classes} classes"
        last = {"blank": classes - 1}
        yield (
            f"{text}: valid are 0 to {classes - 1}",
            shapes,
            found.give(f"blank={classes - 1}", options=last),
        )


def _mention_change(crash: Crash, found: FailingLoss) -> str:
    """The layer that shortened the time axis, where an input length is what the input has."""
    longest = max(_read_lengths(found, "input_lengths"), default=0)
    sizes = [n for t in crash.root_inputs for n in t.shape]
    if longest not in sizes or longest <= found.input.shape[0]:
        return ""
    for call in crash.trace.calls[1:]:
        layer, shapes = crash.modules.get(call.fqn or ""), [t.shape for t in call.inputs[:1]]
        after = [t.shape for t in call.outputs[:1]]
        if layer is None or layer._modules or call.fqn is None or not shapes or not after:
            continue
        old, new = shapes[0], after[0]
        if len(old) == len(new) and old[-1] == longest > new[-1] and len(old) > 2:
            stride = f" (stride {layer.stride})" if hasattr(layer, "stride") else ""
            return (
                f": the lengths are those of the input, {crash.describe_module(call.fqn)}{stride} "
                f"makes {longest} steps {new[-1]}"
            )
    return ""


def _judge_targets(
    found: FailingLoss, lengths: list[int], samples: int, shapes: str
) -> Iterator[_Fault]:
    target = found.target
    if not isinstance(target, Tensor) or not lengths:
        return
    if target.dim() == 1 and sum(lengths) != target.numel():
        count, total = target.numel(), sum(lengths)
        text = f"got {count} targets in one row, but target lengths that sum to {total}"
        yield text, shapes, None
    elif target.dim() == 2 and max(lengths) > target.shape[1]:
        text = f"got a target length of {max(lengths)}, but targets of {target.shape[1]} columns"
        width = target.shape[1]
        options = {"target_lengths": torch.tensor(lengths).clamp(max=width)}
        clamp = found.give(f"target_lengths.clamp(max={width})", options=options)
        yield text, f"{shapes}; target lengths {lengths[:8]}", clamp
    elif target.dim() == 2 and target.shape[0] != samples:
        yield f"expects {samples} rows of targets, but got {target.shape[0]}", shapes, None


def _read_lengths(found: FailingLoss, name: str) -> list[int]:
    value: Any = found.arguments.get(name)
    if isinstance(value, Tensor):
        value = [] if value.is_meta else value.flatten().tolist()
    return [int(n) for n in value] if isinstance(value, list | tuple) else []


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
