from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import LAST, STRONG, Crash, Suspects, blame, cause, vary
from cnnprobe.crash.facts.loader import Fetch, find_fetch, find_transform

_DATA = """
class Images(torch.utils.data.Dataset):
    def __init__(self):
        self.images, self.labels = torch.rand(6, 1, 8, 8), torch.zeros(6).long()
        self.mean = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    def __len__(self):
        return len(self.images)
    def __getitem__(self, i):
        image = self.images[i]
        return image.expand(3, 8, 8) - self.mean, self.labels[i]
model = nn.Conv2d(3, 2, 3)
def run(model):
    for x, _ in torch.utils.data.DataLoader(Images(), batch_size=2):
        model(x)
"""

_SHOWN = "image.expand(3, 8, 8) - self.mean"
EXAMPLES = (
    vary(_DATA, _SHOWN, "image.sub_(self.mean)", "convert('RGB')", is_tried=False),
    vary(_DATA, "torch.zeros(6)", "torch.zeros(5)", "let __len__ return 5", is_tried=False),
)


@cause("CP0G1", "failed-sample", EXAMPLES, stage="loss", prior=880)
def failed_sample(crash: Crash) -> Suspects:
    """A data set raised when the DataLoader asked it for a sample.

    Why it happens: a transform gets an image that it is not for: one channel where it has
    statistics of three, or an array whose channels are last. Or __len__ promises more samples
    than there are.
    What to do: look at the sample that is named. Convert images to one mode when they are opened:
    Image.open(path).convert("RGB").
    Known exceptions: none.
    Source: PyTorch, torch.utils.data.Dataset; torchvision.transforms.Normalize.
    """
    if (fetch := find_fetch(crash.error)) is None or not fetch.frames:
        return
    transform = find_transform(fetch)
    where = f"sample {fetch.index} of {type(fetch.dataset).__name__}"
    where += f" raised in the transform {transform}" if transform else " raised"
    reason, arithmetic, title = (
        _judge_length(crash, fetch) or _judge_channels(fetch) or ("", "", "")
    )
    yield blame(
        None,
        f"{where}: {reason or f'{type(crash.error).__name__}: {crash.error}'}",
        title or None,
        arithmetic=arithmetic,
        weight=STRONG if reason else LAST,
        advice=() if title else (f"look at what the data set does for index {fetch.index}",),
        raised_in="the DataLoader",
    )


def _judge_length(crash: Crash, fetch: Fetch) -> tuple[str, str, str] | None:
    """An index behind the end of one of the data set's parts."""
    if not isinstance(crash.error, IndexError) or not isinstance(fetch.index, int):
        return None
    for name, value in vars(fetch.dataset).items():
        if isinstance(value, Tensor | list | tuple) or hasattr(value, "iloc"):
            count, promised = len(value), len(fetch.dataset)
            if count <= fetch.index < promised:
                return (
                    f"__len__ returns {promised}, but {name} has {count} entries",
                    f"index {fetch.index} of {count}",
                    f"let __len__ return {count}, or give {name} an entry for each sample",
                )
    return None


def _judge_channels(fetch: Fetch) -> tuple[str, str, str] | None:
    """An image that meets statistics of another number of channels."""
    values: list[Any] = [v for f in reversed(fetch.frames) for v in f.f_locals.values()]
    owners = [f.f_locals.get("self") for f in fetch.frames]
    values += [v for owner in owners for v in getattr(owner, "__dict__", {}).values()]
    tensors = [v for v in values if isinstance(v, Tensor) and v.dim() == 3]
    statistics = [t for t in tensors if t.shape[1:] == (1, 1) and t.shape[0] > 1]
    images = [t for t in tensors if t.shape[1:] != (1, 1)]
    if not statistics or not images or images[0].shape[0] == statistics[0].shape[0]:
        return None
    shape, count = tuple(images[0].shape), statistics[0].shape[0]
    channels = f"{shape[0]} channel{'s' * (shape[0] != 1)}"
    reason = f"the image {shape} has {channels}, the statistics have {count}"
    title = f"give the transform one value for each of the {shape[0]} channels"
    if shape[-1] == count:
        reason = f"the image {shape} has its {count} channels last"
        title = "put the channels first before the transform: image.permute(2, 0, 1), or ToTensor()"
    elif count == 3 and shape[0] in (1, 4):
        title = "open every image in colour: Image.open(path).convert('RGB')" + (
            ", or use one mean and one std for grey images" if shape[0] == 1 else ""
        )
    return reason, f"{shape} and {tuple(statistics[0].shape)}", title
