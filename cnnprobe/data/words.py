"""How numbers, samples and shapes are said in findings."""

from collections.abc import Iterable, Sequence

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.spots import Spotted

NAMED = 3  # samples in a message


def name_samples(spotted: Sequence[Spotted], total: int | None = None) -> str:
    """The first places, and how many more there are."""
    places = ", ".join(each.place for each in spotted[:NAMED])
    more = (total if total is not None else len(spotted)) - min(NAMED, len(spotted))
    return f"{places} and {more:,} more" if more > 0 else places


def shape(sizes: Iterable[int]) -> str:
    """A shape as torch writes it."""
    sizes = tuple(sizes)
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(map(str, sizes))})"


def among(split: Split) -> str:
    """Of how many samples something is said."""
    return f"{split.samples:,} {split.name} samples that were read"


def is_one_class(data: Data) -> bool:
    """Whether the training has one class on purpose: the validation has it beside others, and no
    loss tells classes apart.
    """
    splits = [split.labels for split in data.splits]
    if len(splits) < 2 or data.expected.of_classes or any(each is None for each in splits):
        return False
    ours, theirs = ({label for label, n in each.counts if n} for each in splits if each is not None)
    return len(ours) == 1 and ours < theirs
