from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure, reshape_parameter, resize_input
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.parts import change_part, spell_part
from cnnprobe.crash.facts.joins import read_cat
from cnnprobe.crash.facts.operands import Operands, find_operands, list_embeddings
from cnnprobe.crash.facts.windows import (
    LARGEST_INPUT,
    PathStep,
    apply_windows,
    get_call_window,
    list_steps,
)
from cnnprobe.crash.facts.words import count_elements
from cnnprobe.crash.suspect import STRONG, Candidate
from cnnprobe.records.trace import TensorInfo

_MOST_TOKENS = 2  # before the patches: a class token, and that of a distillation as in DeiT

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.position = nn.Parameter(torch.zeros(1, 16, 8))
+         self.position = nn.Parameter(torch.zeros(1, 17, 8))
          self.head = nn.Linear(8, 2)
      def forward(self, x):
          return self.head((x + self.position).mean(1))
  model, args = Net(), (torch.randn(2, 17, 8),)
"""
_SECOND = """
  class Patches(nn.Module):
      def __init__(self):
          super().__init__()
-         self.embed = nn.Conv2d(3, 8, 4, stride=2)
+         self.embed = nn.Conv2d(3, 8, 4, stride=4)
          self.places = nn.Parameter(torch.zeros(1, 16, 8))
          self.head = nn.Linear(8, 2)
      def forward(self, x):
          x = self.embed(x).flatten(2).transpose(1, 2) + self.places
          return self.head(x.mean(1))
  model, args = Patches(), (torch.randn(2, 3, 16, 16),)
"""
EXAMPLES = (
    Example(_FIRST, blames="", repair="the shape (1, 17, 8)"),
    Example(_SECOND, blames="embed", repair="stride=4"),
)


@cause("CP036", "parameter-size", EXAMPLES, family="shape-mismatch", prior=395)
def parameter_size(crash: Crash) -> Suspects:
    """A parameter, such as a table of positions, does not fit the tensor that it is added to.

    Why it happens: the table was made for another number of patches: for another image size, for
    other strides, or without the class token.
    What to do: give the table a place for each token, or the model the image size it was made for.
    Known exceptions: dims of size 1 are broadcast.
    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section 3.1, arXiv:2010.11929.
    """
    pair = find_operands(crash)
    owned = pair.parameter if pair is not None else None
    if pair is None or owned is None:
        return
    x = pair.a if owned is pair.b else pair.b
    wanted = _fit_shape(owned.shape, x.shape)
    lacks_dims = any(p[0] for p in list_embeddings(owned.shape, x.shape)) and not pair.is_even
    edits = [] if lacks_dims else [reshape_parameter(crash, owned.source, wanted)]
    suspect = blame(
        crash.owner_of_parameter(str(owned.source)),
        f"{crash.describe_origin(owned)} of shape {owned.shape} does not fit {x.shape}"
        f" in {pair.call.kind}",
        arithmetic=f"{x.shape} from {crash.describe_origin(x)};"
        f" '{owned.source}' should have the sizes {wanted}",
    )
    is_table = len(owned.shape) in (2, 3) and len(x.shape) == 3 and wanted[-2] != owned.shape[-2]
    patches = _find_patches(crash, x) if is_table else None
    if patches is not None:
        yield from _suspect_patches(crash, patches, owned.shape[-2], suspect)
        edits.append(_resize_image(patches, owned.shape[-2]))
    candidates = [propose(edit) for edit in edits if edit is not None]
    if patches is None and is_table and owned.shape[-2] > x.shape[1]:
        candidates.insert(0, _slice_table(crash, pair, owned, x))
    yield replace(suspect, candidates=tuple(candidates))


def _slice_table(crash: Crash, pair: Operands, owned: TensorInfo, x: TensorInfo) -> Candidate:
    """The first places of a table that was made for the longest sequence."""

    def keep_first(table: Tensor, other: Tensor) -> Tensor:
        return table[..., : other.shape[1], :]

    size = f"{name}.shape[1]" if (name := spell_part(crash, pair.call, x)) else x.shape[1]
    code = f"{{x}}[:, :{size}]" if len(owned.shape) == 3 else f"{{x}}[:{size}]"
    edit = change_part(crash, pair.call, owned, keep_first, code, verb="cut", like=x)
    return propose(edit, weight=STRONG)


def _fit_shape(shape: tuple[int, ...], x: tuple[int, ...]) -> tuple[int, ...]:
    aligned = x[-len(shape) :] if len(shape) <= len(x) else (*shape[: len(shape) - len(x)], *x)
    return tuple(1 if n == 1 else m for n, m in zip(shape, aligned, strict=True))


@dataclass(frozen=True, kw_only=True)
class _Patches:
    """The windows that cut the image into a sequence, which has `extra` tokens before them."""

    steps: list[PathStep]
    extra: int


def _find_patches(crash: Crash, x: TensorInfo) -> _Patches | None:
    """How a sequence came from the image that the model was given; None where it did not."""
    cat = read_cat(crash.find_producer(x))
    patches = max(cat.parts, key=lambda t: count_elements(t.shape)) if cat is not None else x
    way = [patches, *(t for _, call in crash.walk_back(patches) for t in call.inputs)]
    for info in way:  # the map before it was flattened and transposed
        made = crash.find_producer(info)
        if made is not None and get_call_window(crash, made) is not None:
            patches = info
            break
    steps = list_steps(crash, patches)
    if not steps or not crash.root_inputs or steps[0].before != crash.root_inputs[0].shape[2:]:
        return None
    extra = x.shape[1] - count_elements(steps[-1].after)
    return _Patches(steps=steps, extra=extra) if 0 <= extra <= _MOST_TOKENS else None


def _suspect_patches(crash: Crash, found: _Patches, wanted: int, suspect: Suspect) -> Suspects:
    """A convolution whose patches overlap or leave pixels out: side by side they would fit."""
    windows = [s.window for s in found.steps]
    for i, step in enumerate(found.steps):
        window = step.window
        if window.adaptive or window.transposed or step.call.fqn is None:
            continue
        none, ones = (0,) * len(window.kernel), (1,) * len(window.kernel)
        plain = replace(window, padding=none, dilation=ones)
        for name, size in (("stride", window.kernel), ("kernel_size", window.stride)):
            chain = [*windows[:i], replace(plain, kernel=size, stride=size), *windows[i + 1 :]]
            count = count_elements(apply_windows(chain, found.steps[0].before))
            if window.kernel == window.stride or count != wanted - found.extra:
                continue
            settings: dict[str, Any] = {name: size[0] if len(set(size)) == 1 else size}
            settings |= {"padding": 0} if any(window.padding) else {}
            edit = configure(crash, step.call.fqn, **settings)
            yield replace(
                suspect,
                module=step.call.fqn,
                message=f"{suspect.message}; with {edit.code} in"
                f" {crash.describe_module(step.call.fqn)} there are as many patches as places",
                candidates=(propose(edit, weight=STRONG),),
                needs_proof=True,
            )


def _resize_image(found: _Patches, wanted: int) -> Edit | None:
    """The square image that has a patch for each place of a table of `wanted`."""
    windows, n = [s.window for s in found.steps], len(found.steps[0].before)
    fitting = [
        p
        for p in range(1, LARGEST_INPUT + 1)
        if count_elements(apply_windows(windows, (p,) * n)) == wanted - found.extra
    ]
    # Of the sizes that fit, the one that halves most often: 64 rather than 60.
    size = max(fitting, key=lambda p: (p & -p, -p), default=None)
    return None if size is None else resize_input((size,) * n, exact=True)
