"""Runs training steps and writes down their rows, events, losses, gradients and changes of the
parameters.
"""

import contextlib
import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cnnprobe.diagnosis.evidence import Step
from cnnprobe.recorder import Recording
from cnnprobe.recorder.inventory import has_values
from cnnprobe.recorder.preservation import seed_generators
from cnnprobe.recorder.values import read_dense
from cnnprobe.records.trace import Trace
from cnnprobe.training.draft import BetweenSteps, StepDraft
from cnnprobe.training.events import LoopWatch
from cnnprobe.training.norms import measure_gradients, measure_norm
from cnnprobe.training.surroundings import Surroundings
from cnnprobe.training.wrapping import PREFIX, TrainingStep, summary, unwrapped


class Stepper:
    """Observes steps of one model; keeps between them what must be compared from step to step."""

    def __init__(
        self, model: nn.Module, surroundings: Surroundings, names: Mapping[int, str]
    ) -> None:
        self.model = model
        self.kept = BetweenSteps(model, surroundings, names)
        self.keepers: tuple[str, ...] = ()
        self.error: BaseException | None = None

    def run(self, step: Callable[[], Any], *, statistics: bool, measured: bool = True) -> Step:
        """One step. An exception of the step's is kept in `error`, and what was seen until then
        returned.

        Statistics of the rows and, if `measured`, the sizes of gradients and changes cost about as
        much as the step itself.
        """
        self.kept.step += 1
        draft, kept = StepDraft(self.kept), self.kept
        if measured:  # also without an optimizer: a loop may update by hand
            known = {name: p for name, p in kept.parameters.items() if has_values(p)}
            draft.before = {
                name: p.detach().clone()
                for name, p in known.items()
                if p.layout in (torch.strided, torch.sparse_coo)  # the others cannot be subtracted
            }
        trace = _record(self.model, step, self, draft, statistics=statistics)
        changes = {
            name: measure_norm(read_dense(kept.parameters[name].detach() - old))
            for name, old in draft.before.items()
        }
        alive = self.count_living_graphs()
        if alive > 1 and not self.keepers:  # it looks at every object: asked once
            self.keepers = self._list_keepers()
        gradients = draft.gradients or measure_gradients(kept.parameters)
        if draft.stumbled:
            trace = replace(trace, notes=(*trace.notes, *draft.stumbled))
        return Step(
            trace=trace,
            events=tuple(draft.events),
            losses=draft.terms.complete(draft.losses, kept.names),
            gradients=gradients if draft.losses else {},
            stale=draft.stale,
            mixed=kept.mixing.found,
            silent=kept.silence.count() if draft.losses else {},
            changes=changes,
            stepped=draft.stepped,
            wasted=kept.waste.total - draft.wasted_before,
            training=draft.training,
            alive=alive,
            keepers=self.keepers if alive > 1 else (),
            uses=draft.uses,
            beside=kept.companions.describe(),
            decayed=draft.decay.finish(draft.before),
        )

    def count_living_graphs(self) -> int:
        """How many graphs of earlier steps something still holds."""
        if self._list_earlier():
            gc.collect()  # visits every object of the process, so only where a cycle may hold one
        return len(self._list_earlier())

    def _list_earlier(self) -> list[str]:
        return [label for label in self.kept.graphs.alive() if label != str(self.kept.step)]

    def _list_keepers(self) -> tuple[str, ...]:
        found = [
            keeper
            for graph in self.kept.graphs.kept()
            if graph.label != str(self.kept.step)
            for keeper in graph.keepers
        ]
        return tuple(dict.fromkeys(found))


def _record(
    model: nn.Module,
    step: Callable[[], Any],
    stepper: Stepper,
    draft: StepDraft,
    *,
    statistics: bool,
) -> Trace:
    wrapper = TrainingStep(model, lambda: draft.observe_end(step()))
    names = {key: f"{PREFIX}.{name}" for key, name in stepper.kept.names.items()}
    recording = Recording(
        wrapper, statistics=summary if statistics else False, through_compiled=True, names=names
    )
    draft.recording = recording
    with recording, LoopWatch(draft.on), contextlib.ExitStack():
        try:
            wrapper()
        except Exception as error:  # the step's own: it is what the diagnosis is about
            stepper.error = error
    return unwrapped(recording.trace, type(model).__name__)


def seeded(step: Callable[[], Any], seed: int) -> Callable[[], Any]:
    """The step with torch's generators at `seed`: with equal masks, a sane step on the same batch
    lowers its loss.
    """

    def run() -> Any:
        seed_generators(seed)
        return step()

    return run


def finite(value: float | None) -> bool:
    """Whether it is a finite number."""
    return value is not None and math.isfinite(value)
