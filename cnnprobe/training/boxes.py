"""Sees boxes that are no boxes where an overlap of boxes is computed: the second corner lies before
the first.
"""

import math
import types
from collections.abc import Iterator

import torch
from torch import Tensor

from cnnprobe.diagnosis.evidence import Event

NAMES = ("iou", "overlap")  # in the name of a function that computes one
FEW = 0.05  # of the boxes may be no boxes, as those that stand for none
# Of (0, 0, 1, 1) and (0.5, 0, 1.5, 1) as corners: 1/3 is their IoU and their GIoU; DIoU and CIoU
# take 1/13 off, the distance of the centers over the diagonal of the hull, both squared.
OVERLAPS = (1 / 3, 1 / 3 - 0.25 / 3.25)


def is_overlap(code: types.CodeType) -> bool:
    """Whether a function's name says that it computes an overlap of two things."""
    return code.co_argcount > 1 and any(name in code.co_name.lower() for name in NAMES)


def find_inverted(frame: types.FrameType) -> Iterator[Event]:
    """The call of a function that reads corners, where it is given targets that are none."""
    share, caller = _measure_invalid(frame), frame.f_back
    if share > FEW and caller is not None:
        line = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        yield Event(kind="boxes", subject=frame.f_code.co_name, rate=share, source=line)


def _measure_invalid(frame: types.FrameType) -> float:
    """The share of the boxes without gradient, among the first two arguments of a call that reads
    corners, whose second corner lies before the first; 0 where there are none. Under no_grad
    predictions have no gradient either: the argument with the smaller share counts.
    """
    code, given = frame.f_code, frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    boxes = [given.get(name) for name in names[:2]]
    if not all(isinstance(b, Tensor) and b.dim() == 2 and b.shape[-1] == 4 for b in boxes):
        return 0.0
    shares = [_find_share(b) for b in boxes if isinstance(b, Tensor) and not b.requires_grad]
    worst = (max if torch.is_grad_enabled() else min)(shares, default=0.0)
    rest = {name: given[name] for name in names[2:] if name in given}
    return worst if worst and _reads_corners(frame, names[:2], rest) else 0.0


def _find_share(boxes: Tensor) -> float:
    if not len(boxes):
        return 0.0
    return float((boxes[:, 2:] < boxes[:, :2]).any(1).double().mean())


def _reads_corners(frame: types.FrameType, names: tuple[str, ...], rest: dict[str, object]) -> bool:
    """Whether the function takes four numbers for two corners: tried on two boxes."""
    code = frame.f_code
    cells = tuple(types.CellType(frame.f_locals.get(name)) for name in code.co_freevars)
    function = types.FunctionType(code, frame.f_globals, code.co_name, None, cells)
    pair = [torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.5, 0.0, 1.5, 1.0]])]
    try:
        with torch.no_grad():
            found = function(**dict(zip(names, pair, strict=True)), **rest)
        value = float(found) if isinstance(found, Tensor) else math.nan
    except Exception:  # not a function of boxes alone
        return False
    known = [v for overlap in OVERLAPS for v in (overlap, 1 - overlap)]
    return any(math.isclose(value, v, abs_tol=1e-4) for v in known)
