"""Images of several sizes, which a loader cannot join."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, loader, made
from cnnprobe.data.words import shape
from cnnprobe.diagnosis import Finding, Severity


def sick() -> Mapping[str, Any]:
    """Photos as they were taken, some wider than the others."""
    from torch.utils.data import DataLoader

    photos = made(16, lambda i: (images(1, 3, 8, of=i)[0, :, :, : 6 + i % 3], i % 4))
    return {"loader": DataLoader(photos, batch_size=4)}


def healthy() -> Mapping[str, Any]:
    """All of one size."""
    return {"loader": loader()}


@data_rule(code="CP801", name="sizes-differ", severity=Severity.ERROR, examples=(sick, healthy))
def sizes_differ(data: Data) -> Iterator[Finding]:
    """Images of several sizes stop the loader.

    Why it matters: a batch is one tensor, so that its images must have one height and width.
    What to do: put v2.Resize((224, 224)), which sets both sides, before ToImage; or a collate_fn
    that pads.
    Known exceptions: a loader that joins them by itself, as detectors' do; batches that differ from
    one another; images of several channels (channels-differ).
    Source: torch.utils.data.default_collate stacks the samples of a batch;
    torchvision.transforms.v2.Resize with a single number sets the shorter side alone.
    """
    for split in data.splits:
        if split.failed is None or not split.failed.collating:
            continue
        for part in split.of("image", "mask"):
            sizes = {s[-2:] for s, _ in part.shapes if len(s) > 1}
            if len(sizes) > 1:
                shown = ", ".join(f"{shape(s)} ({n} times)" for s, n in part.shapes[:4])
                yield Finding(
                    message=(
                        f"the {split.name} loader raises {split.failed.kind}: "
                        f"{part.path or 'the images'} come in {len(sizes)} sizes: {shown}"
                    ),
                    fix="add v2.Resize((height, width)) to the transform, with both numbers",
                )
                break
