"""Pictures and sequences whose values were read in another order than they were written."""

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

from cnnprobe.data.clues import Reshaped
from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, loader, seed
from cnnprobe.diagnosis import Finding, Severity

# Mean square of the steps between neighbours, over that in the other order. White noise gives 1,
# and a picture in its own order less.
SMOOTHER = 1.3
FEWEST = 4  # images


def _scenes(reshaped: bool, grain: float) -> Mapping[str, Any]:
    import torch

    x = torch.linspace(0, 3, 16)
    angles = torch.rand(32, 3, generator=seed(3)) * 3
    made = torch.stack([torch.sin(a[0] + a[1] * x[:, None] + a[2] * x) for a in angles])
    tints = torch.tensor([1.0, 0.7, 0.4])
    pixels = made[..., None] * tints + grain * torch.randn(32, 16, 16, 3, generator=seed(4))
    given = pixels.reshape(32, 3, 16, 16) if reshaped else pixels.permute(0, 3, 1, 2).contiguous()
    return {"loader": loader(given, labels())}


def sick() -> Mapping[str, Any]:
    """reshape(3, H, W) of arrays with the channels last."""
    return _scenes(reshaped=True, grain=0.05)


def healthy() -> Mapping[str, Any]:
    """Such pictures permuted, and so noisy that hardly anything of them can be seen."""
    return _scenes(reshaped=False, grain=2.0)


@data_rule(
    code="CP835", name="rearranged-pixels", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("uninformative-labels", "channel-order", "splits-differ", "loss-not-decreasing"),
)  # fmt: skip
def rearranged_pixels(data: Data) -> Iterator[Finding]:
    """Images are smoother when their values are read in another order: reshape stood where permute
    was meant, or height and width were swapped. Or samples have the dims of what they were made of
    in another order, and the values in the same one.

    Why it matters: neighbouring pixels are scattered over the image; a convolution finds no edges,
    and in a sequence it mixes channels and times.
    What to do: array.transpose(2, 0, 1) or tensor.permute(2, 0, 1) to move a dim; look at the
    contact sheet.
    Known exceptions: images that are cropped, flipped or resized afterwards cannot be recognised;
    noise has no order.
    Source: torch.Tensor.permute and reshape; neighbours in a picture are alike: Ruderman 1994, "The
    statistics of natural images", Network 5(4).
    """
    for split in data.splits:
        pixels, reshaped = split.images.pixels, split.clues.reshaped
        if reshaped is not None:
            yield Finding(
                message=(
                    f"{reshaped.path or 'the samples'} of the {split.name} data have the shape "
                    f"{reshaped.given}, but their values are in the order of {reshaped.of}, of "
                    f"shape {reshaped.held}: view or reshape mixes the dims"
                ),
                fix=f"move the dims in its place: {_say_move(reshaped)}",
            )
            continue
        if pixels.rearranged and pixels.images >= FEWEST and pixels.smoother > SMOOTHER:
            yield Finding(
                message=(
                    f"the steps between neighbouring pixels of the {split.name} images are "
                    f"{pixels.smoother:.2g} times as large (mean square; more than {SMOOTHER:g}) "
                    f"as in another order: they look like {pixels.rearranged}"
                ),
                fix="use permute to move a dim, as in image.permute(2, 0, 1); reshape keeps the "
                "order of the values",
            )


def _say_move(reshaped: Reshaped) -> str:
    """The call that moves the dims of the array to where the samples have them."""
    dims = range(len(reshaped.held))
    orders = (o for o in permutations(dims) if tuple(reshaped.held[d] for d in o) == reshaped.given)
    order = next(orders, ())
    return "transpose(-1, -2)" if len(order) <= 2 else f"permute{order} of a sample"
