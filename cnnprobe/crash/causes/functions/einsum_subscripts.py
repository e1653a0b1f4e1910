import string
from collections.abc import Callable
from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import reshape_parameter, set_argument
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.facts.words import count_elements, read_argument
from cnnprobe.crash.suspect import STRONG, Candidate, Candidates
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall, TensorInfo

_SIZES = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.w = nn.Parameter(torch.randn(7, 8, 4))
+         self.w = nn.Parameter(torch.randn(5, 8, 4))
      def forward(self, x):
          return torch.einsum("bnd,ndk->bnk", x, self.w)
  model, args = Net(), (torch.randn(2, 5, 8),)
"""
SIZES = Example(_SIZES, blames="", repair="the shape (5, 8, 4)")
_MAP = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.k, self.v = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1)
      def forward(self, x):
          weights = self.k(x).flatten(2).softmax(-1)
-         return torch.einsum("bkn,bcn->bkc", weights, self.v(x))
+         return torch.einsum("bkn,bcn->bkc", weights, self.v(x).flatten(2))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
MAP = Example(_MAP, blames="", repair="x.flatten(2)")


@cause("CP062", "einsum-subscripts", (SIZES, MAP), family="shape-mismatch", prior=298)
def einsum_subscripts(crash: Crash) -> Suspects:
    """The equation of an einsum does not fit the shapes of its tensors.

    Why it happens: each letter of a term is one dim, and a letter has one size wherever it
    stands. A map has two dims where a term may have one letter.
    What to do: compare the terms with the shapes; flatten the map or add a letter.
    Known exceptions: a size of 1 fits every size of its letter.
    Source: torch.einsum.
    """
    call = crash.call
    operation = find(call) if call is not None else None
    if call is None or operation is None or operation.name != "einsum":
        return
    equation = read_argument(call, "equation")
    terms = _split_terms(equation) if isinstance(equation, str) else []
    if len(terms) != len(call.inputs) or any("." in term for term in terms):
        return
    for term, info in zip(terms, call.inputs, strict=True):
        if len(term) != len(info.shape):
            yield _explain_rank(crash, call, term, info)
            return
    yield from _explain_sizes(crash, call, terms)


def _split_terms(equation: str) -> list[str]:
    return equation.replace(" ", "").partition("->")[0].split(",")


def _explain_rank(crash: Crash, call: ModuleCall, term: str, info: TensorInfo) -> Suspect:
    equation = read_argument(call, "equation")
    return blame(
        crash.owner,
        f"einsum '{equation}' in {crash.describe_module(crash.owner)} has {len(term)} "
        f"letters '{term}' for {info.shape}, which has {len(info.shape)} dims",
        *_flatten_operand(crash, call, term, info),
        *_add_letter(crash, call, term, info),
        arithmetic=f"{info.shape} from {crash.describe_origin(info)}",
    )


def _add_letter(crash: Crash, call: ModuleCall, term: str, info: TensorInfo) -> Candidates:
    """A letter more, where the tensors have a batch that the equation does not name."""
    equation = read_argument(call, "equation")
    left, arrow, right = equation.replace(" ", "").partition("->")
    if len(info.shape) != len(term) + 1 or not arrow:
        return
    free = next(letter for letter in string.ascii_lowercase if letter not in equation)
    pairs = zip(left.split(","), call.inputs, strict=True)
    terms = (free + t if len(i.shape) == len(t) + 1 else t for t, i in pairs)
    new = f"{','.join(terms)}->{free}{right}"
    title = f"write '{new}' instead of '{equation}' at {{place}}"
    yield propose(set_argument(crash, call, "equation", new, title=title))


def _flatten_operand(crash: Crash, call: ModuleCall, term: str, info: TensorInfo) -> Candidates:
    """Its last dims as one, where another operand has that letter in this size."""
    terms, last = _split_terms(read_argument(call, "equation")), len(term) - 1
    pairs = [(t, i.shape) for t, i in zip(terms, call.inputs, strict=True)]
    known = {size for t, s in pairs if len(t) == len(s) for size in zip(t, s, strict=True)}
    size = count_elements(info.shape[last:])
    if last < 1 or len(info.shape) <= len(term) or (term[last], size) not in known:
        return

    def flatten(value: Any) -> Any:
        is_meant = isinstance(value, Tensor) and tuple(value.shape) == info.shape
        return value.flatten(last) if is_meant else value

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*map(flatten, args), **kwargs)

    title = f"flatten what comes from {crash.describe_origin(info)} first: x.flatten({last})"
    code = f"{{x}}.flatten({last})"
    yield propose(rewrite_call(crash, call, rewrite, title=title, code=code), weight=STRONG)


def _explain_sizes(crash: Crash, call: ModuleCall, terms: list[str]) -> Suspects:
    """The first letter that has two sizes."""
    seen: dict[str, tuple[int, TensorInfo]] = {}
    for term, info in zip(terms, call.inputs, strict=True):
        for letter, size in zip(term, info.shape, strict=True):
            before, first = seen.setdefault(letter, (size, info))
            if before == 1:
                seen[letter] = (size, info)
            elif size not in (1, before):
                yield _explain_letter(crash, call, letter, ((before, first), (size, info)))
                return


def _explain_letter(
    crash: Crash,
    call: ModuleCall,
    letter: str,
    pair: tuple[tuple[int, TensorInfo], tuple[int, TensorInfo]],
) -> Suspect:
    equation, module = read_argument(call, "equation"), crash.owner
    candidates: list[Candidate] = []
    for (_, info), (wanted, _) in (pair, pair[::-1]):
        if isinstance(info.source, str):
            sizes = zip(_split_terms(equation)[call.inputs.index(info)], info.shape, strict=True)
            shape = tuple(wanted if each == letter else n for each, n in sizes)
            edit = reshape_parameter(crash, info.source, shape)
            candidates += [propose(edit)] if edit is not None else []
            module = crash.owner_of_parameter(info.source)
            break
    (m, a), (n, b) = pair
    message = (
        f"einsum '{equation}' in {crash.describe_module(crash.owner)}: '{letter}' is "
        f"{m} in {a.shape} but {n} in {b.shape}"
    )
    arithmetic = "; ".join(f"{t.shape} from {crash.describe_origin(t)}" for t in (a, b))
    return blame(module, message, *candidates, arithmetic=arithmetic)
