"""A training step or a forward pass of tensors without data, and the memory that it would take.

The user's own model runs with stand-ins of its parameters; torch's FakeTensorMode answers for the
device, so that the same kernels are chosen and autograd keeps the same tensors.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.compiler import is_dynamo_compiling
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

from cnnprobe.crash.model_copy import hush
from cnnprobe.errors import TargetError
from cnnprobe.recorder import preserved, run_eagerly, switch_mode
from cnnprobe.recorder.assembly import no_collection
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.recorder.preservation import preserved_generators
from cnnprobe.recorder.shapes import without_values
from cnnprobe.recorder.values import leaves
from cnnprobe.records.memory import MemoryUse
from cnnprobe.sizing.live import LiveBytes

_FLOPS_A_MAC = 2

MakeOptimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run: the model with its inputs, the loss and the optimizer."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: Any = None
    loss_fn: Callable[..., Any] | None = None
    make_optimizer: MakeOptimizer
    batch: int  # the size of dim 0 as given, which other tensors share
    device: torch.device  # where the user's model is; "cpu" for one without values


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """What one step took: `use` of the forward and backward pass, `step` of the optimizer at its
    peak.
    """

    use: MemoryUse
    step: int = 0
    state: int = 0
    macs: int = 0


def measure_step(
    plan: Plan, batch: int, *, autocast: torch.dtype | None = None, blocks: Sequence[str] = ()
) -> MeasuredStep:
    """The memory of a training step: zero_grad, forward, loss, backward, optimizer.

    The optimizer has its state already, as from the second step on.

    Args:
        plan: what is run.
        batch: how many samples.
        autocast: the dtype in which the forward runs.
        blocks: modules whose activations are computed again in the backward pass.
    """
    with _stand_in(plan, training=True), _checkpointed(plan.model, blocks):
        parameters = [p for p in plan.model.parameters() if p.requires_grad]
        optimizer = plan.make_optimizer(parameters)
        live = _count_model(plan.model)
        with live:
            _make_state(optimizer, parameters, live)
            state = live.parts.get("optimizer state", 0)
            live.part = "inputs"
            args, kwargs, targets = _make_inputs(plan, batch)
            handles = [_retag(parameter, live) for parameter in parameters]
            live.part = "activations"
            live.reset_peak()
            before = live.live
            with _cast(plan.device, autocast):
                loss = _compute_loss(plan, plan.model(*args, **kwargs), targets)
            saved, live.part = live.live - before, "temporary"
            loss.backward()  # type: ignore[no-untyped-call]
            use = replace(_read_use(live, batch), saved=saved)
            step = _measure_optimizer(optimizer, live)
            for handle in handles:
                handle.remove()
        return MeasuredStep(use=use, step=step, state=state, macs=live.flops // _FLOPS_A_MAC)


def measure_forward(plan: Plan, batch: int, *, autocast: torch.dtype | None = None) -> MeasuredStep:
    """The memory of a forward pass in eval mode and without gradients."""
    with _stand_in(plan, training=False), torch.no_grad():
        live = _count_model(plan.model)
        with live:
            args, kwargs, _ = _make_inputs(plan, batch)
            live.part = "activations"
            live.reset_peak()
            with _cast(plan.device, autocast):
                plan.model(*args, **kwargs)
        return MeasuredStep(use=_read_use(live, batch))


def _read_use(live: LiveBytes, batch: int) -> MemoryUse:
    return MemoryUse(
        batch=batch,
        peak=live.peak,
        on_cpu=max(live.peak, live.on_cpu),
        parts=dict(live.at_peak),
    )


@contextlib.contextmanager
def _stand_in(plan: Plan, *, training: bool) -> Iterator[None]:
    """The model in a mode, on parameters without data; afterwards as it was."""
    model = plan.model
    with (
        hush(),
        torch.inference_mode(mode=False),  # that of the caller
        no_collection(),  # of what one pass makes, all is alive until its end
        run_eagerly(named_modules(model)),  # compiled code would be made for stand-ins
        preserved_generators(),
        preserved(named_modules(model), (), {}),
        FakeTensorMode(allow_non_fake_inputs=True),
        without_values(model, device=plan.device),
        _CopiedTensors(),
        torch.enable_grad(),
        torch.autocast(plan.device.type, enabled=False),  # that of the caller
    ):
        switch_mode(model, training=training)
        yield


def find_device(model: nn.Module) -> torch.device:
    """Where a model is; the CPU if it has no values."""
    like = next((t for t in (*model.parameters(), *model.buffers())), None)
    return torch.device("cpu") if like is None or like.is_meta else like.device


@contextlib.contextmanager
def _cast(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast, with its copies of weights let go at its end: torch does that at the outermost."""
    try:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            yield
    finally:
        torch.clear_autocast_cache()


