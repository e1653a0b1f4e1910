"""Boxes that are no boxes where their overlap is computed."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron


def _fit(corners: bool) -> Mapping[str, Any]:
    import torch

    def box_iou(first: Any, second: Any) -> Any:
        start = torch.maximum(first[:, :2], second[:, :2])
        end = torch.minimum(first[:, 2:], second[:, 2:])
        shared = (end - start).clamp(min=0).prod(1)
        areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
        return shared / (areas[0] + areas[1] - shared)

    torch.manual_seed(0)
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def train_step(inputs: Any, targets: Any) -> None:
        optimizer.zero_grad()
        boxes = model(inputs).sigmoid()
        known = targets
        if corners:
            known = torch.cat([known[:, :2] - known[:, 2:] / 2, known[:, :2] + known[:, 2:] / 2], 1)
        loss = (boxes - known).abs().mean() + (1 - box_iou(boxes, known)).mean()
        loss.backward()
        optimizer.step()

    centers, sizes = torch.rand(8, 2) * 0.4 + 0.3, torch.rand(8, 2) * 0.2 + 0.1
    return {
        "model": model,
        "inputs": torch.randn(8, 1, 8, 8),
        "targets": torch.cat([centers, sizes], 1),
        "optimizer": optimizer,
        "train_step": train_step,
    }


def sick() -> Mapping[str, Any]:
    """Centers and sizes are given to a function of corners."""
    return _fit(corners=False)


def healthy() -> Mapping[str, Any]:
    """They are made corners before."""
    return _fit(corners=True)


@rule(code="CP744", name="inverted-boxes", severity=Severity.WARNING, examples=(sick, healthy))
def inverted_boxes(evidence: Evidence) -> Iterator[Finding]:
    """A function that reads boxes as two corners is given boxes without gradient whose second
    corner lies before the first; or targets are read as centers and sizes that are a corner and a
    size.

    Why it matters: centers and sizes read as corners have other areas, some of them negative; the
    overlap is wrong and no error is raised.
    What to do: make them corners first, as torchvision.ops.box_convert(boxes, "cxcywh", "xyxy").
    Known exceptions: functions that read centers or sizes, which a try on two boxes tells; boxes
    that the model predicts, which may be anything, so that under no_grad both arguments have to be
    no corners; empty boxes; of centers and corners, boxes that lie within the picture either way.
    Source: the arguments of functions whose name speaks of an IoU or overlap; Rezatofighi et al.
    2019, arXiv:1902.09630, algorithm 2.
    """
    seen: set[str] = set()
    for event in (e for step in evidence.steps for e in step.events if e.kind == "boxes"):
        if event.subject in seen:
            continue
        seen.add(event.subject)
        yield Finding(
            module=None,
            message=(
                f"{event.subject} reads boxes as corners (x1, y1, x2, y2), but {event.rate:.0%} of "
                "the boxes without gradient that it is given have x2 < x1 or y2 < y1: they are no "
                "corners"
            ),
            fix=(
                f"convert the boxes before {event.subject}: "
                'torchvision.ops.box_convert(boxes, "cxcywh", "xyxy") where they are centers and '
                "sizes"
            ),
            source=event.source,
            subject=event.subject,
        )
    misread = evidence.code.boxes
    if misread is not None:
        form, other = ("centers and sizes", "corners and sizes (x1, y1, w, h)")
        if not misread.as_centers:
            form, other = "corners and sizes", "centers and sizes (xc, yc, w, h)"
        yield Finding(
            module=None,
            message=(
                f"{misread.function} reads {misread.target} as {form}, but {misread.outside:.0%} "
                f"of the boxes reach out of the picture then, and none does as {other}"
            ),
            fix=(
                f"make {misread.target} {form} where the data are read: "
                f"torchvision.ops.box_convert(boxes, {_say_forms(centered=misread.as_centers)})"
            ),
            source=misread.source,
            subject=misread.function,
            kind="form",
        )


def _say_forms(*, centered: bool) -> str:
    return '"xywh", "cxcywh"' if centered else '"cxcywh", "xywh"'
