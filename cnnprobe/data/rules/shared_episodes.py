"""Episodes whose query holds images of their support."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, made
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted


def _episodes(first: int) -> Mapping[str, Any]:
    from torch.utils.data import DataLoader

    def make(i: int) -> Any:
        drawn = images(8, of=i)
        return {"support": drawn[:4], "query": drawn[first : first + 4]}

    return {"loader": DataLoader(made(8, make), batch_size=2)}


def sick() -> Mapping[str, Any]:
    """One image is in both."""
    return _episodes(3)


def healthy() -> Mapping[str, Any]:
    """None is."""
    return _episodes(4)


@data_rule(
    code="CP854", name="shared-episodes", severity=Severity.WARNING, examples=(sick, healthy)
)
def shared_episodes(data: Data) -> Iterator[Finding]:
    """The query of an episode holds images of its support.

    Why it matters: such an image is classified by itself, and the accuracy is not that of new
    images.
    What to do: draw shots + queries images of a class without replacement, and part them.
    Known exceptions: recognised by parts that are named support (or context) and query.
    Source: Vinyals et al. 2016, "Matching Networks for One Shot Learning", arXiv:1606.04080,
    section 4 (support set and batch are sampled apart).
    """
    for split in data.splits:
        if split.overlap is None or not split.overlap[2]:
            continue
        support, query, shared, total = split.overlap
        yield Finding(
            message=(
                f"{shared} of {format_counted(total, 'episode')} of the {split.name} data "
                f"{'has' if shared == 1 else 'have'} an image of {support} in {query} too"
            ),
            fix="draw both at once without replacement: random.sample(images, shots + queries)",
        )
