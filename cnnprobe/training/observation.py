"""From a model, a batch and a loop to the Evidence: which passes are made, in which order, from
which state.
"""

import contextlib
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import (
    BackwardFault,
    Evidence,
    Flow,
    OptimizerInfo,
    Replay,
    Schedule,
    Step,
    Values,
    sources_read,
)
from cnnprobe.diagnosis.evidence.pace import relative_changes
from cnnprobe.errors import TargetError
from cnnprobe.recorder import Recording, is_compiled
from cnnprobe.recorder.inventory import check_model, class_of, has_values, is_lazy
from cnnprobe.recorder.peers import needs_all_ranks, without_peers
from cnnprobe.recorder.values import describe_tensor, leaves
from cnnprobe.records.trace import TensorInfo, Trace
from cnnprobe.training.hidden import describe_hidden, find_hidden, names_of, values_of
from cnnprobe.training.keeping import kept, restore
from cnnprobe.training.passes import call, forward, fresh
from cnnprobe.training.probing import run_late_probes, run_probes
from cnnprobe.training.stepping import Stepper, TrainingStep, finite, seeded, summary, unwrapped
from cnnprobe.training.surroundings import Surroundings, arguments_of, look_around

REPLAYED = 3  # steps of a replay
SLOWER = 0.001  # factor of the learning rate when the loss rose
# update norm over weight norm that a replay aims at where it did not; 1e-3 is usual (Karpathy,
# CS231n)
BRISK = 1e-2
UNMOVED = 1e-4  # relative change of the loss that counts as none
SCHEDULED = 100  # batches that an epoch has at least, for most data sets
_WITH_AN_END = frozenset(
    {
        "OneCycleLR",
        "CosineAnnealingLR",
        "CosineAnnealingWarmRestarts",
        "CyclicLR",
        "PolynomialLR",
        "LinearLR",
        "ReduceLROnPlateau",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `diagnose` was given. `names` are the caller's variables for the roles "model",
    "optimizer", "scheduler", "loss_fn".
    """

    model: nn.Module
    inputs: Any
    targets: Any = None
    loss_fn: Callable[..., Any] | None = None
    optimizer: Any = None
    train_step: Callable[..., Any] | None = None
    scheduler: Any = None
    steps: int = 6
    names: Mapping[str, str] = field(default_factory=dict)
    caller: str = ""  # the file that asked
    # told what raised while the tensors are as they were then: weights that are put back count as
    # changed in place
    when_raised: "Callable[[Raised], None]" = lambda _raised: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """What the forward, the loss, the backward or the step raised, with the forward before it."""

    error: Exception
    trace: Trace | None  # of the model's latest forward; None: it was not called
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None  # that the standard step gave to the loss


def observe_training(request: Request) -> tuple[Evidence, BaseException | None]:
    """The evidence, and the exception that the forward, the loss, the backward or the step raised,
    if any.
    """
    model = request.model
    check_model(model, "the model to diagnose")
    if is_lazy(model):
        raise TargetError("the model is lazy: its first forward decides its layers", where=type(model).__name__, fix="call it once on a batch before diagnosing it")  # fmt: skip
    if needs_all_ranks(model):
        raise TargetError(
            "the model is sharded over several ranks, and a diagnosis makes as many passes as each "
            "rank's own losses ask for: the ranks would wait for each other",
            where=class_of(model).__name__,
            fix="diagnose it before fully_shard, or watch the sharded one: cnnprobe.monitor(model)",
        )
    _check_values(request)
    with keep_request(request) as (around, states):
        return _Observation(request, around, states).run()


@contextlib.contextmanager
def keep_request(request: Request) -> Iterator[tuple[Surroundings, list[Any]]]:
    """What a request's step works with, and what restores it meanwhile; all of it is afterwards as
    before.
    """
    given = {
        request.names.get(role, role): getattr(request, role)
        for role in ("model", "optimizer", "scheduler", "loss_fn")
    }
    around = look_around(request.train_step, given)
    around.add("loss_fn", request.loss_fn)
    tensors = [
        leaf for _, leaf in leaves((request.inputs, request.targets)) if isinstance(leaf, Tensor)
    ]
    eager = (
        torch.compiler.set_stance("force_eager")
        if any(is_compiled(m) for _, m in around.models.values())
        else contextlib.nullcontext()
    )
    with contextlib.ExitStack() as stack:
        for _, model in around.models.values():
            stack.enter_context(without_peers(model))
        states = stack.enter_context(kept(around, tensors))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(torch.enable_grad())
        stack.enter_context(eager)
        warnings.simplefilter("ignore")
        yield around, states


def make_step(request: Request, around: Surroundings) -> Callable[[], Any]:
    """One step of the user's loop, or the standard one, with the same seed each time."""
    return _Observation(request, around, []).one_step()


def _check_values(request: Request) -> None:
    """Refuse a batch or a whole model on meta: a diagnosis is made of values."""
    batch = [leaf for _, leaf in leaves((request.inputs, request.targets))]
    parameters = list(request.model.parameters())
    subjects = (("model", parameters), ("batch", [t for t in batch if isinstance(t, Tensor)]))
    for name, tensors in subjects:
        if tensors and not any(map(has_values, tensors)):
            raise TargetError(
                f"the {name} has no values: it is on the meta device, or fake",
                where=type(request.model).__name__,
                fix="make it on a real device; model.to_empty(device='cpu') gives a model memory",
            )


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

    def run(self) -> tuple[Evidence, BaseException | None]:
        request = self.request
        values = values_of(self.model)
        evaluation, probes = run_probes(self.model, request.inputs, request.targets, self.names)
        evaluated = self.loss_of(evaluation.output) if evaluation.error is None else None
        restore(self.states)
        steps = self.steps(request.steps) if self.trains() else ()
        if not steps:
            first = self.plain_forward()
        trace = steps[0].trace if steps else first
        collapse = self.collapse(steps)
        if self.error is None and evaluation.error is None:
            probes = run_late_probes(self.model, request.inputs, request.targets, probes)
        training = (
            steps[0].value if steps and steps[0].training and len(steps[0].losses) == 1 else None
        )
        probes = replace(probes, evaluation_loss=evaluated, training_loss=training)
        backward = self.find_backward(steps)
        replays = self.replays(steps, values)
        restore(self.states)
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
            optimizers=self.optimizers(),
            probes=probes,
            inputs=_described(request.inputs),
            targets=_described(request.targets),
            replays=replays,
            collapse=collapse,
            schedules=self.schedules(),
            backward=backward,
            names=dict(request.names),
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
        alone = request.targets is None  # a batch without labels is no pair
        batch = request.inputs if alone else (request.inputs, request.targets)
        available = {
            "model": self.model, "inputs": request.inputs, "targets": request.targets, "batch": batch, "optimizer": request.optimizer,
            "loss_fn": request.loss_fn, "scheduler": request.scheduler,
        }  # fmt: skip
        args, kwargs = arguments_of(request.train_step, available)
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
        loss = (
            loss_fn(_fitting(output, loss_fn))
            if request.targets is None
            else loss_fn(_fitting(output, loss_fn), request.targets)
        )
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            for _, optimizer in self.around.optimizers.values():
                optimizer.step()
        elif isinstance(loss, Tensor):
            loss.backward()  # type: ignore[no-untyped-call] # raises what torch says of a loss without a graph

    def loss_of(self, output: Any) -> float | None:
        """The loss of an output, where the loss function is known and takes it."""
        request = self.request
        if request.loss_fn is None:
            return None
        try:
            with torch.no_grad():
                given = _fitting(output, request.loss_fn)
                loss = (
                    request.loss_fn(given)
                    if request.targets is None
                    else request.loss_fn(given, request.targets)
                )
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
            self.request.when_raised(raised)

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

    def collapse(self, steps: tuple[Step, ...]) -> float | None:
        """Rate after a hundred batches over the first one, if each batch steps a scheduler that
        only ever decays.
        """
        if len(steps) < 2 or not all(
            any(e.kind == "schedule" for e in step.events) for step in steps
        ):
            return None
        for _, scheduler in self.around.schedulers.values():
            kinds = {type(s).__name__ for s in (scheduler, *getattr(scheduler, "_schedulers", ()))}
            optimizer = getattr(scheduler, "optimizer", None)
            rates = getattr(scheduler, "base_lrs", None)
            if kinds & _WITH_AN_END or optimizer is None or not rates or not rates[0]:
                continue
            try:
                for _ in range(SCHEDULED):
                    scheduler.step()
            except Exception:  # noqa: S112 - one with a total number of steps of its own
                continue
            highest = max(
                (max(factors) for _, factors in _factors(scheduler)), default=1.0
            )  # a warm-up begins with a rate of 0
            return float(optimizer.param_groups[0]["lr"]) / (float(rates[0]) * (highest or 1.0))
        return None

    def schedules(self) -> tuple[Schedule, ...]:
        """The factors of every LambdaLR."""
        found = [
            (name, entry)
            for name, scheduler in self.around.schedulers.values()
            for entry in _factors(scheduler)
        ]
        return tuple(
            Schedule(name=name, base=base, factors=factors) for name, (base, factors) in found
        )

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
        if moved <= UNMOVED * abs(losses[0]):
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
        return BackwardFault(call=_first_bad_derivative(self.model, run, self.names), step=bad[0])

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

    def optimizers(self) -> tuple[OptimizerInfo, ...]:
        """Every known optimizer against what the known models register."""
        known = {id(p) for _, model in self.around.models.values() for p in model.parameters()}
        known |= {id(t) for thing in self.hidden for _, t in thing.tensors()}
        described = []
        for name, optimizer in self.around.optimizers.values():
            listed = [p for group in optimizer.param_groups for p in group["params"]]
            described.append(
                OptimizerInfo(
                    name=name,
                    kind=type(optimizer).__name__,
                    rates=tuple(float(group.get("lr", 0.0)) for group in optimizer.param_groups),
                    parameters=frozenset(self.names[id(p)] for p in listed if id(p) in self.names),
                    foreign=tuple(tuple(p.shape) for p in listed if id(p) not in known),
                    scheduled=any(group.get("initial_lr") for group in optimizer.param_groups),
                    maximize=any(bool(group.get("maximize")) for group in optimizer.param_groups),
                    weight_decay=max(
                        (
                            float(group.get("weight_decay") or 0.0)
                            for group in optimizer.param_groups
                        ),
                        default=0.0,
                    ),
                    decoupled=type(optimizer).__name__.endswith("W")
                    or any(g.get("decoupled_weight_decay") for g in optimizer.param_groups),
                )
            )
        return tuple(described)


def _factors(scheduler: Any) -> list[tuple[float, tuple[float, ...]]]:
    """Base rate and factors of the first hundred epochs, for each group of a LambdaLR."""
    found = []
    for base, function in zip(
        getattr(scheduler, "base_lrs", ()), getattr(scheduler, "lr_lambdas", ()), strict=False
    ):
        with contextlib.suppress(Exception):  # the user's own function, of epochs that may not come
            found.append((float(base), tuple(float(function(epoch)) for epoch in range(SCHEDULED))))
    return found


def _described(value: Any) -> tuple[TensorInfo, ...]:
    return tuple(
        describe_tensor(leaf, path, None, summary(leaf))
        for path, leaf in leaves(value)
        if isinstance(leaf, Tensor)
    )


def _fitting(output: Any, loss_fn: Any) -> Any:
    """What a stock loss can take of a nested output: its logits, or its first tensor.

    A tuple stays one: the standard step hands it to the loss as it is, which then raises.
    """
    if isinstance(output, tuple):
        return output
    if isinstance(output, Tensor) or (not getattr(type(loss_fn), "__module__", "").startswith("torch.") and not getattr(loss_fn, "__module__", "").startswith("torch.")):  # fmt: skip
        return output
    for name in ("logits", "out"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    return next((leaf for _, leaf in leaves(output) if isinstance(leaf, Tensor)), output)


def _first_bad_derivative(
    model: nn.Module, run: Callable[[], Any], names: Mapping[int, str]
) -> int | None:
    """Runs one step with a hook on what every row made; the row that turned a finite gradient into
    a non-finite one.
    """
    fired: list[tuple[int, bool]] = []
    count = 0

    def watch(tensor: Tensor) -> dict[str, float | int] | None:
        nonlocal count
        if not tensor.requires_grad:
            return None
        count += 1
        slot = count
        tensor.register_hook(lambda grad: fired.append((slot, bool(grad.isfinite().all()))))  # type: ignore[no-untyped-call]
        return {"slot": slot}

    wrapper = TrainingStep(model, run)
    names = {key: f"model.{name}" for key, name in names.items()}
    recording = Recording(wrapper, statistics=watch, through_compiled=True, names=names)
    with recording:
        try:
            wrapper()
        except Exception:  # it ran before; what was seen until now is enough
            return None
    trace = unwrapped(recording.trace, "")
    rows = {
        int(info.stats["slot"]): i
        for i, c in enumerate(trace.calls)
        for info in c.outputs
        if info.stats
    }
    flow = Flow(trace)
    state = {rows[slot]: good for slot, good in fired if slot in rows}
    for slot, good in fired:
        if not good and slot in rows:
            readers = [r for r in flow.readers.get(rows[slot], ()) if state.get(r, True)]
            return readers[0] if readers else rows[slot]
    bad = {
        name
        for p in model.parameters()
        if p.grad is not None and not bool(p.grad.isfinite().all())
        for name in [names.get(id(p), "")]
    }
    owners = {name.rpartition(".")[0] for name in bad}
    return next(
        (
            i
            for i, c in reversed(list(enumerate(trace.calls)))
            if c.fqn in owners and flow.is_primitive[i]
        ),
        None,
    )
