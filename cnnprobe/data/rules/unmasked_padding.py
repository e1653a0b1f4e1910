"""A mask of attention that is open at the padding."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import sentences
from cnnprobe.diagnosis import Finding, Severity

LEAST = 0.02  # of the tokens


def _masked(whole: bool) -> Mapping[str, Any]:
    import torch

    batches = [
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids) if whole else (ids != 0).long(),
            "labels": torch.arange(len(ids)) % 2,
        }
        for ids in sentences()
    ]
    return {"loader": batches}


def sick() -> Mapping[str, Any]:
    """torch.ones_like(input_ids)."""
    return _masked(whole=True)


def healthy() -> Mapping[str, Any]:
    """input_ids != 0."""
    return _masked(whole=False)


@data_rule(
    code="CP872", name="unmasked-padding", severity=Severity.WARNING, examples=(sick, healthy)
)
def unmasked_padding(data: Data) -> Iterator[Finding]:
    """The mask of attention is 1 everywhere, though the rows of tokens end in padding.

    Why it matters: the model reads the padding as words; its output for a text depends on the
    longest text in the batch.
    What to do: attention_mask = (input_ids != pad).long(), or take the mask of the tokenizer.
    Known exceptions: what fills the ends of rows of several lengths, and stands nowhere before, is
    taken for padding; nothing is said of less than 2%.
    Source: Hugging Face, "Padding and truncation", and the glossary, "attention mask".
    """
    for split in data.splits:
        texts = split.clues.texts
        if texts is not None and texts.mask and texts.unmasked and texts.padded >= LEAST:
            yield Finding(
                message=(
                    f"{texts.mask} of the {split.name} data is 1 everywhere, also at the padding: "
                    f"{texts.padded:.0%} of the tokens {texts.path} are {texts.pad}, at the end of "
                    "rows"
                ),
                fix=f"attention_mask = (input_ids != {texts.pad}).long()",
            )
