"""Sees targets that are boxes of another form than the one that the user's code reads."""

import re
from collections.abc import Iterator
from types import CodeType

import torch
from torch import Tensor

from cnnprobe.diagnosis.evidence import MisreadBoxes
from cnnprobe.recorder.inventory import has_values
from cnnprobe.recorder.values import leaves
from cnnprobe.training.request import Request
from cnnprobe.training.surroundings import Surroundings

CENTERS = re.compile(r"c_?x_?c_?y_?w_?h|x_?c_?y_?c_?w_?h|center.*(corner|xyxy)", re.IGNORECASE)
FEWEST = 16  # boxes
MANY = 0.1  # of them, beyond an edge
SLACK = 0.01  # of the picture
NORMALISED = 1.01  # the greatest number of boxes whose picture is 1 wide and high
Frame = tuple[float, float]  # width and height


def find_misread(request: Request, around: Surroundings) -> MisreadBoxes | None:
    """Boxes of the targets that all lie within the picture in one form, and not in the one that
    they are read in.
    """
    readers = list(_list_readers(around))
    if not readers:
        return None
    name, as_centers, source = readers[0]
    for path, target in leaves(request.targets):
        boxes = _read_boxes(target)
        if boxes is None:
            continue
        frame = _find_frame(boxes, request)
        beyond = [_measure_beyond(boxes, frame, centered=c) for c in (as_centers, not as_centers)]
        if beyond[0] >= MANY and beyond[1] == 0:
            return MisreadBoxes(
                function=name, target=f"targets{path}", as_centers=as_centers, outside=beyond[0],
                source=source,
            )  # fmt: skip
    return None


def _list_readers(around: Surroundings) -> Iterator[tuple[str, bool, str]]:
    """The functions that read centers and sizes, or a corner and a size, by their names; those of
    torchvision by the form that is asked for.
    """
    codes = list(dict.fromkeys(f.__code__ for f in around.functions))
    for code in codes:
        source = f"{code.co_filename}:{code.co_firstlineno}"
        called = next((n for n in code.co_names if CENTERS.search(n)), None)
        if called is not None and re.search(r"xyxy|corner", called, re.IGNORECASE):
            yield called, True, source
        elif "box_convert" in code.co_names:
            form = _find_form(code)
            if form is not None:
                yield "box_convert", form == "cxcywh", source


def _find_form(code: CodeType) -> str | None:
    """What `box_convert` makes corners of, where only one form is named."""
    given = [str(c) for c in _flatten(code.co_consts) if c in ("cxcywh", "xywh")]
    return given[0] if len(set(given)) == 1 and "xyxy" in set(_flatten(code.co_consts)) else None


def _flatten(constants: tuple[object, ...]) -> Iterator[object]:
    for constant in constants:
        yield from constant if isinstance(constant, tuple) else (constant,)


def _read_boxes(target: object) -> Tensor | None:
    if not isinstance(target, Tensor) or not has_values(target) or target.dim() not in (2, 3):
        return None
    if target.shape[-1] != 4 or not target.is_floating_point():
        return None
    boxes = target.detach().reshape(-1, 4).double()
    boxes = boxes[(boxes[:, 2:] > 0).all(1) & torch.isfinite(boxes).all(1)]
    return boxes if len(boxes) >= FEWEST and bool((boxes >= 0).all()) else None


def _find_frame(boxes: Tensor, request: Request) -> Frame:
    if float(boxes.max()) <= NORMALISED:
        return 1.0, 1.0
    shapes = [t.shape for _, t in leaves(request.inputs) if isinstance(t, Tensor) and t.dim() > 2]
    return (float(shapes[0][-1]), float(shapes[0][-2])) if shapes else (0.0, 0.0)


def _measure_beyond(boxes: Tensor, frame: Frame, *, centered: bool) -> float:
    """The share of the boxes that reach out of the picture."""
    size, picture = boxes[:, 2:], torch.tensor(frame, dtype=boxes.dtype, device=boxes.device)
    low = boxes[:, :2] - (0.5 * size if centered else 0.0)
    beyond = (low < -SLACK * picture) | (low + size > (1 + SLACK) * picture)
    return float(beyond.any(1).double().mean())
