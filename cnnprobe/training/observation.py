"""From a model, a batch and a loop to the Evidence: which passes are made, in which order, from
which state.
"""

import functools
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from cnnprobe.diagnosis.evidence import (
    BackwardFault,
    Evidence,
    OwnCode,
    Replay,
    Step,
    Values,
    sources_read,
)
from cnnprobe.diagnosis.evidence.pace import UNMOVED, least_movement, relative_changes
from cnnprobe.errors import TargetError
from cnnprobe.recorder import Recording
from cnnprobe.recorder.devices import is_device_lost
from cnnprobe.recorder.inventory import check_hashable, check_model, is_lazy
from cnnprobe.recorder.values import describe_tensor, drop_output, leaves
from cnnprobe.records.trace import TensorInfo, Trace
from cnnprobe.training.attributes import find_idle_attributes
from cnnprobe.training.averages import Followed, find_averages
from cnnprobe.training.backward_fault import find_bad_derivative
from cnnprobe.training.batch_facts import describe_batch
from cnnprobe.training.causality import observe_foresight
from cnnprobe.training.derivatives import find_wrong_derivatives, watch_functions
from cnnprobe.training.dropped import find_dropped
from cnnprobe.training.hidden import describe_hidden, find_hidden, names_of, values_of
from cnnprobe.training.keeping import restore
from cnnprobe.training.own_code import read_code
from cnnprobe.training.passes import call, fit_output, forward, fresh
from cnnprobe.training.probing import run_late_probes, run_probes
from cnnprobe.training.rates import (
    describe_optimizers,
    describe_schedules,
    find_collapse,
    find_compounding,
    find_restarted,
    weigh_classes,
)  # fmt: skip
from cnnprobe.training.request import (
    Raised,
    Request,
    check_values,
    find_arguments,
    keep_request,
)
from cnnprobe.training.settings import watch_settings
from cnnprobe.training.spectra import find_learnt
from cnnprobe.training.stepping import Stepper, finite, seeded
from cnnprobe.training.surroundings import Surroundings
from cnnprobe.training.texts import read_texts
from cnnprobe.training.wrapping import TrainingStep, summary, unwrapped

REPLAYED = 3  # steps of a replay
SLOWER = 0.001  # factor of the learning rate when the loss rose
# update norm over weight norm that a replay aims at where it did not; 1e-3 is usual (Karpathy,
# CS231n)
BRISK = 1e-2
T = TypeVar("T")


def observe_training(request: Request) -> tuple[Evidence, BaseException | None]:
    """The evidence, and the exception that the forward, the loss, the backward or the step raised,
    if any.
    """
    model = request.model
    check_model(model, "the model to diagnose")
    check_hashable(model, "the model to diagnose")
    if is_lazy(model):
        raise TargetError(
            "the model is lazy: its first forward decides its layers",
            where=type(model).__name__,
            fix="call it once on a batch before diagnosing it",
        )
    check_values(request)
    with keep_request(request) as (around, states):
        observation = _Observation(request, around, states)
        try:
            return observation.run()
        except Exception as error:
            if is_device_lost():  # what a kernel did shows only where the device is waited for
                request.when_raised(Raised(error=error, trace=observation.latest), request)
            raise


def make_step(request: Request, around: Surroundings, *, seed: int = 0) -> Callable[[], Any]:
    """One step of the user's loop, or the standard one, with the same seed each time; `seed` is
    added to it.
    """
    observation = _Observation(request, around, [])
    observation.seed += seed
    return observation.one_step()


