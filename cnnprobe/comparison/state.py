"""Values that a comparison holds against each other without a forward pass's activations:
state_dicts, gradients, autograd graphs.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.comparison.numbers import Tolerance
from cnnprobe.comparison.passes import Side, copy_inputs, set_mode
from cnnprobe.comparison.witnesses import find_difference
from cnnprobe.recorder import Recording, preserved
from cnnprobe.recorder.inventory import has_values, named_modules
from cnnprobe.recorder.preservation import preserved_generators
from cnnprobe.recorder.values import EXACT, drop_output, leaves
from cnnprobe.records.differences import Discrepancy

_SEED = 0  # of the random direction in which the outputs are differentiated


# -- state_dict ------------------------------------------------------------------------------------


def list_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by all their names."""
    found: dict[str, Tensor] = {}
    for fqn, module, _ in named_modules(model):
        for registry in (module._parameters, module._buffers):
            found.update(
                {
                    (f"{fqn}.{name}" if fqn else name): tensor
                    for name, tensor in registry.items()
                    if tensor is not None
                }
            )
    return found


def compare_values(
    actual: nn.Module, expected: nn.Module, names: Mapping[str, str]
) -> dict[str, Discrepancy | str]:
    """Mapped parameters and buffers that do not hold the same: name in the actual model -> how far
    apart, or in words why.
    """
    ours, theirs = list_tensors(actual), list_tensors(expected)
    found: dict[str, Discrepancy | str] = {}
    for name, other in names.items():
        if name not in ours or other not in theirs:
            continue  # registered in the forward pass, and undone with it
        a, b = ours[name].detach(), theirs[other].detach()
        narrow = a.dtype if a.element_size() <= b.element_size() else b.dtype
        if has_values(a) and has_values(b):
            a, b = a.to(narrow), b.to(a.device, narrow)
        difference = find_difference(a, b, Tolerance(rtol=0.0, atol=0.0), 1)
        if difference is not None:
            found[name] = difference
    return found


def find_strayed_values(
    actual: nn.Module, expected: nn.Module, names: Mapping[str, str], apart: Mapping[str, object]
) -> dict[str, str]:
    """Of the values that differ, those that stand elsewhere in the expected model: name in the
    actual model -> name there.
    """
    ours, theirs = list_tensors(actual), list_tensors(expected)
    homes: dict[tuple[Any, ...], list[str]] = {}
    for name in names.values():
        if name in theirs and theirs[name].numel() > 1 and _is_plain(theirs[name]):
            homes.setdefault(_compute_digest(theirs[name]), []).append(name)
    found = {}
    for name in (each for each in apart if each in ours and _is_plain(ours[each])):
        for home in homes.get(_compute_digest(ours[name]), ()):
            if home != names[name] and torch.equal(ours[name].cpu(), theirs[home].cpu()):
                found[name] = home
                break
    return found


def _compute_digest(tensor: Tensor) -> tuple[Any, ...]:
    flat = tensor.detach().reshape(-1)
    return tuple(tensor.shape), str(tensor.dtype), *flat[:3].tolist(), *flat[-3:].tolist()


def _is_plain(tensor: Tensor) -> bool:
    return has_values(tensor) and type(tensor) in EXACT and tensor.layout is torch.strided


# -- gradients -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    """Gradients by parameter name ("input 0" for inputs), and the autograd nodes behind the output
    with what each reads.
    """

    gradients: Mapping[str, Tensor]
    nodes: tuple[tuple[str, tuple[int, ...]], ...]
    why_not: str = ""


def differentiate(subject: Side, *, gradients: bool) -> Backward:
    """One forward pass in eval mode with its graph, and the gradients of its outputs in a fixed
    random direction; touches no `.grad`.
    """
    model = subject.model
    args, kwargs = copy_inputs(subject.args), copy_inputs(subject.kwargs)
    inputs = [
        t for _, t in leaves((args, kwargs)) if isinstance(t, Tensor) and t.is_floating_point()
    ]
    for tensor in inputs:
        tensor.requires_grad_()
    given = torch.utils._pytree.tree_map(
        lambda t: t * 1 if isinstance(t, Tensor) and t.requires_grad else t, (args, kwargs)
    )  # may be written to
    with (
        preserved_generators(),
        set_mode(model, training=False),
        preserved(named_modules(model), given[0], given[1]) as (guard, _),
        torch.enable_grad(),
    ):
        with Recording(model, statistics=False, guard=guard):
            output = model(*given[0], **given[1])
        outputs = [
            t
            for _, t in leaves(output)
            if isinstance(t, Tensor) and t.requires_grad and t.is_floating_point()
        ]
        if not outputs:
            drop_output(output)
            return Backward(
                gradients={},
                nodes=(),
                why_not="no output depends differentiably on a parameter or an input",
            )
        nodes = list_nodes(outputs)
        return Backward(
            gradients=dict(_compute_gradients(model, inputs, outputs)) if gradients else {},
            nodes=nodes,
        )


def _compute_gradients(
    model: nn.Module, inputs: list[Tensor], outputs: list[Tensor]
) -> Iterator[tuple[str, Tensor]]:
    named: list[tuple[str, Tensor]] = [
        (name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad
    ]
    named += [(f"input {i}", tensor) for i, tensor in enumerate(inputs)]
    generator = torch.Generator().manual_seed(_SEED)
    directions = [torch.randn(t.shape, generator=generator).to(t.device, t.dtype) for t in outputs]
    found = torch.autograd.grad(
        outputs, [tensor for _, tensor in named], directions, allow_unused=True
    )
    for (name, tensor), gradient in zip(named, found, strict=True):
        yield name, gradient if gradient is not None else torch.zeros_like(tensor)


# -- autograd graph --------------------------------------------------------------------------------


def list_nodes(outputs: list[Tensor]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The nodes behind the outputs, each after those that it reads: (name, positions of what it
    reads); nothing here recurses.
    """
    order: list[tuple[str, tuple[int, ...]]] = []
    at: dict[Any, int] = {}
    for output in outputs:
        stack: list[tuple[Any, bool]] = [(output.grad_fn, False)]
        while stack:
            node, ready = stack.pop()
            if node is None or node in at:
                continue
            children = [child for child, _ in node.next_functions if child is not None]
            if ready:
                at[node] = len(order)
                order.append(
                    (
                        node.name().removeprefix("torch::autograd::"),
                        tuple(at[child] for child in children),
                    )
                )
            else:
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(children))
    return tuple(order)


def describe_graph_difference(actual: Backward, expected: Backward) -> str:
    """The first difference of two autograd graphs in words; "" where they are the same."""
    if actual.nodes == expected.nodes:
        return ""
    ours, theirs = [name for name, _ in actual.nodes], [name for name, _ in expected.nodes]
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(
        None, ours, theirs, autojunk=False
    ).get_opcodes():
        if tag != "equal":
            return (
                f"{_list_names(ours[i1:i2])} instead of {_list_names(theirs[j1:j2])} "
                f"{_list_after(ours, i1)}"
            )
    apart = next(
        k for k, (a, b) in enumerate(zip(actual.nodes, expected.nodes, strict=True)) if a != b
    )
    return (
        f"the same {len(ours)} nodes, but {ours[apart]} (node {apart + 1}) reads different inputs"
    )


def _list_names(nodes: list[str]) -> str:
    shown = ", ".join(nodes[:3]) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")
    return shown or "nothing"


def _list_after(nodes: list[str], k: int) -> str:
    return f"after {nodes[k - 1]}" if k else "at the beginning"
