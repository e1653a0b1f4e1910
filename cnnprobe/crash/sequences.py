"""Recurrent layers and attention that were given sequences of another number of features, or in another order of their axes."""

from collections.abc import Iterator

import torch
from torch import nn

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import adapt_call, configure
from cnnprobe.crash.edits.calls import KeepFirst
from cnnprobe.crash.edits.layers import Exchange
from cnnprobe.crash.facts.batches import correct_batches
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.trace import TensorInfo


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong where one of these layers was given the wrong thing."""
    layer, call = crash.leaf, crash.call
    if call is None or not call.inputs:
        return
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        yield from _recurrent(crash, layer, call.inputs[0])
    elif isinstance(layer, nn.MultiheadAttention):
        yield from _attention(crash, layer, call.inputs[0])


def _recurrent(crash: Crash, layer: nn.Module, x: TensorInfo) -> Iterator[Suspect]:
    fqn = crash.call.fqn or "" if crash.call is not None else ""
    wanted = int(layer.input_size)  # type: ignore[arg-type]
    if len(x.shape) < 2:
        return
    if len(x.shape) > 3:
        edit = adapt_call(crash, lambda t: t.flatten(2), "{x}.flatten(2)")
        yield Suspect(
            diagnosis="shape-mismatch",
            module=fqn,
            message=f"{describe_module(crash, fqn)} is for sequences of {wanted} features (3 axes), and {x.shape} has {len(x.shape)}",
            arithmetic=f"{crash.describe_origin(x)} gives {x.shape}",
            candidates=(propose(edit, weight=POSSIBLE),),
        )
    elif x.shape[-1] != wanted:
        candidates = (
            [propose(configure(crash, fqn, input_size=x.shape[-1]))]
            if isinstance(layer, nn.RNNBase)
            else []
        )
        if len(x.shape) == 3 and x.shape[1] == wanted:
            turned = adapt_call(crash, lambda t: t.transpose(1, 2), "{x}.transpose(1, 2)")
            candidates.insert(0, propose(turned, weight=STRONG))
        yield Suspect(
            diagnosis="shape-mismatch",
            module=fqn,
            message=f"{describe_module(crash, fqn)} has input_size {wanted}, and {x.shape[-1]} features arrive from {crash.describe_origin(x)}",
            arithmetic=f"input_size {wanted}, arrived {x.shape}",
            candidates=tuple(candidates),
            weight=STRONG,
        )
    elif crash.call is not None and len(crash.call.inputs) > 1 and isinstance(layer, nn.RNNBase):
        yield _hidden_state(crash, layer, fqn, x)


def _hidden_state(crash: Crash, layer: nn.RNNBase, fqn: str, x: TensorInfo) -> Suspect:
    hidden = crash.call.inputs[1] if crash.call is not None else x
    batch = x.shape[0] if layer.batch_first else x.shape[1]
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    wanted = (rows, batch, layer.proj_size or layer.hidden_size)
    candidates = [propose(configure(crash, fqn, batch_first=not layer.batch_first), weight=USUAL)]
    if len(hidden.shape) == 3 and hidden.shape[1] != batch:
        states = [t for t in crash.inputs[1:] if len(t.shape) == 3 and t.shape[1] != batch]
        edits = correct_batches(crash, states, hidden.shape[1], batch)
        candidates += [propose(*edits, weight=STRONG)] if edits else []
        if all(_is_kept_zeros(crash, t) for t in states):
            title = (
                f"call {quote(fqn)} without a state: it starts from zeros of the right size then"
            )
            candidates.append(propose(KeepFirst(title=title, module=fqn), weight=STRONG))
    kept = crash.find_attribute(hidden) if hidden.source is None else None
    origin = (
        f"the attribute {kept[1]!r} of {describe_module(crash, kept[0])}"
        if kept is not None
        else crash.describe_origin(hidden)
    )
    return Suspect(
        diagnosis="shape-mismatch",
        module=fqn,
        message=f"the hidden state {hidden.shape} does not fit the input {x.shape}: {describe_module(crash, fqn)} with "
        f"batch_first={layer.batch_first} wants {wanted}",
        arithmetic=f"(layers x directions, batch, hidden) = {wanted}, arrived {hidden.shape} from {origin}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _is_kept_zeros(crash: Crash, info: TensorInfo) -> bool:
    """Whether a tensor is an attribute of a module, made of zeros."""
    kept = crash.find_attribute(info) if info.source is None else None
    value = crash.modules[kept[0]].__dict__[kept[1]] if kept is not None else None
    return isinstance(value, torch.Tensor) and not value.is_meta and not bool(value.any())


def _attention(crash: Crash, layer: nn.MultiheadAttention, x: TensorInfo) -> Iterator[Suspect]:
    fqn = crash.call.fqn or "" if crash.call is not None else ""
    if x.shape and x.shape[-1] == layer.embed_dim:
        others = crash.inputs[1:]
        batch_axis = 0 if layer.batch_first else 1
        if (
            others
            and len(others[0].shape) == 3 == len(x.shape)
            and others[0].shape[batch_axis] != x.shape[batch_axis]
        ):
            edit = configure(crash, fqn, batch_first=not layer.batch_first)
            yield Suspect(
                diagnosis="shape-mismatch",
                module=fqn,
                message=f"query {x.shape} and key {others[0].shape} have different batches on axis {batch_axis}, "
                f"which is the batch for batch_first={layer.batch_first}",
                arithmetic=f"{x.shape[batch_axis]} against {others[0].shape[batch_axis]}",
                candidates=(propose(edit, weight=STRONG),),
                weight=STRONG,
            )
        return
    candidates = []
    if x.shape and x.shape[-1] % layer.num_heads == 0:
        candidates.append(propose(configure(crash, fqn, embed_dim=x.shape[-1])))
    candidates += _made_wider(crash, x, layer.embed_dim)
    place = crash.find_container(fqn)
    if len(x.shape) == 3 and x.shape[1] == layer.embed_dim:
        title = f"pass x.transpose(1, 2) to {quote(place)}"
        turned = (
            adapt_call(crash, lambda t: t.transpose(1, 2), "{x}.transpose(1, 2)")
            if place != fqn
            else _transposed_attention(fqn, title)
        )
        candidates.insert(0, propose(turned, weight=STRONG))
    yield Suspect(
        diagnosis="shape-mismatch",
        module=place,
        message=f"{describe_module(crash, fqn)} has embed_dim {layer.embed_dim}, and {x.shape} arrives from {crash.describe_origin(x)}",
        arithmetic=f"embed_dim {layer.embed_dim}, last axis {x.shape[-1] if x.shape else 'none'}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _made_wider(crash: Crash, x: TensorInfo, wanted: int) -> Iterator[Candidate]:
    """The layer that makes the features, with as many as are wanted."""
    for _, call in crash.walk_back(x):
        made = crash.modules.get(call.fqn or "")
        if isinstance(made, nn.modules.conv._ConvNd) and made.out_channels == x.shape[-1]:
            yield propose(configure(crash, call.fqn or "", out_channels=wanted))
        elif isinstance(made, nn.Linear) and made.out_features == x.shape[-1]:
            yield propose(configure(crash, call.fqn or "", out_features=wanted))
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
