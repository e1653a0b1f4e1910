from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.inputs import ChangeArguments
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.frames import get_path, list_frames
from cnnprobe.crash.facts.words import count_of
from cnnprobe.crash.suspect import STRONG, Candidate

_DETECTION = "torchvision/models/detection/"
_CORNERS = """
  import torchvision
  model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
      weights=None, weights_backbone=None, num_classes=3
  )
- boxes = torch.tensor([[30.0, 40.0, 12.0, 20.0]])
+ boxes = torch.tensor([[30.0, 40.0, 42.0, 60.0]])
  args = [torch.rand(3, 64, 64)] * 2, [{"boxes": boxes, "labels": torch.tensor([1])}] * 2
"""
CORNERS = Example(_CORNERS, blames="", repair="'xywh', 'xyxy'", on_meta=False)
_ONE = """
  import torchvision
  model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
      weights=None, weights_backbone=None, num_classes=3
  )
  one = {"boxes": torch.tensor([[30.0, 40.0, 42.0, 60.0]]), "labels": torch.tensor([1])}
- args = [torch.rand(3, 64, 64)] * 2, one
+ args = [torch.rand(3, 64, 64)] * 2, [one, one]
"""
ONE = Example(_ONE, blames="", repair="make a list of 2 dicts", is_tried=False, on_meta=False)

_EMPTY = """
  import torchvision
  model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
      weights=None, weights_backbone=None, num_classes=3
  )
  one = {"boxes": torch.tensor([[30.0, 40.0, 42.0, 60.0]]), "labels": torch.tensor([1])}
- boxes = torch.tensor([])
+ boxes = torch.tensor([]).reshape(-1, 4)
  none = {"boxes": boxes, "labels": torch.zeros(0, dtype=torch.int64)}
  args = [torch.rand(3, 64, 64)] * 2, [one, none]
"""
EMPTY = Example(_EMPTY, blames="", repair="boxes.reshape(-1, 4)", on_meta=False)


@cause("CP0H5", "detection-targets", (CORNERS, ONE, EMPTY), stage="forward", prior=990)
def detection_targets(crash: Crash) -> Suspects:
    """The targets of a detection model are not what torchvision expects.

    Why it happens: COCO writes boxes as (x, y, width, height) and YOLO as centres in shares of
    the image, where torchvision reads two corners, (x1, y1, x2, y2), in pixels; an image without
    objects has no boxes of shape (0, 4).
    What to do: torchvision.ops.box_convert(boxes, "xywh", "xyxy"), and leave out boxes without
    width or height.
    Known exceptions: in eval mode no targets are needed.
    Source: torchvision.models.detection.fasterrcnn_resnet50_fpn, "targets".
    """
    if (given := _read_given(crash)) is None:
        return
    images, targets = given
    if isinstance(targets, Mapping):
        yield _explain_one(images, targets)
        return
    for i, target in enumerate(targets):
        boxes = target.get("boxes") if isinstance(target, Mapping) else None
        if not isinstance(boxes, Tensor) or boxes.is_meta:
            continue
        if boxes.dim() != 2 or boxes.shape[-1] != 4:
            yield _explain_shape(i, boxes)
            return
        flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
        if bool(flat.any()):
            yield _explain_boxes(images, targets, i, int(flat.nonzero()[0]))
            return


def _read_given(crash: Crash) -> tuple[Sequence[Any], Sequence[Any]] | None:
    """The images and the targets that the model was given, as they were before it resized them."""
    if not any(_DETECTION in get_path(frame) for frame in list_frames(crash.error)):
        return None
    given = dict(zip(("images", "targets"), crash.args, strict=False)) | dict(crash.kwargs)
    if not given.get("images") or not given.get("targets"):
        return None
    return given["images"], given["targets"]


