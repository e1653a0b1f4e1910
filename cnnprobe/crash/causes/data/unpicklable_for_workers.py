import pickle
import types
from typing import Any

import numpy as np
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.frames import get_path, list_frames
from cnnprobe.crash.facts.words import shorten

_PICKLING, _LOADER = "multiprocessing/reduction.py", "torch/utils/data/dataloader.py"
_PARTS = ("dataset", "collate_fn", "worker_init_fn", "sampler", "generator")
_PROGRAM = """
  model = nn.Linear(3, 2)
  def run(model):
      rows = [torch.zeros(3)] * 4
-     options = {"num_workers": 1, "multiprocessing_context": "spawn"}
-     join = lambda samples: torch.stack(samples)
+     options, join = {}, torch.stack
      for x in torch.utils.data.DataLoader(rows, 2, collate_fn=join, **options):
          model(x)
"""
EXAMPLE = Example(_PROGRAM, repair="write it as a function", is_tried=False)


@cause("CP0K5", "unpicklable-for-workers", EXAMPLE, stage="around", prior=882)
def unpicklable_for_workers(crash: Crash) -> Suspects:
    """What a DataLoader sends to its workers cannot be pickled: a lambda, an open file.

    Why it happens: on macOS and Windows, and with the context "spawn", each worker is a new
    process, which gets the data set as a pickle. A lambda, a function or class inside a function,
    an open file and a connection have none.
    What to do: write a function at the top level of a file; open files in __getitem__. With
    num_workers=0 nothing is sent.
    Known exceptions: with "fork", the default of Linux up to Python 3.13, nothing is pickled.
    Source: torch.utils.data, "Platform-specific behaviors"; Python, "What can be pickled".
    """
    frames = list_frames(crash.error)
    if crash.error.__context__ is not None:  # torch warns of it, and warnings may be errors
        frames += list_frames(crash.error.__context__)
    if not any(get_path(frame).endswith(_PICKLING) for frame in frames):
        return
    loaders = [f.f_locals.get("loader") for f in frames if get_path(f).endswith(_LOADER)]
    loader = next((one for one in loaders if one is not None), None)
    if loader is None:
        return
    part, value = _find_culprit(loader)
    what, title = _describe(value)
    yield blame(
        None,
        f"{part} cannot be sent to the worker processes: it is {what}",
        propose(Advice(title=title)),
        propose(Advice(title="load in this process: num_workers=0")),
        arithmetic=f"num_workers={loader.num_workers}, each a process of its own",
        raised_in="the DataLoader",
    )


def _find_culprit(loader: Any) -> tuple[str, Any]:
    """The innermost part of a loader that cannot be pickled, and where it is."""
    path, value = "the loader", loader
    parts = [(f"the {name} of the loader", getattr(loader, name, None)) for name in _PARTS]
    for _ in range(8):  # levels of attributes and lists
        found = next(((p, v) for p, v in parts if not _is_picklable(v)), None)
        if found is None:
            break
        path, value = found
        if isinstance(value, list | tuple):
            parts = [(f"{path}[{i}]", part) for i, part in enumerate(value)]
        elif isinstance(value, types.FunctionType):
            break
        else:
            own = vars(value) if hasattr(value, "__dict__") else {}
            kind = type(value).__name__
            parts = [(f"the attribute {name!r} of {kind}", part) for name, part in own.items()]
    return path, value


def _is_picklable(value: Any) -> bool:
    try:
        _Pickler(_Sink()).dump(value)
    except Exception:  # whatever its __reduce__ raises
        return False
    return True


class _Sink:
    """A file that keeps nothing."""

    def write(self, data: bytes) -> int:
        return len(data)


class _Pickler(pickle.Pickler):
    """Leaves out the numbers of tensors and arrays, which may be many and can always be sent."""

    def reducer_override(self, value: Any) -> Any:
        is_array = isinstance(value, np.ndarray) and not value.dtype.hasobject
        return (int, ()) if is_array or isinstance(value, Tensor) else NotImplemented


def _describe(value: Any) -> tuple[str, str]:
    """What it is, and what to do."""
    if isinstance(value, types.FunctionType):
        place = shorten(f"{value.__code__.co_filename}:{value.__code__.co_firstlineno}")
        kind = "a lambda" if value.__name__ == "<lambda>" else "a function inside a function"
        return f"{kind} ({place})", "write it as a function (def) at the top level of its file"
    name = type(value).__name__
    if "<locals>" in type(value).__qualname__:
        title = f"define the class {name} at the top level of its file"
        return f"of {name}, a class inside a function", title
    article = "an" if name[:1] in "AEIOUaeiou" else "a"
    return f"{article} {name}", "open it in __getitem__, when it is first needed"
