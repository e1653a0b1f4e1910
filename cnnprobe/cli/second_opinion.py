"""Our totals against torchinfo's, with PyTorch itself as the judge where they part.

Runs the model again, on a copy without data (the meta device), so that torchinfo cannot touch the
model. Parameters are judged by `model.parameters()`, MACs by `torch.utils.flop_counter` (two
operations a MAC).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from cnnprobe.document.render import Column, Document, Facts, Heading, Row, Table, Text
from cnnprobe.document.render.units import format_count
from cnnprobe.errors import TargetError
from cnnprobe.loading.meta import copy_to_meta
from cnnprobe.loading.user_errors import describe_error
from cnnprobe.records.totals import add_up, list_leaves
from cnnprobe.records.trace import ModuleCall, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One total as three tools have it; `judge` is PyTorch's own, None where it could not tell."""

    name: str
    ours: int
    theirs: int
    judge: int | None

    @property
    def verdict(self) -> str:
        """Who is right, in words."""
        if self.ours == self.theirs:
            return "both agree" if self.judge in (None, self.ours) else "both differ from PyTorch"
        right = {self.ours: "cnnprobe is right", self.theirs: "torchinfo is right"}
        return (
            "no judge"
            if self.judge is None
            else right.get(self.judge, "neither agrees with PyTorch")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Why torchinfo's MACs part from ours: a reason, in how many modules, and how many MACs more
    (or fewer) it counts there.
    """

    reason: str
    modules: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOpinion:
    """The totals side by side, and what the difference in MACs is made of; the partings add up to
    it.
    """

    quantities: tuple[Quantity, ...]
    partings: tuple[Disagreement, ...]


def ask_torchinfo(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, trace: Trace
) -> SecondOpinion:
    """What torchinfo makes of the same model and inputs that `trace` was recorded from.

    Raises:
        TargetError: torchinfo is not installed, or fails on this model.

    >>> from cnnprobe.api import probe
    >>> model, x = nn.Linear(4, 2), torch.ones(3, 4)
    >>> opinion = ask_torchinfo(model, (x,), {}, trace=probe(model, x).trace)
    >>> [(q.name, q.ours, q.theirs, q.verdict) for q in opinion.quantities]
    [('parameters', 10, 10, 'both agree'), ('MACs', 24, 30, 'cnnprobe is right')]
    >>> [(p.reason, p.macs) for p in opinion.partings]
    [('counts each bias as a multiplication', 6)]
    """
    copied = copy_to_meta(model)
    on_meta = _move_to_meta(args), _move_to_meta(dict(kwargs))
    judge = _count_by_flop_counter(
        copied, *on_meta
    )  # first: torchinfo changes the modes of the copy
    macs, parameters, theirs = _run_torchinfo(copied, *on_meta)
    ours = add_up(trace)
    return SecondOpinion(
        quantities=(
            Quantity(
                name="parameters",
                ours=ours.parameters,
                theirs=parameters,
                judge=sum(p.numel() for p in model.parameters()),
            ),
            Quantity(name="MACs", ours=ours.macs, theirs=macs, judge=judge),
        ),
        partings=tuple(_sum_partings(trace, theirs)),
    )


def _move_to_meta(values: Any) -> Any:
    return tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, values)


def _run_torchinfo(model: nn.Module, args: Any, kwargs: Any) -> tuple[int, int, dict[str, int]]:
    """Its MACs and parameters in total, and its MACs by module."""
    try:
        import torchinfo
    except ImportError as error:
        raise TargetError(
            "--second-opinion requires torchinfo, which is not installed",
            where="--second-opinion",
            fix="pip install torchinfo",
        ) from error
    mode = "train" if model.training else "eval"
    try:
        summary = torchinfo.summary(
            model, input_data=list(args) or None, device="meta", mode=mode, verbose=0, **kwargs
        )
    except Exception as error:
        cause = error.__cause__ or error
        raise TargetError(
            f"torchinfo fails on this model: {describe_error(cause)}",
            where="--second-opinion",
            fix="leave --second-opinion out",
        ) from error
    names = {id(module): name for name, module in model.named_modules()}
    by_module: dict[str, int] = defaultdict(int)
    for layer in summary.summary_list:
        if layer.is_leaf_layer:
            by_module[names.get(id(layer.module), "")] += layer.macs
    return summary.total_mult_adds, summary.total_params, dict(by_module)


def _count_by_flop_counter(model: nn.Module, args: Any, kwargs: Any) -> int | None:
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*args, **kwargs)
    except Exception:  # an operation without a meta kernel: PyTorch cannot judge
        return None
    return int(counter.get_total_flops()) // 2


def _sum_partings(trace: Trace, theirs: Mapping[str, int]) -> Iterable[Disagreement]:
    """The differences of all modules, summed by their reason."""
    rows: dict[str, list[ModuleCall]] = defaultdict(list)
    for index in list_leaves(trace):
        call = trace.calls[index]
        owner = call if call.fqn is not None or call.parent is None else trace.calls[call.parent]
        rows[owner.fqn or ""].append(call)
    found: dict[str, list[int]] = defaultdict(list)
    for fqn in dict.fromkeys([*rows, *theirs]):
        difference = theirs.get(fqn, 0) - sum(call.macs or 0 for call in rows.get(fqn, ()))
        if difference:
            found[_find_reason(rows.get(fqn, []), theirs.get(fqn, 0), difference)].append(
                difference
            )
    for reason, differences in sorted(found.items(), key=lambda item: -abs(sum(item[1]))):
        yield Disagreement(reason=reason, modules=len(differences), macs=sum(differences))


def _find_reason(calls: list[ModuleCall], theirs: int, difference: int) -> str:
    layers = [call for call in calls if call.fqn is not None]
    if not any(call.macs for call in calls):
        return "counts parameters without a product (normalisation) as multiplications"
    if len(layers) < len(calls):
        return "does not see what functions in a forward multiply (matmul, attention, F.conv2d)"
    if theirs == 0:
        return "does not count what this layer multiplies"
    if any("Transpose" in call.kind for call in layers):
        return "counts output positions instead of input positions in a transposed convolution"
    made = sum(prod(call.outputs[0].shape) for call in layers if call.outputs)
    if difference == made:
        return "counts each bias as a multiplication"
    if difference < 0 and all(call.kind.endswith("Linear") for call in layers):
        return "counts a linear layer once a sample, not once a position"
    return "counts differently"


def lay_out_opinion(opinion: SecondOpinion) -> Document:
    """The totals, the verdicts, and what the difference is made of."""
    names = ("total", "cnnprobe", "torchinfo", "PyTorch", "verdict")
    totals = Table(
        title="",
        columns=tuple(
            Column(name=name, align="right" if i in (1, 2, 3) else "left", unit="count")
            for i, name in enumerate(names)
        ),
        rows=tuple(
            Row(cells=(q.name, q.ours, q.theirs, q.judge, q.verdict)) for q in opinion.quantities
        ),
    )
    reasons = tuple(
        (
            f"{format_count(abs(p.macs))} {'more' if p.macs > 0 else 'fewer'}",
            f"{p.reason}, in {p.modules} {'module' if p.modules == 1 else 'modules'}",
        )
        for p in opinion.partings
    )
    why = (
        (Facts(title="MACs by torchinfo", pairs=reasons),)
        if reasons
        else (Text(text="no module's MACs differ"),)
    )
    return Document(title="Second opinion", blocks=(Heading(text="Second opinion"), totals, *why))
