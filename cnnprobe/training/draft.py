"""A step while it is observed: what each event of the loop adds to it."""

import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Event, Gradient, Loss, Uses
from cnnprobe.recorder import Recording
from cnnprobe.recorder.autograd import GraphWatch
from cnnprobe.recorder.inventory import has_values
from cnnprobe.recorder.values import read_dense
from cnnprobe.training.boxes import find_inverted
from cnnprobe.training.companions import PREFIX, Companions
from cnnprobe.training.decay import Decay
from cnnprobe.training.events import find_caller, find_function
from cnnprobe.training.graph_walk import walk
from cnnprobe.training.hidden import list_parameters
from cnnprobe.training.mixing import Mixing
from cnnprobe.training.norms import has_gradients, measure_gradients, measure_norm, measure_total
from cnnprobe.training.silence import Silence
from cnnprobe.training.surroundings import Surroundings
from cnnprobe.training.terms import Terms
from cnnprobe.training.waste import Waste


class BetweenSteps:
    """What must be kept of one model from step to step."""

    def __init__(
        self, model: nn.Module, surroundings: Surroundings, names: Mapping[int, str]
    ) -> None:
        self.model = model
        self.surroundings = surroundings
        self.names = names  # id of parameter or hidden tensor -> fqn
        self.parameters = dict(list_parameters(model))
        # parameters whose gradient an optimizer has used and nobody has cleared since
        self.stepped: set[str] = set()
        self.pending: set[str] = set()  # of these, the ones that a further backward has added to
        self.mixing = Mixing()
        self.silence = Silence(self.parameters)
        self.waste = Waste(self.parameters)
        self.companions = Companions(names, surroundings)
        self.step = 0
        self.graphs = GraphWatch()  # behind the losses of all steps, by the step's number


