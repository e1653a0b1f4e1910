"""Texts whose words the vocabulary has not."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, made
from cnnprobe.diagnosis import Finding, Severity

MOST = 0.3  # of the words; of a vocabulary that leaves out rare words about 5%
FEWEST = 50  # words


def _read(text: str) -> Mapping[str, Any]:
    import torch

    vocabulary = {"<pad>": 0, "<unk>": 1, "a": 2, "dog": 3, "runs": 4}
    noise = images(64)

    def make(index: int) -> Any:
        words = [vocabulary.get(word, 1) for word in text.split()]
        return {"image": noise[index], "tokens": torch.tensor(words)}

    return {"loader": made(64, make, vocabulary=vocabulary)}


def sick() -> Mapping[str, Any]:
    """A vocabulary in small letters, and captions in capitals."""
    return _read("A Dog Runs a")


def healthy() -> Mapping[str, Any]:
    """One word of four is unknown."""
    return _read("a dog runs home")


@data_rule(code="CP857", name="unknown-tokens", severity=Severity.WARNING, examples=(sick, healthy))
def unknown_tokens(data: Data) -> Iterator[Finding]:
    """Most words of the texts are not in the vocabulary.

    Why it matters: all of them become one number, and the texts say nothing.
    What to do: prepare the texts as those were from which the vocabulary was made: small letters,
    punctuation, spaces.
    Known exceptions: reported only where a dict of the vocabulary, or a tokenizer, is found from
    the data set or its collate. Up to 30% is let pass: a vocabulary of frequent words alone.
    Source: Mikolov et al. 2013, "Efficient Estimation of Word Representations in Vector Space",
    section 4: words beyond the most frequent ones; torchtext, Vocab.set_default_index.
    """
    for split in data.splits:
        for tokens in split.clues.tokens:
            share = tokens.unknowns / max(tokens.count, 1)
            if tokens.count >= FEWEST and share > MOST:
                yield Finding(
                    message=(
                        f"{share:.0%} of {tokens.count:,} words {tokens.path} of the {split.name} "
                        f"data are {tokens.name!r} ({tokens.unknown}; more than {MOST:.0%})"
                    ),
                    fix="prepare the texts as those of the vocabulary: small letters, punctuation",
                )
