"""What a DataLoader was doing when it raised: which samples it fetched, and how it joined them."""

import types
from dataclasses import dataclass
from typing import Any

from torch.utils.data import _DatasetKind

from cnnprobe.crash.facts.frames import get_path, list_frames

_FETCH = "torch/utils/data/_utils/fetch.py"
_COLLATE = "torch/utils/data/_utils/collate.py"
_LOADER = "torch/utils/data/dataloader.py"
_MOST_SAMPLES = 256  # that are fetched once more where a worker raised


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """A batch that a DataLoader could not make."""

    dataset: Any
    indices: list[Any]
    index: Any  # of the sample that raised; None where it is not one
    frames: list[types.FrameType]  # of the data set's code
    samples: list[Any]  # where all are there, so that joining them raised
    joined: list[list[Any]]  # what was joined, from the samples down to the part that raised


def find_fetch(error: BaseException) -> Fetch | None:
    """The batch whose fetching raised; None where none did."""
    frames = list_frames(error)
    paths = list(map(get_path, frames))
    if (at := next((i for i, path in enumerate(paths) if path.endswith(_FETCH)), None)) is None:
        return None
    inner = frames[at:]
    indices = inner[0].f_locals.get("possibly_batched_index")
    samples = inner[0].f_locals.get("data")
    parts = [frame.f_locals.get("batch") for frame in inner if _is_in(frame, _COLLATE)]
    return Fetch(
        dataset=getattr(inner[0].f_locals.get("self"), "dataset", None),
        indices=list(indices) if isinstance(indices, list | tuple) else [indices],
        index=_find_index(inner) if isinstance(indices, list) else indices,
        frames=[] if samples is not None else [f for f in inner if not _is_in(f, _FETCH)],
        samples=list(samples) if isinstance(samples, list) else [],
        joined=[list(part) for part in parts if isinstance(part, list | tuple)],
    )


def _find_index(inner: list[types.FrameType]) -> Any:
    """The index of the sample that raised, from the comprehension that runs over the batch; from
    Python 3.12 on it has no frame, and the data set's method knows what it was given.
    """
    own = inner[1] if len(inner) > 1 else inner[0]
    name = "idx"
    if not _is_in(own, _FETCH):
        is_method = own.f_code.co_name == "__getitem__" and own.f_code.co_argcount > 1
        name = own.f_code.co_varnames[1] if is_method else ""
    return own.f_locals.get(name)


def fetch_again(error: BaseException) -> BaseException | None:
    """What a worker process raised, by fetching its samples in this one; None: it does not raise.

    The order of the worker is not known, so that all samples are fetched from the first on.
    """
    frames = list_frames(error)
    loaders = [f.f_locals.get("self") for f in frames if _is_in(f, _LOADER)]
    workers: list[Any] = [one for one in loaders if getattr(one, "_workers", None)]
    wrapped = [f.f_locals["self"] for f in frames if f.f_code.co_name == "reraise"]
    if not workers or not wrapped or workers[-1]._dataset_kind != _DatasetKind.Map:
        return None
    it = workers[-1]
    fetcher = _DatasetKind.create_fetcher(  # type: ignore[no-untyped-call]
        it._dataset_kind, it._dataset, it._auto_collation, it._collate_fn, it._drop_last
    )
    try:
        fetcher.fetch(list(range(min(len(it._dataset), _MOST_SAMPLES))))
    except Exception as again:
        return again if type(again) is wrapped[-1].exc_type else None
    return None


def _is_in(frame: types.FrameType, path: str) -> bool:
    return frame.f_code.co_filename.replace("\\", "/").endswith(path)


def find_transform(fetch: Fetch) -> str:
    """The class of the innermost transform that raised; "" where none did."""
    for frame in reversed(fetch.frames):
        owner = frame.f_locals.get("self")
        is_call = frame.f_code.co_name in ("__call__", "forward")
        if is_call and owner is not None and owner is not fetch.dataset:
            return type(owner).__name__
    return ""
