"""How numbers, samples and shapes are said in findings."""

from collections.abc import Iterable, Sequence

from cnnprobe.data.facts import Split, Spotted

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
