"""A model of sequences that sees what it is to predict."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.rulebook.material import classifying

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
    """The targets are the inputs one step on, and the outputs depend on later inputs.

    Why it matters: the model reads the answer from its input. The loss is near 0, and what it
    generates step by step is worthless.
    What to do: a causal mask, torch.ones(T, T, dtype=torch.bool).triu(1): True where torch's
    layers may not attend; is_causal=True in scaled_dot_product_attention; padding on the left alone
    of a convolution; no bidirectional recurrence.
    Known exceptions: models that carry a state from call to call, which are not judged; steps whose
    target is -100, as those of a prefix that is read as a whole; targets that are the inputs of the
    same step (a masked language model).
    Source: two forward passes in eval mode, with other inputs in the second half of the sequence;
    Vaswani et al. 2017, arXiv:1706.03762, section 3.1.
    """
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
