"""What a monitor reads of its own rank on observed steps, so that the ranks can be compared later.

It asks no other rank, so that it can never wait for one.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.monitoring.fingerprints import (
    Fingerprints,
    TakenPrint,
    hash_batch,
    hash_bytes,
)
from cnnprobe.monitoring.parameters import Parameters
from cnnprobe.monitoring.placement import describe_rank, find_core, find_wrapper
from cnnprobe.monitoring.stages import Stages
from cnnprobe.monitoring.wiring import Wiring
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.recorder.peers import is_split
from cnnprobe.recorder.values import argument_leaves
from cnnprobe.records.ranks import RankStep
from cnnprobe.stats.content import disable_user_modes
from cnnprobe.stats.transfer import Sent

_PROJECTED = 4  # steps at the beginning whose gradients are compared
_SELDOM = 16  # and of the later ones each so many: they are averaged in all steps or in none


@dataclass(slots=True, kw_only=True)
class RankDraft:
    """One step of this rank; what was measured may still be on a device."""

    step: int
    samples: int | None = None
    batch: TakenPrint | None = None
    random: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    queued: dict[str, float] | None = None
    parameters: TakenPrint | None = None
    buffers: TakenPrint | None = None
    without_gradient: tuple[str, ...] = ()
    flags: list[bool] = field(default_factory=list)  # of each pass, whether it will be reduced
    passes: int = 0  # backward passes
    local: list[Sent] = field(default_factory=list)
    used: Sent | None = None
    loss_scale: list[Sent] = field(default_factory=list)

    def read(self, scale: float | None, *, scaled: bool) -> RankStep:
        """The step, without the loss scale of a GradScaler; waits for what is not there yet."""
        by, passes = scale or 1.0, self.passes
        local = sum(float(each.read()) for each in self.local) / by if self.local else None
        used = None if self.used is None else float(self.used.read()) / (by if scaled else 1.0)
        return RankStep(
            step=self.step,
            samples=self.samples,
            batch=None if self.batch is None else int(self.batch.read()[:8] or "0", 16),
            random=self.random,
            seconds=self.seconds,
            queued=self.queued,
            parameters="" if self.parameters is None else self.parameters.read(),
            buffers="" if self.buffers is None else self.buffers.read(),
            without_gradient=self.without_gradient,
            passes=passes,
            reduced=sum(self.flags) if len(self.flags) == passes else passes,
            local=local,
            used=used,
        )

    def read_loss_scale(self, scale: float | None) -> float | None:
        """The gradient that the loss got, summed over the step's passes."""
        if not self.loss_scale:
            return None
        return sum(float(each.read()) for each in self.loss_scale) / (scale or 1.0)


