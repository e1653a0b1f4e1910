"""Recurrent layers and attention that were given sequences of another number of features, or in another order of their axes."""

from collections.abc import Iterator

import torch
from torch import nn

from cnnprobe.crash import hardwiring
from cnnprobe.crash.adapting import before_call, configured
from cnnprobe.crash.case import Case, named, quoted
from cnnprobe.crash.edits import Exchange, KeepFirst
from cnnprobe.crash.suspicion import POSSIBLE, STRONG, USUAL, Candidate, Suspicion, candidate
from cnnprobe.trace import TensorInfo


def suspect(case: Case) -> Iterator[Suspicion]:
    """What may be wrong where one of these layers was given the wrong thing."""
    layer, call = case.leaf, case.call
    if call is None or not call.inputs:
        return
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        yield from _recurrent(case, layer, call.inputs[0])
    elif isinstance(layer, nn.MultiheadAttention):
        yield from _attention(case, layer, call.inputs[0])


def _recurrent(case: Case, layer: nn.Module, x: TensorInfo) -> Iterator[Suspicion]:
    fqn = case.call.fqn or "" if case.call is not None else ""
    wanted = int(layer.input_size)  # type: ignore[arg-type]
    if len(x.shape) < 2:
        return
    if len(x.shape) > 3:
        edit = before_call(case, lambda t: t.flatten(2), "{x}.flatten(2)")
        yield Suspicion(
            diagnosis="shape-mismatch",
            module=fqn,
            message=f"{named(case, fqn)} is for sequences of {wanted} features (3 axes), and {x.shape} has {len(x.shape)}",
            arithmetic=f"{case.origin(x)} gives {x.shape}",
            candidates=(candidate(edit, weight=POSSIBLE),),
        )
    elif x.shape[-1] != wanted:
        candidates = (
            [candidate(configured(case, fqn, input_size=x.shape[-1]))]
            if isinstance(layer, nn.RNNBase)
            else []
        )
        if len(x.shape) == 3 and x.shape[1] == wanted:
            turned = before_call(case, lambda t: t.transpose(1, 2), "{x}.transpose(1, 2)")
            candidates.insert(0, candidate(turned, weight=STRONG))
        yield Suspicion(
            diagnosis="shape-mismatch",
            module=fqn,
            message=f"{named(case, fqn)} has input_size {wanted}, and {x.shape[-1]} features arrive from {case.origin(x)}",
            arithmetic=f"input_size {wanted}, arrived {x.shape}",
            candidates=tuple(candidates),
            weight=STRONG,
        )
    elif case.call is not None and len(case.call.inputs) > 1 and isinstance(layer, nn.RNNBase):
        yield _hidden_state(case, layer, fqn, x)


