"""An explanation as people read it: the fault and the module to blame, the evidence, the repairs
with what they were tried on.
"""

from collections.abc import Iterator

from cnnprobe.document.blocks import Block, Code, Facts, Notice
from cnnprobe.records.explanation import Explanation, Repair
from cnnprobe.records.trace import TensorInfo

_MOST_TENSORS = 4
_STAGES = {
    "forward": "forward pass",
    "loss": "loss",
    "backward": "backward pass",
    "step": "optimizer",
}


def build_explanation_notice(explanation: Explanation, *, key: str = "") -> Notice:
    """The fault, the module to blame and the best repair; `key` is that of the row where torch
    raised.
    """
    fix = explanation.repairs[0].title if explanation.repairs else ""
    return Notice(
        severity="error",
        text=f"{explanation.diagnosis}: {explanation.message}",
        where=_describe_place(explanation),
        fix=fix,
        key=key,
    )


def build_evidence_blocks(explanation: Explanation) -> Iterator[Block]:
    """What shows that it is so, and the repairs, each with what came of trying it."""
    pairs = tuple((name, text) for name, text in _list_facts(explanation) if text)
    if pairs:
        yield Facts(pairs=pairs)
    if explanation.repairs:
        yield Facts(
            title="Repairs",
            pairs=tuple(
                _describe_repair(i, repair) for i, repair in enumerate(explanation.repairs, start=1)
            ),
        )


def build_patch_blocks(explanation: Explanation) -> Iterator[Block]:
    """The best repair whose line is known, as a diff of the user's file."""
    for repair in explanation.repairs:
        if repair.patch:
            yield Code(
                text=repair.patch, language="diff", title=f"The repair as a patch: {repair.title}"
            )
            return


def _describe_place(explanation: Explanation) -> str:
    if explanation.module is None:
        place = f"the {_STAGES.get(explanation.stage, explanation.stage)}, no module of the model"
    else:
        place = f"module {explanation.module!r}" if explanation.module else "the model itself"
        place += f" ({explanation.kind})" if explanation.kind else ""
    return place + (f", at {explanation.source}" if explanation.source else "")


def _list_facts(explanation: Explanation) -> Iterator[tuple[str, str]]:
    yield "because", explanation.arithmetic
    yield "raised in", explanation.raised_in
    yield (
        "got",
        "; ".join(_describe_tensor(info) for info in explanation.arrived[:_MOST_TENSORS]),
    )
    yield "made by", explanation.origin
    yield "line", explanation.line
    yield "torch says", explanation.error.split("\n", maxsplit=1)[0]
    for sentence in explanation.evidence:
        yield "note", sentence


def _describe_tensor(info: TensorInfo) -> str:
    text = f"{info.shape} {info.dtype}"
    if info.device != "cpu":
        text += f" on {info.device}"
    if info.strides is not None and not _is_contiguous(info):
        text += f" strides {info.strides}"
    return text


def _is_contiguous(info: TensorInfo) -> bool:
    expected = 1
    for n, stride in zip(reversed(info.shape), reversed(info.strides or ()), strict=False):
        if n != 1 and stride != expected:
            return False
        expected *= n
    return True


def _describe_repair(number: int, repair: Repair) -> tuple[str, str]:
    return str(number), f"{repair.title}\n{repair.outcome}"