class RankWatch:
    """Reads one rank; told by a Watch what happens in the loop."""

    def __init__(self, model: nn.Module, parameters: Parameters, wiring: Wiring) -> None:
        self.wiring = wiring
        self.core = find_core(model)
        self.wrapper = find_wrapper(model)
        named = [(each.name, each.tensor) for each in parameters.watched]
        buffers = [
            (module._buffers, fqn, name, buffer)
            for fqn, module, first in named_modules(model)
            for name, buffer in (module._buffers.items() if first else ())
            if buffer is not None
        ]
        named_buffers = [(f"{fqn}.{name}" if fqn else name, b) for _, fqn, name, b in buffers]
        self.info = describe_rank(model, named, named_buffers)
        self._named = [(name, tensor) for name, tensor in named if tensor.requires_grad]
        self._whole = [tensor for _, tensor in named if not is_split(tensor)]
        self._parameters = Fingerprints()
        self._comes_late = False  # the hash of parameters: when they are kept before the update
        # Where each lies: a module may put a new tensor there in each pass.
        self._owners = [(owner, name) for owner, _, name, _ in buffers]
        self._nothing = torch.empty(0, device="meta")  # in the place of a buffer that has gone
        self._buffers = Fingerprints()
        plain = [tensor for _, tensor in self._named if type(tensor) is nn.Parameter]
        self._probe = plain[-1] if plain else None  # the first to get its gradient
        self._first = plain[0] if plain else None  # the last to get it
        self._weights: Tensor | None = None
        self._exits: list[Callable[[], None]] = []
        self._handles: list[Any] = []
        self._stages = Stages()
        self._begin(0)

    def _begin(self, step: int) -> None:
        self.draft = RankDraft(step=step)
        self._before: list[_Mark] = []
        self._stages.clear()
        self._left = self._arrived = self._is_through = self._updated = False

    # -- hooks on the core -------------------------------------------------------------------------

    def attach(self) -> None:
        """Hook the module that the batch goes into; after the loop has hooked the root."""
        before = nn.Module.register_forward_pre_hook(self.core, _Enter(self), with_kwargs=True)
        self._exits = [before.remove]
        self._stages.start()

    def detach(self) -> None:
        """Take every hook off."""
        for remove in (*self._exits, self._unhook, self._stages.close):
            remove()
        self._exits = []

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def enter(self, args: Any, kwargs: Any) -> None:
        """The batch is here; the wrapper has sent the buffers."""
        if self.draft.buffers is not None:
            return  # a further pass of the same step
        tensors = [t for _, t in argument_leaves(args, kwargs) if isinstance(t, Tensor)]
        with disable_user_modes():
            self._read(tensors)
        self._before = [_mark(tensor.grad) for _, tensor in self._named]
        if self._probe is not None and self._first is not None:
            self._handles = [
                self._probe.register_hook(_Arrival(self)),  # type: ignore[no-untyped-call]
                self._first.register_hook(_Through(self)),  # type: ignore[no-untyped-call]
            ]

    def _read(self, inputs: list[Tensor]) -> None:
        draft = self.draft
        if inputs and inputs[0].dim():
            draft.samples = inputs[0].shape[0]
        draft.batch = hash_batch(inputs[:1])
        draft.random = hash_generator()
        if not self._comes_late:
            draft.parameters = self._take_parameters({})
        buffers = [owner.get(name) for owner, name in self._owners]
        draft.buffers = self._buffers.take(
            [self._nothing if buffer is None else _take_whole(buffer) for buffer in buffers]
        )

    def _take_parameters(self, sums: Mapping[int, int]) -> TakenPrint:
        known = [sums.get(id(tensor)) for tensor in self._whole]
        return self._parameters.take([_take_whole(tensor) for tensor in self._whole], known)

    def arrive(self, gradient: Tensor) -> None:
        """A backward pass of this rank has reached the parameter that is followed."""
        if self._left and not self._arrived:
            self._arrived = True
            self._stages.end("loss")
        self.draft.passes += 1
        if self._projects():
            self.draft.local.append(Sent(self._project(gradient)))

    def pass_through(self) -> None:
        """This rank has computed its gradients; what follows in the pass waits for the others."""
        if self._arrived and not self._is_through:
            self._is_through = True
            self._stages.end("backward")

    def _projects(self) -> bool:
        """Whether gradients are compared in this step."""
        return self.draft.step < _PROJECTED or self.draft.step % _SELDOM == 0

    def _project(self, gradient: Tensor) -> Tensor:
        """The gradient as one number, linear in it."""
        flat = gradient.detach().reshape(-1).double()
        weights = self._weights
        if weights is None or weights.device != flat.device or len(weights) != len(flat):
            weights = torch.arange(len(flat), device=flat.device, dtype=torch.float64) % 7 + 1
            self._weights = weights
        return (flat * weights).sum()

    # -- events of the loop ------------------------------------------------------------------------

    def begin_pass(self, *, first: bool) -> None:
        """The root is called, on an observed step."""
        stages = self._stages
        if first:
            self._unhook()
            self._begin(self.draft.step)
            stages.open()
            stages.end("data")
        reduces = self.wrapper is not None and bool(self.wrapper.require_backward_grad_sync)
        self.draft.flags.append(reduces)

    def start_forward(self) -> None:
        """The core begins; what is read of it has been read."""
        self._stages.start()

    def end_pass(self) -> None:
        """The root has returned."""
        self._left, self._arrived, self._is_through = True, False, False
        self._stages.end("forward")

    def take_loss_gradient(self, gradient: Tensor) -> None:
        """What the backward pass begins with at the loss."""
        if gradient.numel() == 1:
            self.draft.loss_scale.append(Sent(gradient.detach().reshape(()).double()))

    def before_update(self) -> None:
        """The first optimizer is about to step."""
        self._updated = True
        if self._left:
            self._stages.end("reduction" if self._is_through else "backward")
        if self._before:
            self.draft.without_gradient = tuple(
                name
                for (name, tensor), before in zip(self._named, self._before, strict=True)
                if tensor.grad is None or _is_untouched(tensor.grad, before)
            )
        if self._probe is not None and self._probe.grad is not None and self._projects():
            self.draft.used = Sent(self._project(self._probe.grad))

    def start_update(self, sums: Mapping[int, int]) -> None:
        """The monitor has read the parameters; `sums` are those of the words of each, by its id,
        where the kernel took them in the same read.
        """
        is_open = self.draft.buffers is not None
        self._comes_late = is_open and bool(sums)  # not where forwards follow, as in a closure
        if is_open and self.draft.parameters is None:
            self.draft.parameters = self._take_parameters(sums)
        self._stages.start()

    def end_step(self, step: int, *, observed: bool) -> RankDraft | None:
        """What was read of this step; None where nothing was."""
        self._unhook()
        draft = self.draft if observed and self.draft.buffers is not None else None
        if draft is not None:
            draft.step = step
            if draft.parameters is None:  # no optimizer has used the gradients
                draft.parameters = self._take_parameters({})
            if self._updated:
                self._stages.end("update")
            draft.seconds, draft.queued = self._stages.seconds, self._stages.queued
        self._begin(step + 1)
        return draft

    def rest(self) -> None:
        """The monitor has done its work for this step: what follows is the user's time."""
        self._stages.start()

    def conclude(self, step: int) -> RankDraft:
        """What the parameters are after the run."""
        return RankDraft(step=step, parameters=self._take_parameters({}))