def _hidden_state(case: Case, layer: nn.RNNBase, fqn: str, x: TensorInfo) -> Suspicion:
    hidden = case.call.inputs[1] if case.call is not None else x
    batch = x.shape[0] if layer.batch_first else x.shape[1]
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    wanted = (rows, batch, layer.proj_size or layer.hidden_size)
    candidates = [candidate(configured(case, fqn, batch_first=not layer.batch_first), weight=USUAL)]
    if len(hidden.shape) == 3 and hidden.shape[1] != batch:
        states = [t for t in case.inputs[1:] if len(t.shape) == 3 and t.shape[1] != batch]
        edits = hardwiring.corrected(case, states, hidden.shape[1], batch)
        candidates += [candidate(*edits, weight=STRONG)] if edits else []
        if all(_is_kept_zeros(case, t) for t in states):
            title = (
                f"call {quoted(fqn)} without a state: it starts from zeros of the right size then"
            )
            candidates.append(candidate(KeepFirst(title=title, module=fqn), weight=STRONG))
    kept = case.attribute_of(hidden) if hidden.source is None else None
    origin = (
        f"the attribute {kept[1]!r} of {named(case, kept[0])}"
        if kept is not None
        else case.origin(hidden)
    )
    return Suspicion(
        diagnosis="shape-mismatch",
        module=fqn,
        message=f"the hidden state {hidden.shape} does not fit the input {x.shape}: {named(case, fqn)} with "
        f"batch_first={layer.batch_first} wants {wanted}",
        arithmetic=f"(layers x directions, batch, hidden) = {wanted}, arrived {hidden.shape} from {origin}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _is_kept_zeros(case: Case, info: TensorInfo) -> bool:
    """Whether a tensor is an attribute of a module, made of zeros."""
    kept = case.attribute_of(info) if info.source is None else None
    value = case.modules[kept[0]].__dict__[kept[1]] if kept is not None else None
    return isinstance(value, torch.Tensor) and not value.is_meta and not bool(value.any())


def _attention(case: Case, layer: nn.MultiheadAttention, x: TensorInfo) -> Iterator[Suspicion]:
    fqn = case.call.fqn or "" if case.call is not None else ""
    if x.shape and x.shape[-1] == layer.embed_dim:
        others = case.inputs[1:]
        batch_axis = 0 if layer.batch_first else 1
        if (
            others
            and len(others[0].shape) == 3 == len(x.shape)
            and others[0].shape[batch_axis] != x.shape[batch_axis]
        ):
            edit = configured(case, fqn, batch_first=not layer.batch_first)
            yield Suspicion(
                diagnosis="shape-mismatch",
                module=fqn,
                message=f"query {x.shape} and key {others[0].shape} have different batches on axis {batch_axis}, "
                f"which is the batch for batch_first={layer.batch_first}",
                arithmetic=f"{x.shape[batch_axis]} against {others[0].shape[batch_axis]}",
                candidates=(candidate(edit, weight=STRONG),),
                weight=STRONG,
            )
        return
    candidates = []
    if x.shape and x.shape[-1] % layer.num_heads == 0:
        candidates.append(candidate(configured(case, fqn, embed_dim=x.shape[-1])))
    candidates += _made_wider(case, x, layer.embed_dim)
    place = case.outermost_starting_with(fqn)
    if len(x.shape) == 3 and x.shape[1] == layer.embed_dim:
        title = f"pass x.transpose(1, 2) to {quoted(place)}"
        turned = (
            before_call(case, lambda t: t.transpose(1, 2), "{x}.transpose(1, 2)")
            if place != fqn
            else _transposed_attention(fqn, title)
        )
        candidates.insert(0, candidate(turned, weight=STRONG))
    yield Suspicion(
        diagnosis="shape-mismatch",
        module=place,
        message=f"{named(case, fqn)} has embed_dim {layer.embed_dim}, and {x.shape} arrives from {case.origin(x)}",
        arithmetic=f"embed_dim {layer.embed_dim}, last axis {x.shape[-1] if x.shape else 'none'}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _made_wider(case: Case, x: TensorInfo, wanted: int) -> Iterator[Candidate]:
    """The layer that makes the features, with as many as are wanted."""
    for _, call in case.lineage(x):
        made = case.modules.get(call.fqn or "")
        if isinstance(made, nn.modules.conv._ConvNd) and made.out_channels == x.shape[-1]:
            yield candidate(configured(case, call.fqn or "", out_channels=wanted))
        elif isinstance(made, nn.Linear) and made.out_features == x.shape[-1]:
            yield candidate(configured(case, call.fqn or "", out_features=wanted))
        if made is not None and made._parameters:
            return


def _transposed_attention(fqn: str, title: str) -> Exchange:
    class Turned(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: torch.Tensor, **kwargs: object) -> object:
            return self.inner(
                *(
                    a.transpose(1, 2) if isinstance(a, torch.Tensor) and a.dim() == 3 else a
                    for a in args
                ),
                **kwargs,
            )

    return Exchange(title=title, code="x.transpose(1, 2)", module=fqn, layer=Turned)
