"""Remedies of masks before a softmax."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.recorder.functions import operation_of
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.kinds.calls import instead, rows_at
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import Subject


@answers("mask-of-zeros")
def fill_with_infinity(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Minus infinity in the place of what is masked."""
    for _, call in rows_at(finding, evidence)[:1]:
        if finding.kind == "after-softmax":
            yield Remedy(
                title="move the mask before the softmax",
                change=instead(call, _share_out),
                shows="what is masked gets a weight of 0, and the others add up to 1",
                is_comparable=False,
            )
            return
        yield Remedy(
            title=f'scores.masked_fill(mask == 0, float("-inf")) in place of {describe(call)}',
            change=instead(call, _fill),
            shows="what is masked gets a weight of 0",
            is_comparable=False,
        )


def _share_out(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a softmax of masked scores gives: the weights of the others over their sum."""
    weights = args[0].masked_fill(args[1], 0.0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)


def _fill(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As masked_fill with minus infinity; a row that is masked entirely stays as it is."""
    first, second = args[:2]
    if second.dtype == torch.bool and func is not torch.mul and len(args) + len(kwargs) > 2:
        return _mask(first, second)
    scores, mask = (first, second) if first.requires_grad else (second, first)
    return _mask(scores, mask == 0)


def _mask(scores: Tensor, hidden: Tensor) -> Tensor:
    whole = hidden.expand_as(scores).all(-1, keepdim=True)
    return scores.masked_fill(hidden & ~whole, float("-inf"))


# -- the future ------------------------------------------------------------------------------------

_MASKED = {
    nn.MultiheadAttention: "attn_mask",
    nn.TransformerEncoder: "mask",
    nn.TransformerEncoderLayer: "src_mask",
    nn.TransformerDecoder: "tgt_mask",
    nn.TransformerDecoderLayer: "tgt_mask",
}


@answers("future-seen")
def hide_future(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A causal mask in each attention of a sequence to itself."""
    if finding.kind == "copied":
        return  # the steps of the targets are wrong, not the mask
    flow = Flow(evidence.evaluation or evidence.trace)
    softmaxes = [flow.calls[i] for i in flow.primitives({"softmax", "masked_fill", "attention"})]
    if not softmaxes and not any(type(m) in _MASKED for m in model.modules()):
        return
    yield Remedy(
        title="mask = torch.ones(T, T, dtype=torch.bool).triu(1) in the attention",
        change=lambda subject: _hide(subject, softmaxes),
        shows="no output depends on later inputs",
        is_comparable=False,  # what saw the answers had the lower loss
    )


def _hide(subject: Subject, softmaxes: list[ModuleCall]) -> None:
    for module in list(subject.model.modules()):
        name = _MASKED.get(type(module))
        if name is not None:
            module.register_forward_pre_hook(_give_mask(module, name), with_kwargs=True)
    for kind, source in {(c.kind, c.source) for c in softmaxes if c.fqn is None}:
        subject.rewrite(kind, source, _mask_scores)


def _give_mask(module: nn.Module, name: str) -> Callable[..., Any]:
    names = list(inspect.signature(type(module).forward).parameters)[1:]

    def give(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(names, args, strict=False)) | kwargs
        first = args[0] if args else named[names[0]]
        is_own = name != "attn_mask" or named["key"] is named["query"]
        if is_own and first.dim() == 3:
            axis = 1 if _is_batch_first(module) else 0
            hidden = _future(first.shape[axis], first.device)
            named |= {name: hidden}
            named.pop("is_causal", None)
        return (), named

    return give


def _is_batch_first(module: nn.Module) -> bool:
    return any(bool(getattr(m, "batch_first", False)) for m in module.modules())


def _future(steps: int, device: torch.device) -> Tensor:
    return torch.ones(steps, steps, dtype=torch.bool, device=device).triu(1)


def _mask_scores(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scores, *others = args
    if operation_of(func).kind.rpartition(".")[2].rstrip("_") == "masked_fill":
        is_square = scores.dim() > 2 and scores.shape[-1] == scores.shape[-2]
        return scores if is_square else func(*args, **kwargs)
    if func is F.scaled_dot_product_attention:
        if scores.shape[-2] != others[0].shape[-2]:
            return func(*args, **kwargs)
        kept = {k: v for k, v in kwargs.items() if k != "attn_mask"}
        return func(scores, *others[:2], **{**kept, "is_causal": True})
    if scores.dim() < 3 or scores.shape[-1] != scores.shape[-2]:
        return func(*args, **kwargs)
    hidden = _future(scores.shape[-1], scores.device)
    return func(scores.masked_fill(hidden, float("-inf")), *others, **kwargs)
