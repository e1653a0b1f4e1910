"""Crashes around a training step rather than in it: a graph given to numpy, samples that cannot be stacked, a module without super().__init__()."""

import ast
from collections.abc import Callable

from torch import Tensor

from cnnprobe.crash.edits.files import write_changes
from cnnprobe.crash.edits.writing import add_first_statement
from cnnprobe.crash.facts.frames import list_calls, read_frame, read_locals
from cnnprobe.crash.facts.source import evaluate
from cnnprobe.crash.training import Crash, Verdict
from cnnprobe.explanation import Repair
from cnnprobe.recorder.inventory import class_of
from cnnprobe.targets.models import unfinished_module

_MOST_SHAPES = 4


def explain_elsewhere(crash: Crash) -> Verdict | None:
    """Why something beside forward, loss, backward and step raised; None where it is nothing of the kind."""
    checks: tuple[Callable[[Crash], Verdict | None], ...] = (
        _without_super,
        _unstacked,
        _graph_to_numpy,
    )
    return next((verdict for check in checks if (verdict := check(crash)) is not None), None)


# -- super().__init__() ------------------------------------------------------------------------------------------------------


def _without_super(crash: Crash) -> Verdict | None:
    module = unfinished_module(crash.error) if isinstance(crash.error, AttributeError) else None
    if module is None:
        return None
    kind, code = (
        class_of(module).__name__,
        getattr(vars(class_of(module)).get("__init__"), "__code__", None),
    )
    written = add_first_statement(code, "super().__init__()") if code is not None else list
    return Verdict(
        diagnosis="missing-attribute",
        message=f"{kind}.__init__ gives the module a layer or parameter before nn.Module.__init__ has run, which makes the place for them",
        arithmetic=f"it has {', '.join(sorted(module.__dict__)) or 'no attribute'} so far",
        repairs=(
            Repair(
                title=f"call super().__init__() first in the __init__ of {kind}",
                code="super().__init__()",
                patch=write_changes(written),
            ),
        ),
        raised_in=f"{kind}.__init__",
    )


# -- samples that cannot be stacked ------------------------------------------------------------------------------------------


def _unstacked(crash: Crash) -> Verdict | None:
    batch = (
        read_frame(crash.error, "torch/utils/data/_utils/collate.py", "collate_tensor_fn") or {}
    ).get("batch")
    tensors = [t for t in batch if isinstance(t, Tensor)] if isinstance(batch, list | tuple) else []
    shapes = list(dict.fromkeys(tuple(t.shape) for t in tensors))
    if len(shapes) < 2:
        return None
    shown = ", ".join(map(str, shapes[:_MOST_SHAPES])) + (
        ", ..." if len(shapes) > _MOST_SHAPES else ""
    )
    pixels = (
        len({len(s) for s in shapes}) == 1
        and len(shapes[0]) == 3
        and len({s[0] for s in shapes}) == 1
    )
    channels = len({s[1:] for s in shapes}) == 1 and len({len(s) for s in shapes}) == 1
    repair = "give the DataLoader a collate_fn that pads the samples to one shape"
    if pixels:
        repair = "bring the images to one size in the Dataset: transforms.Resize((height, width)), as Resize of one number keeps the ratio"
    elif channels:
        repair = "bring the images to one number of channels in the Dataset: image.convert('RGB')"
    return Verdict(
        diagnosis="cat-mismatch",
        message=f"the DataLoader stacks the samples of a batch, and they differ in shape: {shown}",
        arithmetic=f"{len(tensors)} samples of {len(shapes)} shapes",
        repairs=(Repair(title=repair),),
        tensors=tuple(tensors[:2]),
        raised_in="the DataLoader",
    )


# -- .numpy() ----------------------------------------------------------------------------------------------------------------


def _graph_to_numpy(crash: Crash) -> Verdict | None:
    if not isinstance(crash.error, RuntimeError):
        return None
    values = read_locals(crash.error)
    for call in list_calls(crash.error):
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "numpy":
            continue
        value, written = evaluate(call.func.value, values), ast.unparse(call.func.value)
        if isinstance(value, Tensor) and value.requires_grad:
            return _recorded(written, value)
    found = (read_frame(crash.error, "torch/_tensor.py", "__array__") or {}).get("self")
    return _recorded("x", found) if isinstance(found, Tensor) and found.requires_grad else None


def _recorded(written: str, value: Tensor) -> Verdict:
    shape = tuple(value.shape)
    title = (
        f"write {written}.detach().numpy()"
        if value.device.type == "cpu"
        else f"write {written}.detach().cpu().numpy()"
    )
    array = value.detach().cpu().numpy()
    return Verdict(
        diagnosis="graph-to-numpy",
        message=f"{written} requires a gradient, and numpy records no graph: what it computes could not be differentiated",
        arithmetic=f"{shape} {str(value.dtype).removeprefix('torch.')}, requires_grad=True",
        repairs=(
            Repair(
                title=title,
                code=".detach()",
                works=True,
                plausible=True,
                tried=f"tried: it gives an array of {array.shape}",
            ),
            Repair(
                title="put 'with torch.no_grad():' around the forward, if this is no training",
                code="torch.no_grad()",
            ),
        ),
        tensors=(value,),
        raised_in="torch.Tensor.numpy",
    )