def _take_whole(tensor: Tensor) -> Tensor:
    if type(tensor) in (nn.Parameter, Tensor):
        return tensor
    local = getattr(tensor.detach(), "to_local", None)
    return tensor if local is None else local()


_Mark = tuple[weakref.ref[Tensor] | None, int]
"""A gradient, which is not held, and how often it had been written to."""


def _mark(gradient: Tensor | None) -> _Mark:
    return (None, 0) if gradient is None else (weakref.ref(gradient), gradient._version)


def _is_untouched(gradient: Tensor, mark: _Mark) -> bool:
    before, version = mark
    return before is not None and before() is gradient and gradient._version == version


def hash_generator() -> int:
    """A hash of the state of torch's generator on the CPU, which is not changed."""
    return hash_bytes(torch.get_rng_state())


class _RankHook:
    """Points to a RankWatch; a copy points to none. The user's loop goes on, whatever we stumble
    over.
    """

    __torch_unserializable__ = True

    def __init__(self, watch: RankWatch | None = None) -> None:
        self.watch = watch

    def is_on(self, module: nn.Module) -> bool:
        """Whether this call belongs to a pass that is observed."""
        watch = self.watch
        return (
            watch is not None
            and module is watch.core
            and watch.wiring.active
            and get_ident() == watch.wiring.thread
        )

    def tell(self, what: Callable[..., None], *args: Any) -> None:
        try:
            what(*args)
        except Exception as error:
            if self.watch is not None:
                self.watch.wiring.stumbled[
                    f"this rank was not observed in full ({type(error).__name__}: {error}); please "
                    "report this"
                ] = None

    def __deepcopy__(self, memo: object) -> "_RankHook":
        return type(self)()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return type(self), ()


class _Enter(_RankHook):
    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """The core's pre-hook."""
        if self.watch is not None and self.is_on(module):
            self.tell(self.watch.enter, args, kwargs)
            self.watch.start_forward()  # what was read above is no part of the user's time


class _Arrival(_RankHook):
    def __call__(self, gradient: Tensor) -> None:
        """A hook on one parameter's gradient, before it is reduced."""
        if self.watch is not None:
            self.tell(self.watch.arrive, gradient)


class _Through(_RankHook):
    def __call__(self, gradient: Tensor) -> None:  # noqa: ARG002
        """A hook on the gradient that comes last, before it is reduced."""
        if self.watch is not None:
            self.tell(self.watch.pass_through)


class LossGradient(_RankHook):
    """A hook on the loss."""

    def __call__(self, gradient: Tensor) -> None:
        """The gradient that the backward pass begins with."""
        if self.watch is not None:
            self.tell(self.watch.take_loss_gradient, gradient)