class _CopiedTensors(TorchFunctionMode):
    """Copies tensors without data for a `copy.deepcopy` in the forward: torch's own copy of one has
    no device, and a kernel that reads it ends the process.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The function as it is, but for deepcopy."""
        if is_dynamo_compiling():  # for torch.cond, which traces modes too
            return func(*args, **(kwargs or {}))
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            copied = tensor.detach().clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            copied = nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
            memo[id(tensor)] = copied.requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]


@contextlib.contextmanager
def _checkpointed(model: nn.Module, blocks: Sequence[str]) -> Iterator[None]:
    """These modules keep no activations, and run again in the backward pass."""
    found = {fqn: module for fqn, module, _ in named_modules(model)}
    changed = [found[fqn] for fqn in blocks]
    own = ["forward" in module.__dict__ for module in changed]
    plain = [module.forward for module in changed]
    try:
        for module, forward in zip(changed, plain, strict=True):
            module.forward = _wrap(forward)
        yield
    finally:
        for module, forward, is_own in zip(changed, plain, own, strict=True):
            if is_own:
                module.forward = forward
            else:
                del module.__dict__["forward"]


def _wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
    # There are no values, so there are no random numbers to be drawn again.
    return lambda *args, **kwargs: checkpoint(
        forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
    )


def _count_model(model: nn.Module) -> LiveBytes:
    live = LiveBytes()
    live.add(model.buffers(), "buffers")
    live.add(model.parameters(), "parameters")
    return live


def _make_state(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], live: LiveBytes
) -> None:
    """The state of an optimizer that has made a step, by making one."""
    live.part = "temporary"
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for parameter in parameters:
        parameter.grad = None  # also where an optimizer of the user's keeps it
    live.add(
        (t for t in tree_leaves(_list_state(optimizer)) if isinstance(t, Tensor)), "optimizer state"
    )


def _list_state(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [dict(values) for values in optimizer.state.values()]


def _retag(parameter: Tensor, live: LiveBytes) -> Any:
    """Count a gradient as one as soon as it is there."""
    return parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
        lambda done: live.add([done.grad], "gradients")
    )


def _measure_optimizer(optimizer: torch.optim.Optimizer, live: LiveBytes) -> int:
    """The peak of a step; with foreach where the optimizer has it, as it is by default on a GPU."""
    groups = [group for group in optimizer.param_groups if group.get("foreach", 0) is None]
    for group in groups:
        group["foreach"] = not group.get("fused")
    live.reset_peak()
    optimizer.step()
    return live.peak


def _make_inputs(plan: Plan, batch: int) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """The inputs with another batch."""

    def make(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        shape = tuple(leaf.shape)
        shape = (batch, *shape[1:]) if shape[:1] == (plan.batch,) else shape
        made = torch.empty(shape, dtype=leaf.dtype, device=plan.device)
        return made.requires_grad_(leaf.requires_grad)

    given = tree_map(make, (plan.args, dict(plan.kwargs), plan.targets))
    return given[0], given[1], given[2]


def _compute_loss(plan: Plan, output: Any, targets: Any) -> Tensor:
    if plan.loss_fn is not None:
        made = plan.loss_fn(output) if targets is None else plan.loss_fn(output, targets)
        return made if isinstance(made, Tensor) else sum(tree_leaves(made))
    ends = [
        (torch.view_as_real(leaf) if leaf.is_complex() else leaf).float().mean()
        for _, leaf in leaves(output)
        if isinstance(leaf, Tensor) and leaf.requires_grad
    ]
    if not ends:
        kind = "" if isinstance(output, Tensor) else f" (the output is a {type(output).__name__})"
        raise TargetError(
            f"no tensor of the output requires grad{kind}",
            where=f"memory({type(plan.model).__name__})",
            fix="give your loss: memory(..., loss_fn=...)",
        )
    return torch.stack(ends).sum() if len(ends) > 1 else ends[0]
