"""A model of sequences that sees what it is to predict."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls, spoken
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import classifying

# What hands on a whole tensor, and no part of it.
WHOLE = ARRANGING - {"getitem", "masked_select", "index_select", "gather", "diagonal", "diag"}
STEPS = 2  # dims of words, (N, L)
SEEN = 1e-4  # of the output's size


def _predicting(causal: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.fc = nn.Embedding(12, 16), nn.Linear(16, 12)
            self.attend = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
            hidden = hidden.triu(1) if causal else hidden.tril(-1)
            words = self.words(x)
            return self.fc(words + self.attend(words, words, words, attn_mask=hidden)[0])

    def loss_fn(scores: Any, targets: Any) -> Any:
        return nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())

    torch.manual_seed(0)
    words = torch.randint(12, (8, 9))
    return classifying(Net(), inputs=words[:, :-1], targets=words[:, 1:], loss_fn=loss_fn)


def sick() -> Mapping[str, Any]:
    """The mask is True for the past."""
    return _predicting(False)


def healthy() -> Mapping[str, Any]:
    """It is True for the future."""
    return _predicting(True)


@rule(code="CP715", name="future-seen", severity=Severity.ERROR, examples=(sick, healthy))
def future_seen(evidence: Evidence) -> Iterator[Finding]:
    """The targets are the inputs one step on, and the outputs depend on later inputs; or the
    targets are the words that the model is given, at the same steps.

    Why it matters: the model reads the answer from its input. The loss is near 0, and what it
    generates step by step is worthless.
    What to do: a causal mask, torch.ones(T, T, dtype=torch.bool).triu(1): True where torch's
    layers may not attend; is_causal=True in scaled_dot_product_attention; padding on the left alone
    of a convolution; no bidirectional recurrence. Give the model words[:, :-1], and the loss
    words[:, 1:].
    Known exceptions: models that carry a state from call to call, which are not judged; steps whose
    target is -100, as those of a prefix that is read as a whole; of targets at the same steps
    words that are masked, and codes of a whole sequence, which lose the steps on the way.
    Source: two forward passes in eval mode, with other inputs in the second half of the sequence;
    Vaswani et al. 2017, arXiv:1706.03762, section 3.1.
    """
    yield from _find_copied(evidence)
    seen = evidence.foresight
    if seen is None or seen.future <= SEEN or evidence.probes.keeps_state:
        return
    blind = "; those of the first half change nothing after it" if seen.past <= SEEN else ""
    yield Finding(
        module=seen.module,
        message=(
            "the targets are the inputs one step on, and inputs from step "
            f"{seen.step} of {seen.steps} on change the outputs before it by {seen.future:.1e} of "
            f"their size (more than {SEEN:.0e}), first in {spoken(evidence, seen.module)}{blind}"
        ),
        fix=(
            "hide the future: mask = torch.ones(T, T, dtype=torch.bool).triu(1), True where a "
            "layer of torch may not attend"
        ),
        source=seen.source,
    )


def _find_copied(evidence: Evidence) -> Iterator[Finding]:
    """Words that are embedded and are the targets of the same steps."""
    for loss in loss_calls(evidence):
        flow = loss.flow
        words = None if loss.target is None else flow.outer(loss.target, WHOLE)
        if loss.operation not in ("cross_entropy", "nll_loss") or words is None:
            continue
        if not _is_only(evidence, words):
            continue
        for i in flow.primitives({"embedding"}):
            given = [flow.outer(info, WHOLE) for info in flow.calls[i].inputs]
            is_same = any(t.source is None and t.shape == words.shape for t in given)
            if is_same and loss.index in _list_steps(flow, i, words.shape):
                yield Finding(
                    module=flow.owner(i),
                    message=(
                        f"the targets are the words that {spoken(evidence, flow.owner(i))} is "
                        f"given, at the same {words.shape[1]} steps: the model copies its input"
                    ),
                    fix="give the model words[:, :-1], and compare with words[:, 1:]",
                    source=loss.call.source,
                    kind="copied",
                )
                return


def _is_only(evidence: Evidence, words: TensorInfo) -> bool:
    """Whether the batch has no other whole numbers of this shape."""
    same = [
        t
        for t in (*evidence.inputs, *evidence.targets)
        if t.shape == words.shape and t.dtype == words.dtype
    ]
    return (
        len(same) == 1
        and len(words.shape) == STEPS
        and words.shape[1] > 1
        and words.source is None
        and words.dtype.startswith("int")
    )


def _list_steps(flow: Flow, start: int, shape: tuple[int, ...]) -> set[int]:
    """The rows that read what a row made with its steps kept: (N, L, ...) or (N * L, ...)."""
    kept = (shape, (shape[0] * shape[1],))
    seen, stack = set[int](), [start]
    while stack:
        for reader in flow.readers.get(stack.pop(), ()):
            call = flow.calls[reader]
            made = call.outputs[0].shape if call.outputs else ()
            if reader not in seen:
                seen.add(reader)
                if any(made[: len(each)] == each for each in kept):
                    stack.append(reader)
    return {i for i in seen if operation(flow.calls[i]) in ("cross_entropy", "nll_loss")}
