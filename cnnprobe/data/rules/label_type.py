"""Labels of a type that the loss does not take."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.expectation import Expectation
from cnnprobe.data.facts import Data, Part, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import classifier, images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

_REFUSED = ("int32", "int16", "int8")
_CLASSES = ("cross_entropy", "nll_loss")


def _with(name: str) -> Mapping[str, Any]:
    import torch
    from torch import nn

    given = labels().to(getattr(torch, name))
    return {
        "loader": loader(images(), given),
        "model": classifier(),
        "loss_fn": nn.CrossEntropyLoss(),
    }


def sick() -> Mapping[str, Any]:
    """Class numbers as float32."""
    return _with("float32")


def healthy() -> Mapping[str, Any]:
    """As int64."""
    return _with("int64")


@data_rule(code="CP816", name="label-type", severity=Severity.ERROR, examples=(sick, healthy))
def label_type(data: Data) -> Iterator[Finding]:
    """Labels of a dtype, or of a form, that the loss does not take.

    Why it matters: the loss raises, or takes class numbers for probabilities.
    What to do: labels.long() for a loss over classes, labels.float() for one over probabilities; a
    label that is a list as a tensor, since torch's collate makes of N lists of K numbers a list of
    K tensors of N.
    Known exceptions: nothing is said without a loss. Whole numbers of shape (N, 1) are a warning:
    the training loop may squeeze them.
    Source: torch.nn.CrossEntropyLoss, "target containing class indices";
    torch.nn.BCEWithLogitsLoss.
    """
    loss = data.expected.loss
    for split in data.splits:
        yield from _list_transposed(split, data.expected)
        for part in split.of("class", "value", "multilabel"):
            if loss in _CLASSES and (found := _judge_indices(part, split, loss)):
                yield found
            if loss in _CLASSES and _is_one_hot(part):
                yield Finding(
                    message=(
                        f"{part.path} of the {split.name} data is one-hot in {part.dtype}; {loss} "
                        "takes class indices, or probabilities as floats"
                    ),
                    fix="labels.argmax(dim=1), or labels.float()",
                )
            if data.expected.of_probabilities and part.dtype.startswith(("int", "uint", "bool")):
                yield Finding(
                    message=(
                        f"{part.path} of the {split.name} data is {part.dtype}; {loss} takes floats"
                    ),
                    fix="labels.float()",
                )


def _judge_indices(part: Part, split: Split, loss: str) -> Finding | None:
    """One number of a sample, where a loss over classes takes an int64."""
    floating = part.dtype.startswith("float")
    sizes = {sizes for sizes, _ in part.shapes}
    # The loss takes them for probabilities, or raises.
    rows = part.whole and sizes == {(1,)}
    single = (floating or part.dtype in _REFUSED) and sizes == {()}
    if not (rows or single) or _has_indices(split):
        return None
    form = " of shape (N, 1)" if rows else "" if part.whole else " with fractions"
    fix = "leave the labels out of what scales or normalises the images"
    if part.whole:
        shorter = "squeeze(1)." if rows else ""
        fix = f"labels.{shorter}long(), or int(label) where the data set gives it"
    if not floating and rows:
        fix = "labels.squeeze(1), or int(label) where the data set gives it"
    takes = "int64 of shape (N,)" if rows else "int64"
    return Finding(
        severity=None if floating or single else Severity.WARNING,
        message=f"{part.path} of the {split.name} data is {part.dtype}{form}; {loss} takes class "
        f"indices as {takes}",
        fix=fix,
    )


def _has_indices(split: Split) -> bool:
    """Whether labels of int64 stand beside other numbers, such as the weights of samples."""
    known = (part for part in split.of("class", "mask") if part.dtype == "int64")
    return any({sizes for sizes, _ in part.shapes} != {(1,)} for part in known)


def _list_transposed(split: Split, expected: Expectation) -> Iterator[Finding]:
    """Labels that come as one tensor for each place of a list, before a loss of torch's own."""
    found = split.clues.transposed
    known = expected.of_classes or expected.of_probabilities or expected.of_numbers
    if found is None or not known or _has_other_target(split, found.path):
        return
    places, samples = found.places, found.samples
    yield Finding(
        message=(
            f"{found.path} of the {split.name} data is a list of {places} tensors with a number of "
            f"each of the {samples} samples; {expected.loss} takes one tensor, of shape "
            f"({samples}, {places})"
        ),
        fix="return torch.tensor(label) from the data set, not a list: torch's collate joins the "
        "numbers at each place of lists",
    )


def _has_other_target(split: Split, path: str) -> bool:
    targets = split.of("class", "classes", "multilabel", "value", "mask", "boxes", "points")
    return any(not part.path.startswith(path) for part in targets)


def _is_one_hot(part: Part) -> bool:
    """Whether each row of whole numbers has a single one, on average; of two classes that is what
    any labels of a sequence have.
    """
    widths = [sizes[0] for sizes, _ in part.shapes if len(sizes) == 1]
    if part.role != "multilabel" or part.dtype.startswith(("float", "bfloat")) or not widths:
        return False
    width, mean = widths[0], part.numbers.mean if part.numbers is not None else 0.0
    return width > 2 and abs(mean * width - 1) < 1e-6
