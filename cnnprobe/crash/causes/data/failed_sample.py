import ast
from itertools import islice
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.cause import LAST, STRONG, Crash, Example, Suspects, blame, cause, vary
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.files import judge_file
from cnnprobe.crash.facts.loader import Fetch, find_fetch, find_transform
from cnnprobe.crash.facts.transforms import judge_transform
from cnnprobe.crash.facts.values import read_attribute, read_failing_line

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
_ORDER = """
  class ToTensor:
      def __call__(self, pic):
          return torch.tensor(pic)
  class Normalize:
      def __call__(self, tensor):
          return torch.sub(tensor, 0.5)
  class Compose:
      def __init__(self, transforms):
          self.transforms = transforms
      def __call__(self, img):
          for t in self.transforms:
              img = t(img)
          return img
  class Rows(torch.utils.data.Dataset):
-     transform = Compose([Normalize(), ToTensor()])
+     transform = Compose([ToTensor(), Normalize()])
      def __len__(self):
          return 4
      def __getitem__(self, i):
          return self.transform([0.0, float(i), 1.0])
  model = nn.Linear(3, 2)
  def run(model):
      for x in torch.utils.data.DataLoader(Rows(), batch_size=2):
          model(x)
"""
_CLASS = """
  class Flip:
      def __call__(self, x):
          return x.flip(0)
  class Rows(torch.utils.data.Dataset):
      def __init__(self, transform):
          self.transform = transform
      def __len__(self):
          return 4
      def __getitem__(self, i):
          return self.transform(torch.randn(3))
  model = nn.Linear(3, 2)
  def run(model):
-     rows = Rows(Flip)
+     rows = Rows(Flip())
      for x in torch.utils.data.DataLoader(rows, batch_size=2):
          model(x)
"""
EXAMPLES = (
    Example(_ORDER, repair="put ToTensor() before Normalize", is_tried=False),
    Example(_CLASS, repair="with parentheses: Flip()", is_tried=False),
    vary(_DATA, _SHOWN, "image.sub_(self.mean)", "convert('RGB')", is_tried=False),
    vary(_DATA, "torch.zeros(6)", "torch.zeros(5)", "let __len__ return 5", is_tried=False),
    vary(
        _DATA,
        "image = self.images[i]",
        "image = torch.load(f'nowhere/{i}.pt')",
        "Path(__file__).parent",
        is_tried=False,
    ),
    vary(
        _DATA,
        "torch.rand(6, 1, 8, 8), ",
        "{f'{i}.png': torch.rand(1, 8, 8) for i in range(6)}, ",
        "self.keys = list(self.images)",
        is_tried=False,
    ),
)


@cause("CP0G1", "failed-sample", EXAMPLES, stage="loss", prior=880)
def failed_sample(crash: Crash) -> Suspects:
    """A data set raised when the DataLoader asked it for a sample.

    Why it happens: a transform gets an image that it is not for: one channel where it has
    statistics of three, an array whose channels are last, or no tensor yet, as ToTensor comes
    after it. A class stands where an object of it is meant. __len__ promises more samples than
    there are. A file is not where its path says, or a position is looked up as a key.
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
    reason, arithmetic, edit = (
        _judge_length(crash, fetch)
        or judge_file(crash.error)
        or _judge_key(crash, fetch)
        or _judge_channels(crash, fetch)
        or _judge_transform(crash)
        or _judge_class(crash)
        or ("", "", None)
    )
    yield blame(
        None,
        f"{where}: {reason or f'{type(crash.error).__name__}: {crash.error}'}",
        edit or None,
        arithmetic=arithmetic,
        weight=STRONG if reason else LAST,
        advice=() if edit else (f"look at what the data set does for index {fetch.index}",),
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


def _judge_key(crash: Crash, fetch: Fetch) -> tuple[str, str, str] | None:
    """The position of a sample, looked up as a key or as the label of a row."""
    for name, value in vars(fetch.dataset).items() if isinstance(crash.error, KeyError) else ():
        keys = value if isinstance(value, dict) else getattr(value, "index", None)
        if not isinstance(value, dict) and not hasattr(value, "iloc"):
            continue
        if keys is None or fetch.index in keys or len(keys) < len(fetch.dataset):
            continue
        title = f"keep the keys in a list: self.keys = list(self.{name}), and take self.keys[i]"
        if not isinstance(value, dict):
            title = f"look it up by its position: self.{name}.iloc[i]"
        shown = ", ".join(map(repr, islice(keys, 3)))
        reason = f"{fetch.index} is the position of a sample, and no key of {name}"
        return reason, f"its keys begin with {shown}", title
    return None


def _judge_channels(crash: Crash, fetch: Fetch) -> tuple[str, str, str] | None:
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
    elif count == 3 and shape[0] == 1:
        colour = "open every image in colour: Image.open(path).convert('RGB')"
        grey = "use one mean and one std for grey images"
        takes = _find_first_layer(crash)
        title = f"{colour}, or {grey}"
        if takes:
            title = f"use one mean and one std: {takes} expects 1 channel"
    elif count == 3 and shape[0] == 4:
        title = "open every image in colour: Image.open(path).convert('RGB')"
    return reason, f"{shape} and {tuple(statistics[0].shape)}", title


def _find_first_layer(crash: Crash) -> str:
    """The model's first convolution in words, where it takes grey images; else ""."""
    convolutions = (
        f for f, m in crash.modules.items() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    )
    first = next(convolutions, None)
    if first is None or getattr(crash.modules[first], "in_channels", 0) != 1:
        return ""
    return crash.describe_module(first)


def _judge_transform(crash: Crash) -> tuple[str, str, Edit] | None:
    """A transform that got another kind of value than it takes."""
    judged = judge_transform(crash.error)
    return None if judged is None else (judged.reason, judged.arithmetic, judged.edit)


def _judge_class(crash: Crash) -> tuple[str, str, str] | None:
    """A class that is called with the image, in the place of an object of it."""
    line = read_failing_line(crash)
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        kind, name = _read_own(call.func, line.names), ast.unparse(call.func)
        if isinstance(kind, type) and name != kind.__name__ and not issubclass(kind, Tensor):
            return (
                f"{name} is the class {kind.__name__} itself",
                ast.unparse(call),
                f"give the data set an object of it, with parentheses: {kind.__name__}()",
            )
    return None


def _read_own(node: ast.expr, names: dict[str, Any]) -> Any:
    """A name, or a plain attribute of one: self.transform."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return getattr(names.get(node.value.id), "__dict__", {}).get(node.attr)
    return read_attribute(node, names)
