"""Watches the training steps of one model in the user's own loop, and writes them down."""

import contextlib
import functools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnprobe.errors import warn
from cnnprobe.monitoring import alarms, drafts, notes
from cnnprobe.monitoring.channels import Silences
from cnnprobe.monitoring.first_pass import FirstPass
from cnnprobe.monitoring.graphs import LivingGraphs
from cnnprobe.monitoring.hooks import ChannelHook, CompositeHook, LayerHook, LossHook, PartHook
from cnnprobe.monitoring.loop import Events, Loop, read_scale
from cnnprobe.monitoring.pace import Pace
from cnnprobe.monitoring.parameters import Parameters
from cnnprobe.monitoring.ranks import LossGradient, RankWatch
from cnnprobe.monitoring.settings import Settings
from cnnprobe.monitoring.states import States
from cnnprobe.monitoring.wiring import Wiring
from cnnprobe.recorder import observable
from cnnprobe.recorder.devices import outliving_devices
from cnnprobe.recorder.inventory import CONTAINERS, class_of, named_modules
from cnnprobe.recorder.peers import find_rank, is_split
from cnnprobe.recorder.values import leaves
from cnnprobe.records.history import History, NonFinite
from cnnprobe.records.ledger import Ledger
from cnnprobe.records.trace import Trace
from cnnprobe.stats.sheet import RowBuffer
from cnnprobe.stats.transfer import Sent

_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Threshold)
_POOLS = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)  # behind F.relu, whose own output no hook sees
_STALE = 256  # steps whose stale gradients are remembered: the first ones
_SKIPPED = 4096  # that are remembered; a GradScaler skips one in 2,000 steps
_LATE = 64  # steps that may be on their way from a device


class Listener(Protocol):
    """Is told of every step that was written down."""

    def wrote(self, watch: "Watch", step: int, *, observed: bool) -> None:
        """The ledger has all of this step."""

    def close(self, watch: "Watch") -> None:
        """The block is left."""


