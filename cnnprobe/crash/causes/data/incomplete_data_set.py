import difflib
import inspect
from typing import Any

from torch.utils.data import Dataset

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.frames import get_path, list_frames

_DATA_SET, _SAMPLER = "torch/utils/data/dataset.py", "torch/utils/data/sampler.py"
_NEEDED = {
    "__getitem__": "define __getitem__(self, i), which returns sample i",
    "__len__": "define __len__(self), which returns the number of samples",
}
_LENGTH = """
  class Rows(torch.utils.data.Dataset):
      def __init__(self):
          self.rows = torch.randn(4, 3)
+     def __len__(self):
+         return len(self.rows)
      def __getitem__(self, i):
          return self.rows[i]
  model = nn.Linear(3, 2)
  def run(model):
      for x in torch.utils.data.DataLoader(Rows(), batch_size=2):
          model(x)
"""
_MISSPELT = """
  class Rows(torch.utils.data.Dataset):
      def __len__(self):
          return 4
-     def __get_item__(self, i):
+     def __getitem__(self, i):
          return torch.randn(3)
  model = nn.Linear(3, 2)
  def run(model):
      for x in torch.utils.data.DataLoader(Rows(), batch_size=2):
          model(x)
"""
EXAMPLES = (
    Example(_LENGTH, repair="define __len__(self)", is_tried=False),
    Example(_MISSPELT, repair="rename the method __get_item__ to __getitem__", is_tried=False),
)


@cause("CP0K4", "incomplete-data-set", EXAMPLES, stage="around", prior=881)
def incomplete_data_set(crash: Crash) -> Suspects:
    """A data set has no __len__ or no __getitem__.

    Why it happens: the method is missing, or its name is misspelt.
    What to do: define both, with two underscores on each side.
    Known exceptions: an IterableDataset has __iter__ instead.
    Source: torch.utils.data.Dataset, "Map-style datasets".
    """
    for frame in reversed(list_frames(crash.error)):
        is_own = get_path(frame).endswith(_DATA_SET) and frame.f_code.co_name == "__getitem__"
        given = frame.f_locals.get("self" if is_own else "data_source")
        asked = frame.f_locals.get("self")
        if get_path(frame).endswith(_SAMPLER):
            given = getattr(asked, "data_source", given)
        if not isinstance(given, Dataset) or not (is_own or get_path(frame).endswith(_SAMPLER)):
            continue
        name = "__getitem__" if is_own else "__len__"
        if _has(given, name):
            return
        kind, near = type(given).__name__, _find_misspelt(given, name)
        title = f"rename the method {near} to {name}" if near else _NEEDED[name]
        yield blame(
            None,
            f"the data set {kind} has no {name}" + (f"; it has {near}" if near else ""),
            propose(Advice(title=title)),
            arithmetic=f"{kind}: {', '.join(_list_own(given)) or 'no method of its own'}",
            raised_in="the DataLoader",
        )
        return


def _has(dataset: Any, name: str) -> bool:
    """Whether its class has the method, beyond the one of Dataset that only raises."""
    return getattr(type(dataset), name, None) not in (None, getattr(Dataset, name, None))


def _list_own(dataset: Any) -> list[str]:
    """The methods of the user's class."""
    own = [k for k in type(dataset).__mro__ if not k.__module__.startswith(("torch.", "builtins"))]
    return list(dict.fromkeys(n for k in own for n, v in vars(k).items() if inspect.isfunction(v)))


def _find_misspelt(dataset: Any, name: str) -> str:
    bare = {n.replace("_", ""): n for n in _list_own(dataset) if n not in ("__init__", *_NEEDED)}
    near = difflib.get_close_matches(name.replace("_", ""), bare, n=1, cutoff=0.8)
    return bare[near[0]] if near else ""
