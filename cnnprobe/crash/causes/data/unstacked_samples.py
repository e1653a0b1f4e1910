from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path
from torch.utils.data import default_collate

from cnnprobe.crash.cause import Crash, Suspects, blame, cause, propose, vary
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.loader import Fetch, find_fetch
from cnnprobe.crash.facts.source import returns_nothing

_MOST_SHAPES = 4
_CHANNELS = (1, 2, 3, 4)
_Judgement = tuple[str, str, Edit]  # message, numbers and repair

_DATA = """
class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return torch.randn(3, 16, 16), i % 2
model = nn.Conv2d(3, 2, 3)
def run(model):
    for x, _ in torch.utils.data.DataLoader(Samples(), batch_size=4):
        model(x)
"""
EXAMPLES = tuple(
    vary(_DATA, "torch.randn(3, 16, 16), i % 2", wrong, repair, is_tried=is_tried)
    for wrong, repair, is_tried in (
        ("torch.randn(3, 16, 14 + i), i % 2", "transforms.Resize((height, width))", False),
        ("torch.randn(3 if i else 1, 16, 16), i % 2", "image.convert('RGB')", False),
        ("torch.randn(3, 16, 16), torch.arange(i + 1)", "pad_sequence", True),
        ("(torch.randn(3, 16, 16), i) if i else None", "leaves None out", True),
        ("object(), i", "ToTensor()", False),
    )
)
_UNRETURNED = vary(
    _DATA, "return torch.randn(3, 16, 16), i % 2", "sample = torch.randn(3, 16, 16), i % 2",
    "end __getitem__ with a return", is_tried=False,
)  # fmt: skip
EXAMPLES = (*EXAMPLES, _UNRETURNED)


@cause("CP096", "unstacked-samples", EXAMPLES, stage="loss", family="cat-mismatch", prior=900)
def unstacked_samples(crash: Crash) -> Suspects:
    """The samples of a batch cannot be stacked: they differ in shape, or are no tensors.

    Why it happens: images have several sizes or numbers of channels; sequences, boxes and
    waveforms have several lengths; a sample is None, or an image that is not a tensor yet.
    What to do: bring images to one size in the data set. Give the DataLoader a collate_fn that
    pads sequences, or that keeps a list of what has no common shape.
    Known exceptions: none.
    Source: PyTorch, torch.utils.data, working with collate_fn.
    """
    if (fetch := find_fetch(crash.error)) is None or not fetch.joined:
        return
    part = fetch.joined[-1]
    tensors = [t for t in part if isinstance(t, Tensor)]
    found = _judge_missing(fetch) or _judge_shapes(fetch, tensors) or _judge_kind(part)
    if found is not None:
        message, arithmetic, edit = found
        yield blame(
            None,
            message,
            propose(edit),
            arithmetic=arithmetic,
            tensors=tuple(tensors[:2]),
            raised_in="the DataLoader",
        )


def _judge_missing(fetch: Fetch) -> _Judgement | None:
    samples = fetch.samples or fetch.joined[0]
    if not (missing := [i for i, sample in enumerate(samples) if sample is None]):
        return None
    get = getattr(type(fetch.dataset), "__getitem__", None)
    if len(missing) == len(samples) and get is not None and returns_nothing(get):
        kind = type(fetch.dataset).__name__
        message = f"the data set returned None for every sample: {kind}.__getitem__ has no return"
        end = Advice(title="end __getitem__ with a return: return image, label")
        return message, f"{len(missing)} of {len(samples)} samples", end
    at = fetch.indices[missing[0]] if missing[0] < len(fetch.indices) else missing[0]
    code = "collate_fn=lambda batch: default_collate([s for s in batch if s is not None])"

    def check() -> str:
        left = [sample for sample in samples if sample is not None]
        default_collate(left)
        return f"the {len(left)} other samples are joined"

    title = f"give the DataLoader a {code}, which leaves None out"
    edit = Check(title=title, code=code, check=check)
    count = f"{len(missing)} of {len(samples)} samples"
    return f"the data set returned None for sample {at}", count, edit