class _Observation:
    """One observation in progress: the same model, surroundings and saved states for all of its
    passes.
    """

    def __init__(self, request: Request, around: Surroundings, states: list[Any]) -> None:
        self.request = request
        self.model = request.model
        self.around = around
        self.states = states
        self.seed = int(torch.initial_seed() % 2**31)
        self.hidden = find_hidden(self.model)
        self.before = {thing.fqn: id(thing.holder) for thing in self.hidden}
        self.names = names_of(self.model, self.hidden)
        self.error: BaseException | None = None
        self.output: Any = None
        self.latest: Trace | None = None  # of a forward
        self.given = ""  # which part of the output the loss was given

    def run(self) -> tuple[Evidence, BaseException | None]:
        request, model = self.request, self.model
        values = values_of(model)
        evaluation, probes = run_probes(self.model, request.inputs, request.targets, self.names)
        self.latest = evaluation.trace
        evaluated = self.loss_of(evaluation.output) if evaluation.error is None else None
        restore(self.states)
        with watch_functions() as functions, watch_settings(model, self.around) as overwritten:
            steps = self.steps(request.steps) if self.trains() else ()
        if not steps:
            first = self.plain_forward()
        trace = steps[0].trace if steps else first
        idle = find_idle_attributes(self.model, self.around)
        compounding = find_compounding(self.around)
        collapse = find_collapse(self.around, steps)
        if self.error is None and evaluation.error is None:
            probes = run_late_probes(self.model, request.inputs, request.targets, probes)
        training = (
            steps[0].value if steps and steps[0].training and len(steps[0].losses) == 1 else None
        )
        probes = replace(probes, evaluation_loss=evaluated, training_loss=training)
        backward = self.find_backward(steps)
        replays = self.replays(steps, values)
        restore(self.states)
        copies = self.ask(steps, self.averages)
        foresight = self.ask(
            steps, lambda put_back: observe_foresight(request, self.one_step(), put_back)
        )
        make = functools.partial(make_step, around=self.around)
        code = self.ask(steps, lambda put_back: read_code(request, self.around, make, put_back))
        if (
            not any(step.training for step in steps)
            and not getattr(self.model, "training", False)
            and trace.never_called
            and self.error is None
        ):
            probes = replace(probes, called_in_train=self.called_in_train())
        used = self.used([trace, evaluation.trace, *(step.trace for step in steps)], steps)
        evidence = Evidence(
            trace=trace,
            evaluation=evaluation.trace if evaluation.error is None else None,
            steps=steps,
            values=values,
            hidden=describe_hidden(self.hidden, used, self.before),
            optimizers=describe_optimizers(self.around, self.names, self.hidden),
            probes=probes,
            inputs=_described(request.inputs),
            targets=_described(request.targets),
            replays=replays,
            collapse=collapse,
            compounding=compounding,
            schedules=describe_schedules(self.around),
            restarted=find_restarted(self.around),
            backward=backward,
            names=dict(request.names),
            given=self.given,
            class_weights=weigh_classes(self.around, request),
            batch=describe_batch(request),
            idle=idle,
            derivatives=find_wrong_derivatives(functions),
            averages=copies[0] if copies is not None else (),
            left=copies[1] if copies is not None else (),
            overwritten=tuple(overwritten),
            foresight=foresight,
            code=code or OwnCode(),
            dropped=find_dropped(trace),
            texts=read_texts(request, self.around, trace),
            learnt=find_learnt(model, steps),
            own_loop=request.train_step is not None,
        )
        return evidence, self.error

    def trains(self) -> bool:
        return self.request.train_step is not None or (self.request.loss_fn is not None)

    # -- steps -------------------------------------------------------------------------------------

    def one_step(self) -> Callable[[], Any]:
        request = self.request
        if request.train_step is None:
            return seeded(self.default_step, self.seed)
        args, kwargs = find_arguments(request)
        step = request.train_step
        return seeded(lambda: step(*args, **kwargs), self.seed)

    def default_step(self) -> None:
        """The textbook's step, where the user gave none."""
        request = self.request
        for _, optimizer in self.around.optimizers.values():
            optimizer.zero_grad()
        output = self.output = call(self.model, request.inputs)
        loss_fn = request.loss_fn
        assert loss_fn is not None  # noqa: S101  (trains() said so)
        self.given, given = fit_output(output, loss_fn)
        try:
            loss = loss_fn(given) if request.targets is None else loss_fn(given, request.targets)
        finally:
            drop_output(output)  # a coroutine that the loss did not await
        if isinstance(loss, Tensor):
            loss.backward()  # type: ignore[no-untyped-call] # raises torch's own words without a graph
            for _, optimizer in self.around.optimizers.values():
                optimizer.step()

    def loss_of(self, output: Any) -> float | None:
        """The loss of an output, where the loss function is known and takes it."""
        request = self.request
        if request.loss_fn is None:
            return None
        try:
            with torch.no_grad():
                _, given = fit_output(output, request.loss_fn)
                pair = (given,) if request.targets is None else (given, request.targets)
                loss = request.loss_fn(*pair)
        except Exception:  # eval mode may give another kind of output
            return None
        return float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else None

    def steps(self, count: int) -> tuple[Step, ...]:
        """The observed steps; a model that cannot be optimised is looked at once."""
        stepper = Stepper(self.model, self.around, self.names)
        step = self.one_step()
        if not self.around.optimizers and self.request.train_step is None:
            count = 1
        made: list[Step] = []
        for i in range(max(1, count)):
            made.append(
                stepper.run(step, statistics=i in (0, count - 1), measured=i in (0, 1, count - 1))
            )
            if stepper.error is not None:
                self.error = stepper.error
                self.raise_again(step, len(made))
                break
        if not self.request.train_step and not self.around.optimizers:
            for parameter in self.model.parameters():
                parameter.grad = None
        return tuple(made)

    def raise_again(self, step: Callable[[], Any], count: int) -> None:
        """Run the steps again up to the one that raised, with each forward recorded by itself."""
        restore(self.states)
        args: tuple[Any, ...] = ()
        kwargs: Mapping[str, Any] = {}
        recording = Recording(self.model)
        try:
            with recording:
                try:
                    for _ in range(count):
                        step()
                finally:
                    args, kwargs = recording.given
        except Exception as error:  # the step's own
            self.error = error
            trace = recording.traces[-1] if recording.traces else None
            raised = Raised(error=error, trace=trace, args=args, kwargs=kwargs, output=self.output)
            self.request.when_raised(raised, self.request)

    def plain_forward(self) -> Trace:
        """One forward pass in the mode that the model is in, where there is no loss to train
        with.
        """
        wrapper = TrainingStep(self.model, lambda: call(self.model, fresh(self.request.inputs)))
        names = {key: f"model.{name}" for key, name in self.names.items()}
        recording = Recording(wrapper, statistics=summary, through_compiled=True, names=names)
        with recording:
            try:
                wrapper()
            except Exception as error:  # the forward's own
                self.error = error
        if self.error is not None:
            self.raise_again(lambda: call(self.model, fresh(self.request.inputs)), 1)
        return unwrapped(recording.trace, type(self.model).__name__)

    # -- after the steps ---------------------------------------------------------------------------

    def replays(self, steps: tuple[Step, ...], values: Mapping[str, Values]) -> tuple[Replay, ...]:
        """The first steps again with another rate, where the loss rose or did not move."""
        losses = [step.value for step in steps]
        if (
            len(steps) < 3
            or losses[0] is None
            or not math.isfinite(losses[0])
            or self.error is not None
            or not self.around.optimizers
        ):
            return ()
        highest = max((v if finite(v) else math.inf) for v in losses if v is not None)
        moved = abs(highest - losses[0]) + abs(min(v for v in losses if v is not None) - losses[0])
        if highest > losses[0] + UNMOVED * abs(losses[0]):
            return (self.replay(SLOWER),)
        if moved <= least_movement(len(steps)) * abs(losses[0]):
            ratios = relative_changes(steps, values, self.highest_rate())
            return (
                (self.replay(min(1e9, max(10.0, BRISK / statistics.median(ratios)))),)
                if ratios
                else ()
            )
        return ()

    def highest_rate(self) -> float:
        """The greatest learning rate of any group."""
        groups = (g for _, o in self.around.optimizers.values() for g in o.param_groups)
        return max((float(group["lr"]) for group in groups), default=0.0)

    def replay(self, factor: float) -> Replay:
        """The same steps from the same start with every rate times `factor`."""
        restore(self.states)
        for _, optimizer in self.around.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * factor
        for _, scheduler in self.around.schedulers.values():
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
        stepper = Stepper(self.model, self.around, self.names)
        step = self.one_step()
        losses = []
        for _ in range(REPLAYED):
            losses.append(stepper.run(step, statistics=False, measured=False).value)
            if stepper.error is not None:
                break
        return Replay(factor=factor, losses=tuple(losses))

    def find_backward(self, steps: tuple[Step, ...]) -> BackwardFault | None:
        """Where the backward pass of a finite loss first made a non-finite gradient."""
        bad = [
            i
            for i, step in enumerate(steps)
            if finite(step.value) and any(g.nonfinite for g in step.gradients.values())
        ]
        if not bad:
            return None
        restore(self.states)
        stepper = Stepper(self.model, self.around, self.names)
        run = self.one_step()
        for _ in range(bad[0]):
            stepper.run(run, statistics=False, measured=False)
        return BackwardFault(call=find_bad_derivative(self.model, run, self.names), step=bad[0])

    def averages(self, put_back: Callable[[], None]) -> Followed:
        """How copies of the weights follow them."""
        if not self.around.optimizers:
            return (), ()
        return find_averages(self.model, self.around, self.one_step(), put_back, self.request.steps)

    def ask(self, steps: tuple[Step, ...], question: Callable[[Callable[[], None]], T]) -> T | None:
        """What further passes say, where the steps went well; `question` gets what restores, and
        calls it after what it runs.
        """
        if not steps or self.error is not None:
            return None
        return question(lambda: restore(self.states))

    def called_in_train(self) -> frozenset[str]:
        """The modules that a forward in train mode calls."""
        made = forward(self.model, fresh(self.request.inputs), training=True)
        restore(self.states)
        return frozenset(c.fqn for c in made.trace.calls if c.fqn is not None)

    # -- data --------------------------------------------------------------------------------------

    def used(self, traces: list[Trace], steps: tuple[Step, ...]) -> set[str]:
        """Names of parameters and hidden tensors that any row read or any graph reached."""
        found: set[str] = set()
        for trace in traces:
            found |= sources_read(trace)
        for step in steps:
            for loss in step.losses:
                found |= loss.reached
        return found


def _described(value: Any) -> tuple[TensorInfo, ...]:
    return tuple(
        describe_tensor(leaf, path, None, summary(leaf))
        for path, leaf in leaves(value)
        if isinstance(leaf, Tensor)
    )