class StepDraft:
    """A step while it is being observed."""

    def __init__(self, kept: BetweenSteps) -> None:
        self.kept = kept
        kept.companions.begin()
        self.events: list[Event] = []
        self.losses: list[Loss] = []
        self.gradients: dict[str, Gradient] = {}
        self.stale: tuple[str, ...] = ()
        self.before: dict[str, Tensor] = {}
        self.stepped: dict[str, float] = {}
        self.wasted_before = kept.waste.total
        # sequence number of a loss that a GradScaler multiplied -> by what
        self.scaled: dict[int, float] = {}
        self.unclipped = 0.0
        self.training = getattr(kept.model, "training", False)
        self.recording: Recording | None = None
        self.is_paused = False
        self.was_empty = False  # the state of the optimizer, before its step
        self.is_fed = True  # whether the optimizer has gradients, before its step
        self.stumbled: dict[str, None] = {}
        self.asking = ""  # the function that calls the latest backward
        self.terms = Terms()
        self.decay = Decay(kept.parameters)
        self.differentiated: frozenset[int] = frozenset()
        self.uses: Uses | None = None

    def observe_end(self, result: Any) -> Any:
        """What the step has returned, while the recording still knows who holds what."""
        if self.recording is not None:
            self.uses = Uses(
                reads=self.recording.reads,
                held=self.recording.list_alive(),
                differentiated=self.differentiated,
            )
        return result

    def on(self, kind: str, scope: Mapping[str, Any], frame: types.FrameType) -> None:
        """One of the watched functions was entered or left."""
        handler = getattr(self, "_" + kind.replace(" ", "_"), None)
        if handler is not None:
            try:
                with torch._C.DisableTorchFunction():  # what we compute is no row of the user's
                    handler(scope, frame)
            except Exception as error:  # the user's step goes on, whatever we stumble over
                what = f"'{kind}' was not observed in full ({type(error).__name__}: {error})"
                self.stumbled[f"{what}; please report this"] = None

    def _backward(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:
        tensors = scope.get("tensors")
        self.asking = find_function(frame)
        losses = (
            [tensors]
            if isinstance(tensors, Tensor)
            else [t for t in tensors or () if isinstance(t, Tensor)]
        )
        if not losses:
            return
        if not self.losses:
            self.training = self.kept.model.training
        self._forget_cleared()
        self.kept.pending |= self.kept.stepped
        companions = self.kept.companions
        found, foreign, nodes, complete = walk(losses, {**companions.ids, **self.kept.names})
        beside = {name for name in found if name.startswith(PREFIX)}
        reached, foreign = found - beside, foreign + len(beside)
        companions.backward(beside, alone=complete and not reached)
        if self.kept.mixing.rivals:
            without = [*self._without_gradient(), *companions.list_without_gradient()]
            self.kept.mixing.cleared(without)
        self.kept.mixing.backward(found)
        self.kept.waste.backward(nodes, alone=complete and not foreign)
        self.terms.backward(losses)
        loss, scale = losses[0].detach(), self.multiplier(losses[0])
        self.losses.append(
            Loss(
                value=float(loss) / scale if loss.numel() == 1 and has_values(loss) else None,
                shape=tuple(loss.shape),
                call=self.recording.find_maker(losses[0]) if self.recording is not None else None,
                reached=reached,
                foreign=foreign,
                nodes=nodes,
                complete=complete,
                scale=scale,
                sign=_read_sign(scope.get("grad_tensors")),
            )
        )
        self.kept.graphs.add(losses[0], str(self.kept.step))

    def multiplier(self, loss: Tensor) -> float:
        """What a GradScaler has multiplied this loss by; 1 where it is none of those that it
        gave.
        """
        parts = loss.grad_fn.next_functions if loss.grad_fn is not None else ()
        return next(
            (
                self.scaled[n]
                for node, _ in parts
                if node is not None and (n := node._sequence_nr()) in self.scaled
            ),
            1.0,
        )

    def _backward_done(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        self.events.append(Event(kind="backward", subject=self.asking))
        if self.before:
            self.decay.backward_done()
        self.gradients = measure_gradients(self.kept.parameters)
        self.kept.silence.backward_done()
        self.kept.companions.backward_done()
        is_finite = not any(g.nonfinite for g in self.gradients.values())
        self.kept.waste.backward_done(is_finite=is_finite)

    def _forget_cleared(self) -> None:
        """Gradients that are gone or zero are no longer what an optimizer has used."""
        for name in list(self.kept.stepped):
            grad = self.kept.parameters[name].grad
            if grad is None or not bool((grad.detach() != 0).any()):
                self.kept.stepped.discard(name)
                self.kept.pending.discard(name)

    def _without_gradient(self) -> list[str]:
        return [
            n
            for n, p in self.kept.parameters.items()
            if p.grad is None or not bool((p.grad.detach() != 0).any())
        ]

    def _zero_grad_done(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        self._forget_cleared()
        self.kept.waste.zero_grad_done()

    def _zero_grad(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        self.events.append(Event(kind="zero_grad", subject=self._name(scope.get("self"))))

    def _clip(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        given = scope.get("parameters")
        listed = (
            [given]
            if isinstance(given, Tensor)
            else list(given)
            if isinstance(given, list | tuple)
            else list(self.kept.parameters.values())
        )
        self.unclipped = measure_total(self.kept.parameters)
        self.events.append(
            Event(
                kind="clip",
                effective=any(p.grad is not None for p in listed if isinstance(p, Tensor)),
            )
        )

    def _clip_done(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        if not self.events or self.events[-1].kind != "clip":
            return
        if self.unclipped:
            self.events[-1] = replace(
                self.events[-1], rate=measure_total(self.kept.parameters) / self.unclipped
            )
        listed = scope.get("parameters")  # a generator is a list by now
        if isinstance(listed, list) and not any(
            getattr(p, "grad", None) is not None for p in listed
        ):
            self.events[-1] = replace(self.events[-1], effective=False)

    def _mode(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:
        module = scope.get("self")
        kind = "train" if scope.get("mode") else "eval"
        self.events.append(
            Event(
                kind=kind,
                subject=self._name(module),
                effective=module is self.kept.model,
                source=find_caller(frame),
            )
        )

    def _boxes(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        self.events.extend(find_inverted(frame))

    def _schedule(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:
        """The outermost call only: a scheduler's step may call another's."""

    def _schedule_done(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        scheduler = scope.get("self")
        optimizer = getattr(scheduler, "optimizer", None)
        rate = float(optimizer.param_groups[0]["lr"]) if optimizer is not None else None
        given = scope.get("metrics") if getattr(scheduler, "mode", "") == "max" else None
        metric = float(given) if given is not None else None
        self.events.append(
            Event(kind="schedule", subject=self._name(scheduler), rate=rate, metric=metric)
        )

    def _scale_done(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        scale = getattr(scope.get("self"), "_scale", None)
        self.events.append(
            Event(kind="scale", rate=float(scale) if isinstance(scale, Tensor) else None)
        )
        node = getattr(scope.get("outputs"), "grad_fn", None)
        if isinstance(scale, Tensor) and node is not None:
            self.scaled[node._sequence_nr()] = float(scale)

    def _unscale(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        self.events.append(Event(kind="unscale", subject=self._name(scope.get("optimizer"))))

    def _grad(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        given = scope.get("outputs")
        tensors = [given] if isinstance(given, Tensor) else given or ()
        *_, nodes, _ = walk([t for t in tensors if isinstance(t, Tensor)], {})
        self.differentiated |= nodes
        self.events.append(Event(kind="grad", effective=bool(scope.get("create_graph"))))

    def _step(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        args, kwargs = scope.get("args") or (), scope.get("kwargs") or {}
        has_closure = len(args) > 1 or kwargs.get("closure") is not None
        self._forget_cleared()
        self.kept.waste.step()
        if not has_closure:  # else backward is within the step
            self.decay.step()
        self.was_empty = not getattr(args[0] if args else None, "state", None)
        self.is_fed = has_closure or has_gradients(args[0] if args else None)
        held = self._held_by(args[0] if args else None)
        self._note_stale(held)
        if self.recording is not None and not has_closure:
            # what the optimizer computes is no part of the data flow
            self.is_paused = self.recording.pause()

    def _step_done(self, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        args, kwargs = scope.get("args") or (None,), scope.get("kwargs") or {}
        if len(args) > 1 or kwargs.get("closure") is not None:  # backward was within the step
            self._note_stale(self._held_by(args[0]))
        fresh = self.was_empty and bool(getattr(args[0], "state", None))
        rates = [float(group["lr"]) for group in getattr(args[0], "param_groups", ())]
        self.events.append(
            Event(
                kind="step",
                subject=self._name(args[0]),
                rate=max(rates, default=None),
                fresh=fresh,
                effective=self.is_fed,
            )
        )
        self.kept.waste.step_done()
        self.terms.step(args[0])
        held = self._held_by(args[0])
        beside = self.kept.companions.list_held(args[0])
        self.kept.mixing.step(self._name(args[0]), [*held, *beside])
        self.stepped |= {
            name: measure_norm(read_dense(self.kept.parameters[name].detach() - self.before[name]))
            for name in held
            if name in self.before
        }
        self.kept.stepped.update(held)
        self.kept.pending.difference_update(held)
        if self.recording is not None and self.is_paused:
            self.recording.resume()
            self.is_paused = False

    def _note_stale(self, held: list[str]) -> None:
        pending = (name for name in held if name in self.kept.pending)
        self.stale = tuple(dict.fromkeys((*self.stale, *pending)))

    def _held_by(self, optimizer: Any) -> list[str]:
        groups = getattr(optimizer, "param_groups", ())
        ids = {id(p) for group in groups for p in group["params"]}
        return [name for name, p in self.kept.parameters.items() if id(p) in ids]

    def _name(self, subject: object) -> str:
        around = self.kept.surroundings
        for group in (around.optimizers, around.schedulers, around.models):
            if id(subject) in group:
                return group[id(subject)][0]
        return type(subject).__name__


def _read_sign(given: object) -> int:
    """The sign of the gradient that backward begins with; 0 where it has both."""
    parts = list(given) if isinstance(given, tuple | list) else [given]
    values = [p for p in parts if isinstance(p, Tensor) and has_values(p) and p.numel()]
    if not values or any(not p.is_floating_point() for p in values):
        return 1
    signs = {int(s) for p in values for s in (p.detach().min().sign(), p.detach().max().sign())}
    return signs.pop() if len(signs) == 1 else 0
