import ast
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import get_path, list_frames
from cnnprobe.crash.facts.values import FailingLine, read_attribute, read_failing_line

_LOADER, _SPLIT = "torch/utils/data/dataloader.py", "torch/utils/data/dataset.py"
_BOTH = """
  rows = torch.utils.data.TensorDataset(torch.randn(6, 4))
  model = nn.Linear(4, 2)
  def run(model):
      sampler = torch.utils.data.SubsetRandomSampler([0, 1])
-     loader = torch.utils.data.DataLoader(rows, sampler=sampler, shuffle=True)
+     loader = torch.utils.data.DataLoader(rows, sampler=sampler)
      for (x,) in loader:
          model(x)
"""
_EMPTY = """
  model = nn.Linear(4, 2)
  def run(model):
-     rows = []
+     rows = [torch.randn(4)]
      for x in torch.utils.data.DataLoader(rows, shuffle=True):
          model(x)
"""
_INDEXED = """
  rows = torch.utils.data.TensorDataset(torch.randn(6, 4))
  model = nn.Linear(4, 2)
  def run(model):
      loader = torch.utils.data.DataLoader(rows)
-     return model(loader[0][0])
+     return model(next(iter(loader))[0])
"""
_LENGTHS = """
  rows = torch.utils.data.TensorDataset(torch.randn(10, 4))
  model = nn.Linear(4, 2)
  def run(model):
-     return torch.utils.data.random_split(rows, [7, 2])
+     return torch.utils.data.random_split(rows, [7, 3])
"""
_SIZES = """
  model = nn.Linear(4, 2)
  def run(model):
-     return torch.utils.data.TensorDataset(torch.randn(10, 4), torch.zeros(9))
+     return torch.utils.data.TensorDataset(torch.randn(10, 4), torch.zeros(10))
"""
_ARRAYS = """
  import numpy as np
  model = nn.Linear(4, 2)
  def run(model):
-     return torch.utils.data.TensorDataset(np.zeros((6, 4)))
+     return torch.utils.data.TensorDataset(torch.from_numpy(np.zeros((6, 4))))
"""
EXAMPLES = (
    Example(_BOTH, repair="leave out shuffle=True", is_tried=False),
    Example(_EMPTY, repair="look where the data set finds its samples", is_tried=False),
    Example(_INDEXED, repair="write next(iter(loader))", is_tried=False),
    Example(_LENGTHS, repair="lengths that add up to 10", is_tried=False),
    Example(_SIZES, repair="give each the same number of rows", is_tried=False),
    Example(_ARRAYS, repair="torch.from_numpy", is_tried=False),
)


@cause("CP0M3", "loader-arguments", EXAMPLES, stage="around", prior=879)
def loader_arguments(crash: Crash) -> Suspects:
    """A DataLoader or a data set of torch's is made or used in a way that it does not offer.

    Why it happens: the data set is empty, as its folder or filter found nothing; a sampler and
    shuffle both decide the order; lengths do not add up; arrays are given for tensors; a loader is
    indexed, or asked for .next().
    What to do: count the samples first; leave out shuffle; iterate: next(iter(loader)).
    Known exceptions: none.
    Source: torch.utils.data.DataLoader, random_split and TensorDataset.
    """
    line = read_failing_line(crash)
    for judge in (_judge_making, _judge_lengths, _judge_tensors, _judge_use):
        if (found := judge(crash, line)) is not None:
            yield found
            return


def _read_init(crash: Crash, path: str, name: str) -> dict[str, Any] | None:
    frames = [f for f in list_frames(crash.error) if get_path(f).endswith(path)]
    return next((dict(f.f_locals) for f in frames if f.f_code.co_name == name), None)