class Watch(Events):
    """The watch over one model, a context manager. Step, history and trace are as of now."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        settings: Settings,
        *,
        losses: Sequence[nn.Module] = (),
        listeners: Sequence[Listener] = (),
        ledger: Ledger | None = None,
    ) -> None:
        """With a `ledger` of an earlier run this one goes on after its last step."""
        self.model = model
        self.names: dict[str, str] = {}  # the user's variables for "model" and "optimizer"
        self.settings = settings
        self.optimizers = optimizers
        self.listeners = list(listeners)
        self.ledger = ledger or Ledger(model=class_of(model).__name__)
        self.step = self.ledger.total
        what = settings.what
        self.wiring = Wiring(
            self.ledger,
            RowBuffer(histogram=settings.histograms),
            gradients="gradient" in what,
            fraction=settings.fraction,
        )
        self.wiring.odd = functools.partial(alarms.see, self)
        is_alone = find_rank()[1] < 2
        self.parameters = Parameters(
            model,
            self.wiring,
            values="parameter" in what or "update" in what,
            updates="update" in what,
            sums=not is_alone,
        )
        self.rank = None if is_alone else RankWatch(model, self.parameters, self.wiring)
        self.ledger.rank = None if self.rank is None else self.rank.info
        self.pace = Pace(every=settings.every, budget=settings.budget, first=self.step)
        self.first = FirstPass(model)
        self.loop = Loop(model, optimizers, self.wiring, self._hooks(), self)
        self.loop.watches_root = settings.chosen("")
        self.modes: States[bool] = States()  # whether the root was in train mode
        self.stale: dict[int, tuple[str, ...]] = {}
        self.skips = 0  # of a GradScaler
        self.skipped: list[int] = []  # the steps: the first ones
        self._criteria = losses
        self.graphs = LivingGraphs()
        self._waiting: deque[drafts.StepDraft] = deque()
        self._silences = Silences(settings.window)
        self._trace: Trace | None = None
        self._exits = contextlib.ExitStack()
        self._begin_step()

    def _begin_step(self) -> None:
        self._losses: list[Tensor] = []
        self._trained = False  # the root was in train mode
        self._told = False  # a loss was given by `loss`
        self.seen: NonFinite | None = None
        self._scale: Tensor | float | None = None
        self._scaled = (0, 0)

    def _hooks(self) -> list[LayerHook]:
        modules_now = list(named_modules(self.model))
        self._known = {id(module) for _, module, _ in modules_now}
        tree, sealed = observable(modules_now)
        for fqn, how in sealed.items():
            named = f"'{fqn}'" if fqn else "the model"
            self.note(
                f"{named} is {how}: its inside was not observed, only its output, gradients and "
                "parameters"
            )
        modules = [(fqn, module) for fqn, module, first in tree if first and fqn]
        has_rectifiers = any(isinstance(module, _RECTIFIERS) for _, module in modules)
        hooks: list[LayerHook] = [
            CompositeHook(self.wiring, self.model, "")
            if self.settings.fraction == 1
            else PartHook(self.wiring, self.model, "")
        ]
        for fqn, module in modules:
            if self.settings.chosen(fqn) and type(module) not in CONTAINERS:
                kind = self._choose_kind(module, _RECTIFIERS if has_rectifiers else _POOLS)
                hooks.append(kind(self.wiring, module, fqn))
        return hooks

    def _choose_kind(self, module: nn.Module, may_die: tuple[type, ...]) -> type[LayerHook]:
        if self.settings.fraction < 1:
            return PartHook
        if isinstance(module, may_die):
            return ChannelHook
        return CompositeHook if module._modules else LayerHook

    # -- the block ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._exits.enter_context(self.loop)
        self.first.attach()
        self._exits.callback(self.first.detach)
        if self.rank is not None:
            self.rank.attach()
            self._exits.callback(self.rank.detach)
        for criterion in self._criteria:
            self._exits.callback(criterion.register_forward_hook(LossHook(self._see_loss)).remove)
        self.loop.observe(on=self.pace.is_due(self.step))
        return self

    def __exit__(self, *left: object) -> None:
        try:
            if isinstance(left[1], BaseException):
                self.note(notes.describe_exception(left[1], self.step))
            if self.loop.backward and not self.optimizers:
                self.loop.finish()
            self._settle_last()
            if self.rank is not None and self.step:
                after = self.rank.conclude(self.step).read(None, scaled=False)
                self.ledger.rank_steps.append(after)
            self.ledger.finished = True
            self.graphs.look(self.ledger, self.step - 1)
        finally:
            self._exits.close()
            self.wiring.release()
            self.graphs.forget()
            self._notes()
            for listener in tuple(self.listeners):
                with self._outliving(listener):
                    listener.close(self)

    def loss(self, loss: Tensor) -> Tensor:
        """Take in the loss of this step, or of a part of its batch: the mean of all of a step is
        told. Gives it back.
        """
        if not self._told:
            self._losses.clear()
            self._told = True
        self._take(loss)
        return loss

    def _see_loss(self, loss: Tensor) -> None:
        """A loss module has put this out: taken in unless the user gives the loss."""
        if not self._told:
            self._take(loss)

    def _take(self, loss: Tensor) -> None:
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return
        if is_split(loss):
            self.note(
                "the loss is a DTensor of which this rank holds a part: it was not read, as the "
                "other ranks would be needed; give monitor.loss(loss.full_tensor())"
            )
            return
        if self.wiring.observing:
            self.graphs.add(loss, self.step)
            if self.rank is not None and loss.requires_grad:
                loss.register_hook(LossGradient(self.rank))  # type: ignore[no-untyped-call]
        self._losses.append(loss.detach())
        if self.settings.raise_on_nan and not loss.is_cuda:
            alarms.refuse_loss(self, float(loss.detach()))

    # -- events of the loop ------------------------------------------------------------------------

    def begin_pass(self) -> None:
        """The root is called."""
        self._trained = self._trained or getattr(self.model, "training", False)
        self.modes.put(self.step, self._trained)
        self.first.begin()
        if self.rank is not None:
            self.rank.begin_pass(first=self.loop.passes == 0)

    def end_pass(self, output: Any) -> None:
        """The root has returned."""
        if self.rank is not None:
            self.rank.end_pass()
        for _, leaf in leaves(output) if output is not None else ():
            if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
                self.graphs.add(leaf, self.step)
                break

    def _keep_first(self) -> None:
        """Take the recorder's hooks off; never while the root calls its hooks, as it has listed
        them already.
        """
        if self.first.over and self._trace is None:
            self._trace = self.first.trace
            self.first.detach()

    def begin_backward(self) -> None:
        """The first gradient arrives."""
        self._keep_first()
        self._scale = read_scale(self.loop.scaler)

    def before_update(self, optimizer: Any) -> None:
        """The optimizer is about to step."""
        if self._scale is None:
            self._scale = read_scale(self.loop.scaler)
        if self.rank is not None:
            self.rank.before_update()
        first = self.wiring.sheet.next
        self.parameters.before_step()
        if self.rank is not None:
            self.rank.start_update(self.parameters.sums)
        if (
            getattr(optimizer, "grad_scale", None) is not None
        ):  # a fused optimizer divides by it itself
            self._scaled = (first, self.wiring.sheet.next)
        if self.settings.raise_on_nan:
            alarms.refuse_gradients(self)

    def end_step(self, seconds: float, *, skipped: bool) -> bool:
        """Write the step down as far as it is there, and choose whether the next one is
        observed.
        """
        step, observed = self.step, self.wiring.observing
        self.ledger.total = step + 1
        draft = drafts.StepDraft(
            step=step,
            curves=self._curves(seconds),
            losses=drafts.sent(self._losses),
            skipped=skipped,
            seen=self.seen,
        )
        if self.rank is not None:
            draft.rank = self.rank.end_step(step, observed=observed)
        if observed:
            self._fill(draft)
        if skipped:
            self.skips += 1
            if self.skips <= _SKIPPED:
                self.skipped.append(step)
        self._waiting.append(draft)
        self._begin_step()
        self.step = step + 1
        self.settle(waiting=self.settings.raise_on_nan or len(self._waiting) > _LATE)
        if self.settings.raise_on_nan:
            alarms.refuse_late(self)
        self.pace.took(step, seconds, observed=observed)
        if self.optimizers and not skipped:
            self._keep_first()
        if self.rank is not None:
            self.rank.rest()
        return self.pace.is_due(self.step)

    def _fill(self, draft: drafts.StepDraft) -> None:
        """What was observed of the step."""
        self._take_stale()
        draft.changes = self.parameters.after_step() if not draft.skipped else None
        if draft.changes is not None and isinstance(draft.changes.norms, Tensor):
            draft.norms = Sent(draft.changes.norms)
        if self._scale is not None:
            draft.scale = Sent(torch.as_tensor(self._scale))
            draft.scaled = self._scaled
        draft.dead = self._silences.count(self.loop.hooks, draft.step)
        draft.taken = self.wiring.sheet.take()
        self.graphs.count(self.ledger, draft.step)

    def _take_stale(self) -> None:
        """The gradients that were not cleared before this step."""
        if self.loop.stale and len(self.stale) < _STALE:
            names = {id(each.tensor): each.name for each in self.parameters.watched}
            self.stale[self.step] = tuple(
                names[id(parameter)] for parameter in self.loop.stale if id(parameter) in names
            )

    def _curves(self, seconds: float) -> dict[str, float]:
        curves = {"seconds": round(seconds, 7)} if seconds else {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                rate = group.get("lr")
                if isinstance(rate, int | float) or (isinstance(rate, Tensor) and not rate.is_cuda):
                    number = sum(name.startswith("learning rate") for name in curves)
                    curves[f"learning rate of group {number}" if number else "learning rate"] = (
                        float(rate)
                    )
        return curves

    # -- writing down ------------------------------------------------------------------------------

    def settle(self, *, waiting: bool = True) -> None:
        """Write down the steps that are there; all of them if `waiting`."""
        while self._waiting and (waiting or self._waiting[0].is_there()):
            draft = self._waiting.popleft()
            drafts.enter(draft, self.ledger)
            for listener in tuple(self.listeners):
                with self._outliving(listener):
                    listener.wrote(self, draft.step, observed=draft.taken is not None)

    def _settle_last(self) -> None:
        is_read = False
        with outliving_devices():
            self.settle()
            is_read = True
        if not is_read:
            self.note("the last steps were not read: a kernel failed on the GPU")

    @contextlib.contextmanager
    def _outliving(self, listener: Listener) -> Iterator[None]:
        """The training goes on without a listener that fails, as TensorBoard's on a full disk."""
        try:
            yield
        except Exception as error:
            self.listeners.remove(listener)
            text = (
                f"{type(listener).__name__} stopped at step {self.step} "
                f"({type(error).__name__}: {error}); the training goes on"
            )
            self.note(text)
            warn(text)

    def note(self, text: str) -> None:
        """Something that could not be observed, in a sentence."""
        self.ledger.notes[text] = None

    @property
    def history(self) -> History:
        """The run so far."""
        self.settle()
        self._notes()
        self.ledger.dead = self._silences.dead(self.ledger.slots)
        return self.ledger.history()

    @property
    def trace(self) -> Trace:
        """The first training pass in full; the model's inventory alone as long as there was
        none.
        """
        return self._trace or self.first.trace or self.first.inventory()

    def _notes(self) -> None:
        self.ledger.notes.update(self.wiring.stumbled)
        notes.renew(
            self.ledger,
            notes.describe(self.model, self.wiring, self._known, (self.skips, self.skipped)),
        )

    @property
    def before(self) -> int | None:
        """The last observed step."""
        return self.ledger.steps[-1] if self.ledger.steps else None
