"""Samples that a DataLoader cannot stack."""

from collections.abc import Iterator

from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.crash.suspect import STRONG, Suspect, propose

_MOST_SHAPES = 4

EXAMPLE = Example(
    """
    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return torch.randn(3, 16, 14 + i), i % 2


    model = nn.Conv2d(3, 2, 3)


    def run(model):
        for x, y in torch.utils.data.DataLoader(Images(), batch_size=2):
            F.cross_entropy(model(x).mean((2, 3)), y).backward()
    """,
    old="torch.randn(3, 16, 14 + i)",
    new="torch.randn(3, 16, 16)",
    blames=None,
    repair="transforms.Resize((height, width))",
    is_tried=False,
)


@cause(
    code="CP096",
    name="unstacked-samples",
    stage="loss",
    family="cat-mismatch",
    prior=900,
    examples=EXAMPLE,
)
def unstacked_samples(crash: Crash) -> Iterator[Suspect]:
    """The samples of a batch differ in shape, so that the DataLoader cannot stack them.

    Why it happens: images have several sizes or numbers of channels; sequences, boxes and
    waveforms have several lengths.
    What to do: bring images to one size in the dataset. Give the DataLoader a collate_fn that
    pads sequences, or that keeps a list of what has no common shape.
    Known exceptions: none.
    Source: PyTorch, torch.utils.data, working with collate_fn.
    """
    path = "torch/utils/data/_utils/collate.py"
    batch = (read_frame(crash.error, path, "collate_tensor_fn") or {}).get("batch")
    tensors = [t for t in batch if isinstance(t, Tensor)] if isinstance(batch, list | tuple) else []
    shapes = list(dict.fromkeys(tuple(t.shape) for t in tensors))
    if len(shapes) < 2:
        return
    more = ", ..." if len(shapes) > _MOST_SHAPES else ""
    yield Suspect(
        module=None,
        message="the DataLoader stacks the samples of a batch, but they differ in shape: "
        f"{', '.join(map(str, shapes[:_MOST_SHAPES]))}{more}",
        arithmetic=f"{len(tensors)} samples of {len(shapes)} shapes",
        candidates=(propose(Advice(title=_choose_title(shapes))),),
        weight=STRONG,
        tensors=tuple(tensors[:2]),
        raised_in="the DataLoader",
    )


def _choose_title(shapes: list[tuple[int, ...]]) -> str:
    is_one_rank = len({len(shape) for shape in shapes}) == 1
    if is_one_rank and len(shapes[0]) == 3 and len({shape[0] for shape in shapes}) == 1:
        return (
            "bring the images to one size in the Dataset: transforms.Resize((height, width)), "
            "as Resize of one number keeps the ratio"
        )
    if is_one_rank and len({shape[1:] for shape in shapes}) == 1:
        return "bring the images to one number of channels in the Dataset: image.convert('RGB')"
    return "give the DataLoader a collate_fn that pads the samples to one shape"