def _judge_making(crash: Crash, line: FailingLine) -> Suspect | None:  # noqa: ARG001
    given = _read_init(crash, _LOADER, "__init__")
    if given is None or not isinstance(crash.error, ValueError):
        return None
    rows: Any = given.get("dataset")
    sampler = given.get("sampler")
    if hasattr(rows, "__len__") and len(rows) == 0:
        kind = type(rows).__name__
        return blame(
            None,
            f"the data set ({kind}) is empty: it has 0 samples",
            "look where the data set finds its samples: its folder, its pattern or its filter",
            raised_in="DataLoader",
        )
    if given.get("shuffle") and (sampler is not None or given.get("batch_sampler") is not None):
        message = "the DataLoader got a sampler and shuffle=True, and both decide the order"
        title = "leave out shuffle=True: a SubsetRandomSampler shuffles by itself"
        return blame(None, message, title, raised_in="DataLoader")
    return None


def _judge_lengths(crash: Crash, line: FailingLine) -> Suspect | None:  # noqa: ARG001
    given = _read_init(crash, _SPLIT, "random_split")
    lengths, rows = (given or {}).get("lengths"), (given or {}).get("dataset")
    if given is None or not isinstance(lengths, list | tuple) or not hasattr(rows, "__len__"):
        return None
    total, count = sum(lengths), len(rows)  # type: ignore[arg-type]
    if total == count or not all(isinstance(n, int) for n in lengths):
        return None
    rest = [*lengths[:-1], count - sum(lengths[:-1])]
    title = f"pass lengths that add up to {count}: {rest}, or fractions that add up to 1"
    message = f"random_split got lengths that add up to {total}, but there are {count} samples"
    return blame(None, message, title, arithmetic=f"{' + '.join(map(str, lengths))} = {total}")


def _judge_tensors(crash: Crash, line: FailingLine) -> Suspect | None:
    """What a TensorDataset was made of."""
    given = _read_init(crash, _SPLIT, "__init__")
    tensors = (given or {}).get("tensors")
    is_it = given is not None and isinstance(given.get("self"), TensorDataset)
    if not is_it or not isinstance(tensors, tuple):
        return None
    if all(isinstance(one, Tensor) for one in tensors):
        counts = [len(one) for one in tensors]
        message = f"TensorDataset got tensors of different numbers of rows: {_join(counts)}"
        title = "give each the same number of rows: a row of each is one sample"
        return blame(None, message, title, tensors=tensors)
    at = next(i for i, one in enumerate(tensors) if not isinstance(one, Tensor))
    kind = type(tensors[at]).__name__
    calls = [n for n in line.nodes if isinstance(n, ast.Call) and len(n.args) == len(tensors)]
    node = calls[0].args[at] if calls else None
    name = ast.unparse(node) if node is not None else "x"
    code = f"torch.from_numpy({name})" if kind == "ndarray" else f"torch.tensor({name})"
    written = replace_expression(crash.error, node, code) if node is not None else None
    message = f"TensorDataset expects tensors, but {name} is a {kind}"
    return blame(None, message, propose(Advice(title=f"pass {code}", code=code, written=written)))


def _join(counts: list[int]) -> str:
    return " and ".join(map(str, dict.fromkeys(counts)))


def _judge_use(crash: Crash, line: FailingLine) -> Suspect | None:
    """A loader that is indexed, or an iterator of it that is asked for .next()."""
    for node in line.nodes:
        match node:
            case ast.Subscript(value=owner):
                if isinstance(read_attribute(owner, line.names), DataLoader):
                    name = ast.unparse(owner)
                    return _write_next(crash, node, f"next(iter({name}))", f"{name} has no index")
            case ast.Attribute(value=owner, attr="next"):
                if "DataLoaderIter" in type(getattr(crash.error, "obj", None)).__name__:
                    name = ast.unparse(owner)
                    title = f"write next({name})"
                    return blame(None, f"{name} is an iterator, and has no .next()", title)
    return None


def _write_next(crash: Crash, node: ast.expr, code: str, why: str) -> Suspect:
    written = replace_expression(crash.error, node, code)
    edit = Advice(title=f"write {code} for its first batch", code=code, written=written)
    return blame(None, f"{why}: a DataLoader is iterated", propose(edit))
