"""A metric that compares the predictions of a batch with the labels of other samples."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.metrics import (
    KEEPING,
    PLAIN,
    SQUASHED,
    find_output,
    is_of_model,
    read_dim,
)
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import images, layers

COMPARING = frozenset({"eq", "ne", "sub", "rsub"})
PAIRING = frozenset({"matmul", "einsum", "cdist", "cosine_similarity"})


def _loop(squeezes: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn
    from torch.nn import functional

    model = layers(nn.Flatten(), lambda: nn.Linear(64, 16), nn.ReLU(), lambda: nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(inputs: Any, targets: Any) -> Any:
        output = model(inputs)
        loss: Any = functional.binary_cross_entropy_with_logits(output.squeeze(1), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = (output.squeeze(1) if squeezes else output) > 0
        return (right == targets).float().mean().item()

    given = images()
    return {
        "model": model, "inputs": given, "targets": (given[:, 0, 0, 0] > 0).float(),
        "optimizer": optimizer, "train_step": train_step,
    }  # fmt: skip


def sick() -> Mapping[str, Any]:
    """Predictions of shape (8, 1) against labels of shape (8,)."""
    return _loop(squeezes=False)


def healthy() -> Mapping[str, Any]:
    """Both have shape (8,)."""
    return _loop(squeezes=True)


@rule(
    code="CP748", name="metric-across-samples", severity=Severity.WARNING, examples=(sick, healthy)
)
def metric_across_samples(evidence: Evidence) -> Iterator[Finding]:
    """A metric compares each prediction with the labels of all samples, or takes the argmax over
    the batch.

    Why it matters: the training is right, and the number that is reported is not: (N, 1) == (N,)
    is broadcast to (N, N), and argmax(0) gives a sample for each class, not a class for each
    sample.
    What to do: squeeze(1) the predictions, or unsqueeze(1) the labels; argmax(1) over the classes.
    Known exceptions: comparisons of labels with labels, distances and similarities between all
    pairs, where each dim has the samples of one side; of code that the steps do not run, only what
    calls the model itself is read.
    Source: PyTorch, "Broadcasting semantics"; torch.argmax, `dim`: "the dimension to reduce".
    """
    flow = Flow(evidence.trace)
    found = [*_list_crossed(flow), *_list_reduced(evidence, flow), *_list_read(evidence)]
    yield from {finding.source: finding for finding in reversed(found)}.values()


# -- what ran --------------------------------------------------------------------------------------


def _list_crossed(flow: Flow) -> Iterator[Finding]:
    """(N, 1) against (N,), outside of the model and beside what is differentiated."""
    for i in flow.primitives(COMPARING):
        call = flow.calls[i]
        is_aside = flow.owner(i) is None and not any(o.requires_grad for o in call.outputs)
        if not is_aside or len(call.inputs) != 2:
            continue
        for mine, other in (call.inputs, call.inputs[::-1]):
            if is_crossed(mine, other) and is_of_model(flow, mine) and not is_of_model(flow, other):
                yield _say_crossed(describe(call), mine.shape, other.shape, call.source)


def is_crossed(mine: TensorInfo, other: TensorInfo) -> bool:
    """Whether a dim of one meets the batch of the other.

    >>> given = {"dtype": "float32", "device": "cpu", "nbytes": 0, "requires_grad": False}
    >>> one, other = TensorInfo(shape=(8, 1), **given), TensorInfo(shape=(8,), **given)
    >>> is_crossed(one, other), is_crossed(one, one)
    (True, False)
    """
    for one, two in ((mine.shape, other.shape), (other.shape, mine.shape)):
        if len(one) > 1 and one[0] > 1 == one[1] and one[:1] + one[2:] == two:
            return True
    return False


def _say_crossed(what: str, mine: tuple[int, ...], other: tuple[int, ...], source: str) -> Finding:
    longer, shorter = sorted((mine, other), key=len, reverse=True)
    count = longer[0] * math.prod(longer)
    fix = "squeeze(1) the predictions" if mine == longer else "unsqueeze(1) the predictions"
    return Finding(
        module=None,
        message=(
            f"{what} compares predictions of shape {mine} with labels of shape {other}: {count} "
            f"pairs, each sample with the labels of all, instead of {math.prod(shorter)}"
        ),
        fix=f"give both the same shape: {fix}",
        source=source,
        kind="crossed",
    )


def _list_reduced(evidence: Evidence, flow: Flow) -> Iterator[Finding]:
    """The argmax over the batch of an output, which is compared with labels."""
    for i in flow.primitives({"argmax", "max"}):
        call = flow.calls[i]
        if flow.owner(i) is not None or not call.inputs or read_dim(call) != 0:
            continue
        shape = _find_shape(evidence, flow, call)
        if shape is not None and _meets_labels(flow, i) and not _pairs_samples(flow, shape):
            yield _say_reduced(describe(call), shape, call.source)


def _find_shape(evidence: Evidence, flow: Flow, call: ModuleCall) -> tuple[int, ...] | None:
    """The shape of the output that a row is given as it is; None where it is something else."""
    output = find_output(evidence)
    given = call.inputs[0]
    origin = flow.origin(given, KEEPING | SQUASHED)
    is_whole = output is not None and given.shape == output.shape
    is_model = origin is not None and flow.owner(origin) is not None
    return given.shape if is_whole and is_model and len(given.shape) > 1 else None


def _pairs_samples(flow: Flow, shape: tuple[int, ...]) -> bool:
    """Whether an output has a number for each pair of samples: two tensors that were computed are
    multiplied or compared, as images with their texts.
    """
    return shape[0] == shape[1] and any(
        [info.shape for info in flow.calls[i].outputs] == [shape]
        and all(isinstance(info.source, int) for info in flow.calls[i].inputs[:2])
        for i in flow.primitives(PAIRING)
    )


def _meets_labels(flow: Flow, row: int) -> bool:
    return any(
        operation(flow.calls[j]) in ("eq", "ne")
        and any(not is_of_model(flow, info) for info in flow.calls[j].inputs)
        for j in flow.passes_on(row)
    )


def _say_reduced(what: str, shape: tuple[int, ...], source: str) -> Finding:
    return Finding(
        module=None,
        message=(
            f"{what} runs over dim 0 of an output of shape {shape}: it chooses one of the "
            f"{shape[0]} samples for each of {shape[1]} classes, and no class for a sample"
        ),
        fix="argmax(1), or max(1), over the classes",
        source=source,
        kind="reduced",
    )


# -- what is read ----------------------------------------------------------------------------------


def _list_read(evidence: Evidence) -> Iterator[Finding]:
    """The same in the text, of what the steps did not run."""
    output = find_output(evidence)
    if output is None or len(output.shape) < 2 or not _has_batch(evidence, output):
        return
    is_paired = _pairs_samples(Flow(evidence.trace), output.shape)
    for read in evidence.texts.outputs:
        is_plain = all(step in PLAIN for step in read.steps)
        if read.kind == "argmax" and read.value == 0 and is_plain and output.shape[1] > 1:
            if is_paired:
                continue
            yield _say_reduced(f"`{read.text}`", output.shape, read.source)
        elif read.kind in ("eq", "ne") and read.is_given and is_plain:
            labels = evidence.targets[0].shape if len(evidence.targets) == 1 else ()
            if output.shape == (*labels, 1) and len(labels) == 1:
                yield _say_crossed(f"`{read.text}`", output.shape, labels, read.source)


def _has_batch(evidence: Evidence, output: TensorInfo) -> bool:
    """Whether dim 0 of the output is the batch."""
    return bool(evidence.inputs) and evidence.inputs[0].shape[:1] == output.shape[:1] != (1,)
