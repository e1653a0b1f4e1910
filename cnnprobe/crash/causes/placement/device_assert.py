from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.cause import STAGES, Crash, Suspects, blame, cause
from cnnprobe.crash.facts.words import quote
from cnnprobe.recorder.devices import is_device_lost

_CPU = "run it on the CPU, where the index is named: model.cpu(), x.cpu(), targets.cpu()"
_LOSSES = (nn.CrossEntropyLoss, nn.NLLLoss)


@cause("CP0J8", "device-assert", stage=STAGES[:4], prior=990, decides=True)
def device_assert(crash: Crash) -> Suspects:
    """A kernel on the GPU stopped at an assertion: as a rule an index or a label is out of range.

    Why it happens: a GPU checks indices within its kernels, while Python has long gone on. The
    exception comes from whatever line waits for the device next. Nothing on the device can be
    read any more, so the process must be started anew.
    What to do: see which index is out of range below, or run the same on the CPU. A label must be
    from 0 to C - 1, a token from 0 to num_embeddings - 1, a target of BCELoss from 0 to 1.
    Known exceptions: none.
    Source: torch "CUDA semantics", asynchronous execution.
    """
    if not is_device_lost():
        return
    judged = list(_judge_indices(crash))
    outside = [(module, sentence) for module, sentence, is_outside in judged if is_outside]
    for module, sentence in outside[:1]:
        yield blame(module, sentence, _CPU, evidence=tuple(other for _, other in outside[1:]))
    if not outside:
        yield blame(
            None,
            "an index or a label is out of range on the GPU, which stopped there; "
            "the line that raised only waited for it",
            _CPU,
            evidence=tuple(sentence for _, sentence, _ in judged),
        )


def _judge_indices(crash: Crash) -> Iterator[tuple[str | None, str, bool]]:
    """The module, a sentence, and whether what was given is outside of what is valid."""
    ranges = {name: (low, high) for name, low, high in crash.ranges}
    for fqn, module in crash.modules.items():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            yield _judge(fqn, quote(fqn), "indices", module.num_embeddings, ranges.get("input"))
    classes = _count_classes(crash)
    if classes is not None and "targets" in ranges:
        yield _judge(None, "the output", "labels", classes, ranges["targets"])


def _judge(
    module: str | None, holder: str, what: str, count: int, given: tuple[int, int] | None
) -> tuple[str | None, str, bool]:
    valid = (
        f"{holder} has {count} {'rows' if what == 'indices' else 'classes'}: valid {what} are 0 "
        f"to {count - 1}"
    )
    if given is None:
        return module, valid, False
    said = f"{what} range from {given[0]} to {given[1]}, but {valid}"
    return module, said, given[0] < 0 or given[1] >= count


def _count_classes(crash: Crash) -> int | None:
    """C of an output (N, C, ...) that goes into a loss of classes."""
    is_loss = isinstance(crash.loss_fn, _LOSSES) or getattr(crash.loss_fn, "__name__", "") in (
        "cross_entropy",
        "nll_loss",
    )
    outputs = crash.trace.calls[0].outputs if crash.trace.calls else ()
    if not is_loss or len(outputs) != 1 or len(outputs[0].shape) < 2:
        return None
    return outputs[0].shape[1]