def _judge_shapes(fetch: Fetch, tensors: list[Tensor]) -> _Judgement | None:
    shapes = list(dict.fromkeys(tuple(t.shape) for t in tensors))
    if len(shapes) < 2:
        return None
    name = _name_part(fetch, tensors[0])
    more = ", ..." if len(shapes) > _MOST_SHAPES else ""
    first = [tuple(t.shape) for t in tensors]
    other = next(i for i, shape in enumerate(first) if shape != first[0])
    where = ""
    if other < len(fetch.indices):
        where = f"; sample {fetch.indices[0]} has {first[0]}, "
        where += f"sample {fetch.indices[other]} {first[other]}"
    message = (
        f"the DataLoader stacks {name} of the samples of a batch, but they differ in shape: "
        f"{', '.join(map(str, shapes[:_MOST_SHAPES]))}{more}"
    )
    return (
        message,
        f"{len(tensors)} samples of {len(shapes)} shapes{where}",
        _choose(tensors, shapes),
    )


def _name_part(fetch: Fetch, tensor: Tensor) -> str:
    """The part of a sample that is joined: element 1, 'boxes'."""
    sample = (fetch.samples or fetch.joined[0])[0]
    for path, leaf in tree_flatten_with_path(sample)[0]:
        if leaf is tensor and path:
            return f"element {keystr(path)}"
    return "the tensors"


def _choose(tensors: list[Tensor], shapes: list[tuple[int, ...]]) -> Edit:
    """What brings the tensors to one shape, by their rank and dtype."""
    ranks, last, first = {len(s) for s in shapes}, {s[-1:] for s in shapes}, {s[:1] for s in shapes}
    if (is_map := ranks == {3} and tensors[0].is_floating_point()) and len(first) == 1:
        title = (
            "bring the images to one size in the Dataset: transforms.Resize((height, width)), as"
        )
        return Advice(title=f"{title} Resize of one number keeps the ratio")
    if is_map and len({s[1:] for s in shapes}) == 1 and all(s[0] in _CHANNELS for s in shapes):
        title = "bring the images to one number of channels in the Dataset: image.convert('RGB')"
        return Advice(title=title)
    if ranks != {1} and any(0 in s for s in shapes):
        return _keep_lists(
            "an empty list has the shape (0,): .reshape(-1, 4) gives it (0, 4); then "
        )
    if last == {(4,)} and ranks == {2}:
        return _keep_lists("")
    if ranks == {2} and len(last) > 1 and len(first) == 1:
        code = "F.pad(x, (0, length - x.shape[-1]))"
        return Advice(title=f"cut or pad the signals to one length in the Dataset: {code}")
    if len(ranks) == 1 and len({s[1:] for s in shapes}) == 1:
        return _pad(tensors)
    return Advice(title="give the DataLoader a collate_fn that pads the samples to one shape")


def _keep_lists(before: str) -> Edit:
    code = "collate_fn=lambda batch: tuple(zip(*batch))"
    title = f"{before}keep a list for each batch, as boxes have no common number: {code}"
    return Advice(title=title, code=code)


def _pad(tensors: list[Tensor]) -> Edit:
    code = "torch.nn.utils.rnn.pad_sequence(list, batch_first=True)"

    def check() -> str:
        padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
        return f"it gives {tuple(padded.shape)}"

    title = f"give the DataLoader a collate_fn that pads them: {code}, and keep their lengths"
    return Check(title=title, code=code, check=check)


def _judge_kind(part: list[Any]) -> _Judgement | None:
    """Elements that are no tensors, arrays or numbers, or lists of several lengths."""
    if not part:
        return None
    kinds = {type(value) for value in part}
    lengths = {len(value) for value in part if isinstance(value, list | tuple)}
    if len(lengths) > 1:
        message = "the DataLoader joins lists of the samples, but they differ in length"
        edit = _keep_lists("make tensors of them and pad them, or ")
        return message, f"lengths {', '.join(map(str, sorted(lengths)))}", edit
    kind = next(iter(kinds))
    if len(kinds) > 1 or issubclass(kind, Tensor | str | bytes | int | float | list | tuple | dict):
        return None
    edit = Advice(title="make a tensor of it in the Dataset: transforms.ToTensor()(image)")
    message = f"samples hold {kind.__name__} objects, which the DataLoader cannot join"
    return message, f"{len(part)} of them", edit
