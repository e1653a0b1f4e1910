"""A padding mask that hides the words and shows the padding."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, operation_of_module
from cnnprobe.diagnosis.evidence.questions import modules_of, spoken, stat, zero
from cnnprobe.rulebook.material import classifying

NAME = "key_padding_mask"


def _net(inverted: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 8, padding_idx=0)
            self.attend, self.fc = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)
            self.query = nn.Parameter(torch.randn(1, 1, 8))

        def forward(self, x: Any) -> Any:
            hidden = x != 0 if inverted else x == 0
            words, query = self.words(x), self.query.expand(len(x), -1, -1)
            return self.fc(self.attend(query, words, words, key_padding_mask=hidden)[0][:, 0])

    torch.manual_seed(0)
    words = torch.randint(1, 20, (8, 6)) * (torch.arange(6) < 4)
    return classifying(Net(), inputs=words)


def sick() -> Mapping[str, Any]:
    """The mask is True for the words."""
    return _net(True)


def healthy() -> Mapping[str, Any]:
    """It is True for the padding."""
    return _net(False)


@rule(
    code="CP710",
    name="inverted-mask",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("zero-grad", "constant-output", "ignored-input"),
)
def inverted_mask(evidence: Evidence) -> Iterator[Finding]:
    """An attention with a padding mask reads nothing but padding.

    Why it matters: in key_padding_mask, True means "ignore": where it is True for the words, the
    model sees none of them.
    What to do: key_padding_mask=(ids == padding).
    Known exceptions: none; found by the gradient of the embedding, which is exactly 0.
    Source: torch.nn.MultiheadAttention, "For a binary mask, a True value indicates that the
    corresponding key value will be ignored".
    """
    padded = [
        m.fqn for m in modules_of(evidence, "embedding") if m.config.get("padding_idx") is not None
    ]
    is_varied = any(
        stat(i, "min") != stat(i, "max") for i in evidence.inputs if i.dtype.startswith("int")
    )
    unseen = [
        fqn
        for fqn in padded
        if evidence.steps and all(zero(s.gradients.get(f"{fqn}.weight")) for s in evidence.steps)
    ]
    if not unseen or not is_varied:
        return
    kinds = {m.fqn: operation_of_module(m) for m in evidence.trace.modules}
    flow = Flow(evidence.trace)
    for call in flow.calls:
        masks = [t for t in call.inputs if NAME in t.path and t.dtype == "bool"]
        if kinds.get(call.fqn or "") == "attention" and masks:
            yield Finding(
                module=call.fqn,
                message=(
                    f"{spoken(evidence, call.fqn)} reads nothing of {spoken(evidence, unseen[0])} "
                    f"but its padding: True in {NAME} means to ignore"
                ),
                fix=f"turn {NAME} round: True where there is padding",
                source=call.source,
            )
            return