def _explain_one(images: Sequence[Any], targets: Mapping[str, Any]) -> Suspect:
    """One dict in the place of a list with one for each image."""

    def change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "targets" in kwargs:
            return args, {**kwargs, "targets": [targets]}
        return (args[0], [targets], *args[2:]), kwargs

    title = "put it into a list: [targets]"
    edit: Any = ChangeArguments(title=title, code="[targets]", function=change)
    if len(images) != 1:
        title = f"make a list of {len(images)} dicts, one for each image, in their order"
        edit = Advice(title=title, code="[{...}, {...}]")
    return blame(
        "",
        "the targets are one dict, but have to be a list with a dict for each image",
        propose(edit, weight=STRONG),
        arithmetic=f"{count_of(len(images), 'image')}; the dict has {', '.join(map(str, targets))}",
        weight=STRONG + 1,
    )


def _explain_shape(i: int, boxes: Tensor) -> Suspect:
    edits: list[Candidate] = []
    if not boxes.numel():
        edits = [_change("boxes.reshape(-1, 4)", lambda boxes, _size: boxes.reshape(-1, 4))]
    message = f"the boxes of target {i} are {tuple(boxes.shape)}, but have to be (objects, 4)"
    return blame("", message, *edits, arithmetic=f"boxes {tuple(boxes.shape)}")


def _explain_boxes(images: Sequence[Any], targets: Sequence[Any], i: int, j: int) -> Suspect:
    every = torch.cat([t["boxes"].reshape(-1, 4) for t in targets])
    height, width = images[i].shape[-2:]
    box = targets[i]["boxes"][j].tolist()
    said = f"box {j} of target {i} has no area as (x1, y1, x2, y2): {box}"
    is_share = bool((every >= 0).all() and (every <= 1).all())
    inside = torch.tensor([width, height], device=every.device) + 1
    fits = bool((every[:, 2:] > 0).all() and (every[:, :2] + every[:, 2:] <= inside).all())
    candidates: list[Candidate] = []
    if is_share:
        said += "; all lie within 0 and 1, as the centres and sizes of YOLO do"
        code = "box_convert(boxes, 'cxcywh', 'xyxy') * boxes.new_tensor([w, h, w, h])"
        candidates = [_change(code, _scale)]
    elif fits:
        said += "; all fit the images as (x, y, width, height), as COCO writes them"
        code = "torchvision.ops.box_convert(boxes, 'xywh', 'xyxy')"
        candidates = [_change(code, _to_corners)]
    else:
        code = "keep = (boxes[:, 2:] > boxes[:, :2]).all(1)"
        text = "leave out the boxes without area, with their labels"
        candidates = [propose(Advice(title=f"{text}: {code}", code=code))]
    arithmetic = (
        f"width {box[2] - box[0]:g}, height {box[3] - box[1]:g}; the image is {width} x {height}"
    )
    return blame("", said, *candidates, arithmetic=arithmetic, weight=STRONG + 1)


def _to_corners(boxes: Tensor, _size: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _scale(boxes: Tensor, size: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1) * size


def _change(code: str, function: Callable[[Tensor, Tensor], Tensor]) -> Candidate:
    """Other boxes in every target."""

    def change(
        args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        images = args[0] if args else kwargs["images"]
        old = kwargs["targets"] if "targets" in kwargs else args[1]
        new = [_change_one(*pair, function) for pair in zip(images, old, strict=False)]
        if "targets" in kwargs:
            return args, {**kwargs, "targets": new}
        return (args[0], new, *args[2:]), kwargs

    title = f"make the boxes of each target corners: {code}"
    if "reshape" in code:
        title = f"make boxes of no objects with four columns: {code}"
    return propose(ChangeArguments(title=title, code=code, function=change), weight=STRONG)


def _change_one(
    image: Tensor, target: Mapping[str, Any], function: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Any]:
    size = target["boxes"].new_tensor([*image.shape[:-3:-1]] * 2)
    return {**target, "boxes": function(target["boxes"], size)}
