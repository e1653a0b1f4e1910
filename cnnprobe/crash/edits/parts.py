"""Tensors that are changed before a call joins them."""

import ast
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import change_tensor, spell_path
from cnnprobe.crash.edits.calls import RewriteCall, rewrite_call
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.places import open_line, spell_code, write_operand
from cnnprobe.crash.facts.joins import Cat, describe_output, find_parts
from cnnprobe.crash.model_copy import ModelCopy
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidates, propose
from cnnprobe.recorder.values import argument_leaves
from cnnprobe.records.trace import ModuleCall, TensorInfo


def spell_part(crash: Crash, call: ModuleCall, part: TensorInfo) -> str:
    """The name of a tensor in the call; "" where it has none."""
    node = find_parts(crash, call).get(part.path)
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def change_part(
    crash: Crash,
    call: ModuleCall,
    part: TensorInfo,
    change: Callable[..., Tensor],
    code: str,
    *,
    verb: str,
    like: TensorInfo | None = None,
) -> RewriteCall:
    """Pass one tensor of a call through `change`, which is given those of `part` and `like`.

    `code` has {x} for the tensor. `verb` says in the title what is done to it: "flatten".
    Every call on the line is changed, so that `change` should leave alone what fits.
    """
    owner = crash.find_module_above(call.parent)

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = dict(argument_leaves(args, kwargs))
        wanted = [given.get(info.path) for info in (part, like) if info is not None]
        if not all(isinstance(value, Tensor) for value in wanted):  # another call on the line
            return func(*args, **kwargs)
        leaves, structure = tree_flatten((args, kwargs))
        same = [i for i, leaf in enumerate(leaves) if leaf is wanted[0]]
        twice = [path for path, value in given.items() if value is wanted[0]]  # torch.bmm(x, x)
        leaves[same[twice.index(part.path)]] = change(*wanted)
        args, kwargs = tree_unflatten(leaves, structure)
        return func(*args, **kwargs)

    def write() -> list[TextChange]:
        file, _ = open_line(call.source)
        node = find_parts(crash, call).get(part.path)
        if node is None or isinstance(getattr(node, "ctx", None), ast.Store):  # x += ...
            raise UnknownPlaceError
        spelled = spell_code(crash, owner, code)
        return [file.replace(node, spelled.format(x=write_operand(file, node, spelled)))]

    default = "y" if re.search(r"\bx\b", code.replace("{x}", "")) else "x"
    shown = code.format(x=spell_part(crash, call, part) or default)
    title = f"{verb} {describe_output(crash, part)}: {shown}"
    return rewrite_call(crash, call, rewrite, title=title, code=shown, written=write)


def resize_part(
    crash: Crash, call: ModuleCall, part: TensorInfo, like: TensorInfo, *, crop: bool = False
) -> RewriteCall:
    """Give a map the height and width of another: by F.interpolate, or by its first pixels."""

    def interpolate(x: Tensor, other: Tensor) -> Tensor:
        return F.interpolate(x.float(), size=other.shape[2:]).to(x.dtype)

    def keep_first(x: Tensor, other: Tensor) -> Tensor:
        for dim in range(2, x.dim()):
            x = x.narrow(dim, 0, min(x.shape[dim], other.shape[dim]))
        return x

    name = spell_part(crash, call, like)
    if crop:
        sizes = [f"{name}.shape[{i}]" if name else n for i, n in enumerate(like.shape)][2:]
        code = "{x}[..., " + ", ".join(f":{size}" for size in sizes) + "]"
        return change_part(crash, call, part, keep_first, code, verb="crop", like=like)
    size = f"{name}.shape[2:]" if name else like.shape[2:]
    code = f"F.interpolate({{x}}, size={size})"
    return change_part(crash, call, part, interpolate, code, verb="resize", like=like)


def resize_parts(crash: Crash, cat: Cat) -> Candidates:
    """Every part in the size of the one that was made first: in a U-Net the skip."""
    call, parts = cat.call, cat.parts
    first = min(parts, key=lambda t: t.source if isinstance(t.source, int) else -1)
    others = [t for t in parts if t.shape[2:] != first.shape[2:]]
    yield propose(*(resize_part(crash, call, t, first) for t in others))
    larger = [t for t in others if _is_within(first, t)]
    if len(larger) == len(others):
        yield propose(*(resize_part(crash, call, t, first, crop=True) for t in others))
    elif len(others) == 1:
        least = min(parts, key=lambda t: t.shape[2:])
        larger = [t for t in parts if t.shape[2:] != least.shape[2:] and _is_within(least, t)]
        edits = (resize_part(crash, call, t, least, crop=True) for t in larger)
        yield propose(*edits, weight=POSSIBLE)


def _is_within(small: TensorInfo, large: TensorInfo) -> bool:
    return all(m <= n for m, n in zip(small.shape[2:], large.shape[2:], strict=True))


def cat_along(crash: Crash, cat: Cat, dim: int) -> RewriteCall:
    """The concatenation along another dim."""

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        others = {name: value for name, value in kwargs.items() if name not in ("dim", "axis")}
        return func(*args[:1], **others, dim=dim)

    title = f"concatenate along dim={dim}"
    return rewrite_call(
        crash, cat.call, rewrite, title=title, code=f"dim={dim}", keyword=("dim", dim, 1)
    )


def match_inputs(crash: Crash, parts: Sequence[TensorInfo]) -> Candidates:
    """Parts that come from inputs of two sizes: one input in the size of the other."""
    found = [crash.find_root(t) for t in parts]
    roots = [root for root in found if root is not None and len(root.shape) > 1]
    first = roots[0] if roots else None
    for other in roots[1:]:
        if first is None or other.path == first.path or other.shape == first.shape:
            continue
        if len(other.shape) != len(first.shape):
            continue
        for one, like, weight in ((other, first, STRONG), (first, other, USUAL)):
            resize = functools.partial(Tensor.new_zeros, size=like.shape)
            name, size = spell_path(crash, one.path), spell_path(crash, like.path)
            title = f"give {name!r} the size of {size!r}: {like.shape} instead of {one.shape}"
            yield propose(change_tensor(crash, one, resize, "{x}", title=title), weight=weight)
        return


@dataclass(frozen=True, kw_only=True)
class Project(Edit):
    """Pass the shortcut through a layer of its own, which becomes one of the module."""

    kind: str
    source: str
    layer: Callable[[], nn.Module]
    shortcut: tuple[int, ...]
    branch: tuple[int, ...]

    def apply(self, twin: ModelCopy) -> None:
        owner, new = twin.module(self.module), self.layer()

        def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            shapes = [tuple(a.shape) for a in args[:2] if isinstance(a, Tensor)]
            if shapes not in ([self.shortcut, self.branch], [self.branch, self.shortcut]):
                return func(*args, **kwargs)
            is_shortcut = [isinstance(a, Tensor) and tuple(a.shape) == self.shortcut for a in args]
            passed = (new(a) if is_it else a for a, is_it in zip(args, is_shortcut, strict=True))
            return func(*passed, **kwargs)

        count = sum(name.startswith("projection") for name in owner._modules)
        name = f"projection{count or ''}"  # a block may need two
        owner._modules[name] = new
        twin.rewrite(self.kind, self.source, rewrite)
        twin.undo.append(lambda: owner._modules.__delitem__(name))
