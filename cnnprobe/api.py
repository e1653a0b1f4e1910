"""The verbs: each takes the user's model and gives a Report. The only room that knows the whole
path.
"""

import os
import pathlib
import sys
import time
import types
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from torch import nn

from cnnprobe.comparison import Tolerance, compare_models, compare_traces, observe_as
from cnnprobe.comparison.refactoring import refactor_model
from cnnprobe.comparison.results import Comparison, Refactoring
from cnnprobe.crash import NOTHING_SEEN, Crash, add_note, explain, failure_and_explanation
from cnnprobe.crash.cause import Cause, load_causes
from cnnprobe.data import DataRule, all_data_rules, join_findings, load_data_rules
from cnnprobe.data.expected import read_expected
from cnnprobe.data.feeding import feed, is_loader, wrap_dataset
from cnnprobe.data.inspecting import Inspection, judge, read
from cnnprobe.data.report import DataReport
from cnnprobe.data.source import Limits
from cnnprobe.diagnosis import Rule, ignored_by_classes, run_rules, split_ignored, to_finding
from cnnprobe.errors import TargetError, UnknownNameError, UsageError
from cnnprobe.graph import Graph
from cnnprobe.monitoring import EVERYTHING, Settings
from cnnprobe.monitoring.runs import Monitor, start
from cnnprobe.recorder import Observation, Recording, observe
from cnnprobe.recorder.autograd import made_by, walk
from cnnprobe.recorder.inventory import check_model
from cnnprobe.recorder.shapes import observe_shapes
from cnnprobe.records.explanation import Explanation
from cnnprobe.records.trace import Trace
from cnnprobe.remedies import try_remedies
from cnnprobe.report import Report, load
from cnnprobe.rulebook import all_rules, load_rules
from cnnprobe.training import Raised, Request, observe_training

Compared = nn.Module | Report | Recording | Trace | str | os.PathLike[str]
"""What can be compared: a model, a recording of one, or the path of a saved report."""

_last: "weakref.WeakKeyDictionary[nn.Module, Report]" = weakref.WeakKeyDictionary()
_recordings: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[Recording]]" = (
    weakref.WeakKeyDictionary()
)


def probe(model: nn.Module, *args: Any, shapes_only: bool = False, **kwargs: Any) -> Report:
    """One forward pass of `model(*args, **kwargs)`, neutrally observed.

    The model is afterwards bit for bit as it was: parameters, buffers, flags, gradients,
    attributes, hooks, random generators. It runs in the mode it is in (train or eval) and under the
    caller's grad mode. When the forward raises, the report says why instead of raising (`report.ok`
    is False, `report.explanation` names the module to blame, the cause, and repairs that were tried
    on a shadow of the model, `report.error` is the exception); an interrupt goes on to the caller.

    Args:
        model: any nn.Module, also lazy, compiled or on the meta device.
        *args: the forward's positional arguments.
        shapes_only: compute nothing and read no weight; shapes, parameters and multiply-accumulates
            are the same, values are missing. An operation that needs values is given zeros, and
            named in a note.
        **kwargs: the forward's keyword arguments.

    Raises:
        TargetError: `model` is not an nn.Module, or with `shapes_only` a part of it is scripted or
            sharded.

    >>> import torch
    >>> report = probe(torch.nn.Linear(4, 2), torch.ones(3, 4))
    >>> report.ok, report.trace[""].outputs[0].shape, report.trace[""].macs
    (True, (3, 2), 24)
    """
    try:
        look = observe_shapes if shapes_only else observe
        observation = look(model, args, kwargs)
    except BaseException as interrupt:
        seen = getattr(interrupt, "observation", None)
        if isinstance(seen, Observation):
            _last[model] = Report(trace=seen.trace, error=interrupt)
        raise
    explanation = None
    if observation.error is not None:
        explanation = explain(
            Crash(
                error=observation.error,
                model=model,
                trace=observation.trace,
                args=args,
                kwargs=kwargs,
            )
        )
    report = Report(
        trace=observation.trace,
        explanation=explanation,
        output=observation.output,
        error=observation.error,
    )
    _last[model] = report
    return report


class ExplainedRecording(Recording):
    """A recording that explains the exception which leaves its block: as notes on it (PEP 678), and
    as `explanation`.
    """

    def __init__(self, model: nn.Module, *, statistics: bool = True) -> None:
        super().__init__(model, statistics=statistics)
        self._explained = model
        self.explanation: Explanation | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        args, kwargs = self.given
        super().__exit__(kind, error, trace)
        if error is not None and self.traces:
            keep_report(self._explained, Report(trace=self.traces[-1], error=error))
        if not isinstance(error, Exception):
            return
        latest = self.traces[-1] if self.traces else NOTHING_SEEN
        self.explanation = explain(
            Crash(error=error, model=self._explained, trace=latest, args=args, kwargs=kwargs)
        )
        if self.traces:
            report = Report(trace=self.traces[-1], explanation=self.explanation, error=error)
            keep_report(self._explained, report)
        if self.explanation is not None and self.explanation.diagnosis != "unknown":
            add_note(error, self.explanation)


def record(model: nn.Module, *, statistics: bool = True) -> ExplainedRecording:
    """A context manager around the user's own forward (and backward) passes: no extra pass, the
    same numbers.

    An exception keeps its type, message and traceback, and gains the explanation as notes;
    explaining it runs shadows of the model.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> with record(model) as recording:
    ...     loss = model(torch.ones(3, 4)).sum()
    >>> [call.kind for call in recording.trace.calls]
    ['Sequential', 'Linear', 'ReLU']
    """
    recording = ExplainedRecording(model, statistics=statistics)
    _recordings[model] = weakref.ref(recording)
    return recording


def autograd_graph(
    output: Any, model: nn.Module | None = None, *, trace: Trace | None = None, saved: bool = True
) -> Graph:
    """The dynamic graph that autograd has built behind a tensor or a nested output: what made what,
    and what it keeps.

    It is exact, it is walked without recursion, and it keeps no tensor alive. If the forward pass
    was recorded, every node is named by the module call that made it and the user's line; else
    modules are told by the parameters they own.

    Args:
        output: a tensor (a loss, say), or any nest of tensors.
        model: names the parameters; the forward pass of a `record(model)` that you still hold is
            found by itself.
        trace: the recorded forward pass that made the output, if it shall not be looked for.
        saved: tell what is kept for backward; False is faster.

    >>> import torch
    >>> model = torch.nn.Linear(4, 2)
    >>> with record(model) as recording:
    ...     loss = model(torch.ones(3, 4)).sum()
    >>> graph = autograd_graph(loss, model)
    >>> [(node.name, node.module) for node in graph.nodes if node.kind == "operation"]
    [('TBackward0', ''), ('AddmmBackward0', ''), ('SumBackward0', None)]
    """
    if model is not None:
        check_model(model, "the model that names the parameters")
    if trace is None and model is not None and model in _recordings:
        recording = _recordings[model]()
        trace = made_by(recording.traces, output) if recording is not None else None
    return walk(output, model=model, trace=trace, saved=saved)


def compare(
    actual: Compared,
    expected: Compared,
    *args: Any,
    rtol: float | None = None,
    atol: float | None = None,
    level: str | None = None,
    **kwargs: Any,
) -> Comparison:
    """Whether two models are the same, however their modules are named and nested: level by level,
    and all that differs.

    Operations are aligned by what they are, their configuration, shapes and data flow; `nn.Flatten`
    and `torch.flatten` are one operation, so are `nn.ReLU` and `F.relu`. Both models are afterwards
    bit for bit as they were; the activations of one at most are held. Compiled code is compared by
    its outputs alone. Two models of other dtypes or devices get the inputs in their own, and what
    their rounding explains is allowed: 4 eps sqrt(depth), relative to the root mean square of an
    activation.

    Args:
        actual: a model, or a recording of one: a Report, a Trace, a Recording, the path of a saved
            report.
        expected: the one that it should be like. Where either is a recording, numbers are compared
            by the statistics that it holds.
        *args: the forward's positional arguments, for both.
        rtol: relative tolerance of numbers; default that of torch.testing.assert_close by dtype.
        atol: absolute tolerance of numbers.
        level: a name of `cnnprobe.records.differences.LEVELS` to go no further than it needs; None
            compares at every level.
        **kwargs: the forward's keyword arguments, for both.

    Raises:
        TargetError: one of the two is neither a model nor a recording.
        UnknownNameError: there is no such level.

    >>> import torch
    >>> from torch import nn
    >>> comparison = compare(nn.Sequential(nn.Sequential(nn.ReLU()), nn.Flatten()), nn.Sequential(nn.ReLU(), nn.Flatten()), torch.ones(2, 3, 4))
    >>> comparison.equivalent
    True
    """
    sides = [_recorded(side) for side in (actual, expected)]
    if isinstance(sides[0], Trace) or isinstance(sides[1], Trace):
        traces = [
            side
            if isinstance(side, Trace)
            else observe_as(side, args, kwargs, like=other if isinstance(other, Trace) else None)
            for side, other in (sides, sides[::-1])
        ]
        return Comparison(compare_traces(traces[0], traces[1], rtol=rtol, atol=atol))
    outcome = compare_models(
        sides[0], sides[1], (args, kwargs), tolerance=Tolerance(rtol=rtol, atol=atol), level=level
    )
    return Comparison(outcome, sides[0], sides[1])


def refactor(model: nn.Module, *args: Any, **kwargs: Any) -> Refactoring:
    """What repeats in a model that was written out, as blocks: their source, the mapping of names,
    and the proof that it is the same model.

    The source is shown only when the model that it defines, with the weights carried over, has
    agreed at every level of `compare`.

    Args:
        model: any model with one input and one output of tensors.
        *args: the forward's positional arguments.
        **kwargs: the forward's keyword arguments.

    Raises:
        TargetError: `model` is no model, or its forward raises on these inputs.

    >>> import torch
    >>> from torch import nn
    >>> layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()]
    >>> refactoring = refactor(nn.Sequential(*layers), torch.ones(1, 3, 8, 8))
    >>> refactoring.blocks[0].pattern
    '[Conv2d 3x3, ReLU] x 3, channels 3->8->16->32'
    >>> refactoring.comparison.equivalent
    True
    """
    return Refactoring(refactor_model(model, args, kwargs))


def monitor(
    model: nn.Module,
    optimizer: Any = None,
    *,
    every: int = 1,
    budget: float | None = None,
    modules: Sequence[str] = ("*",),
    what: Sequence[str] = EVERYTHING,
    fraction: float = 1.0,
    histograms: bool = False,
    window: int = 10,
    loss_fn: Any = None,
    raise_on_nan: bool = False,
    log: str | os.PathLike[str] | None = None,
    tensorboard: Any = None,
    live: bool = False,
) -> Monitor:
    """A context manager around the user's own training loop, of which nothing is changed: the
    weights come out equal to the bit.

    It sees activations, their gradients, parameters and their gradients, updates, learning rate,
    loss, the first NaN, dead channels, and graphs that live on. `history` has them as arrays over
    the steps, `findings` what the rules say, `report` both; each as of now. A step ends with the
    optimizer's step; without an optimizer when the model is called again after a backward pass.

    Args:
        model: the model, as the loop calls it.
        optimizer: its optimizer; several in a list, of which the last one's step ends a step.
        every: only each `every`-th step is observed, from the first on; the others cost a few
            microseconds.
        budget: the part of the time that may be spent (0.01 is one percent); `every` is then chosen
            by itself.
        modules: patterns of module names that are observed: `("layer1.*", "fc")`; "" is the model
            itself.
        what: of "activation", "gradient", "parameter" and "update", those that are observed.
        fraction: the part of each batch that is read of the activations.
        histograms: also keep how the values lie, by magnitude, at each observed step.
        window: observed steps over which a channel must be zero to be called dead.
        loss_fn: the loss module, whose calls then tell the loss. Left out, a stock one among the
            caller's variables is taken; or say `monitor.loss(loss)`.
        raise_on_nan: stop at the first NaN of an observed step, before the optimizer spoils the
            weights; on a GPU at the end of the step.
        log: a file for JSON lines, which `cnnprobe.load` reads back; a run that is killed keeps
            what it had.
        tensorboard: a folder for TensorBoard, or a SummaryWriter.
        live: show a line of progress, in a terminal or in a notebook.

    Raises:
        TargetError: `model` is no nn.Module, `optimizer` no optimizer, or TensorBoard is not
            installed.
        UsageError: `every`, `budget`, `fraction` or `window` make no sense.
        NonFiniteError: in the loop, with `raise_on_nan`.

    >>> import torch
    >>> from torch import nn
    >>> model, loss_fn = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), nn.CrossEntropyLoss()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with monitor(model, optimizer, every=10) as watched:
    ...     for step in range(30):
    ...         optimizer.zero_grad()
    ...         loss_fn(model(torch.ones(3, 4)), torch.tensor([0, 1, 0])).backward()
    ...         optimizer.step()
    >>> watched.history.steps, len(watched.history.of("1", "gradient")["norm"])
    ((0, 10, 20), 3)
    """
    settings = Settings(
        every=every, budget=budget, modules=tuple(modules), what=tuple(what), fraction=fraction, histograms=histograms, window=window,
        raise_on_nan=raise_on_nan,
    )  # fmt: skip
    outputs = {"log": log, "tensorboard": tensorboard, "live": live}
    return start(
        model,
        optimizer,
        settings,
        loss_fn=loss_fn,
        outputs=outputs,
        around=sys._getframe(1).f_locals,
    )


def _recorded(side: Any) -> Any:
    """The trace of a recording in any of its forms; anything else as it is."""
    if isinstance(side, str | os.PathLike):
        side = load(side)
    return side.trace if isinstance(side, Report | Recording) else side


def diagnose(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    loss_fn: Callable[..., Any] | None = None,
    optimizer: Any = None,
    train_step: Callable[..., Any] | None = None,
    scheduler: Any = None,
    steps: int = 6,
    validation: Any = None,
    trials: int = 60,
    rules: Iterable[Rule | DataRule | Cause | str | os.PathLike[str]] = (),
    ignore: Mapping[str, str] | None = None,
) -> Report:
    """Why the model does not learn: findings of the rules, the root cause first; none where nothing
    is wrong.

    Without a loss the forward pass alone is judged; with one, its gradients too; with an optimizer
    or a train_step, `steps` steps on this one batch. What raises is explained as `probe` does
    (`report.explanation`), and is the first finding. Afterwards model, optimizer, scheduler,
    gradients, random generators and the variables of the train_step are as before.

    Args:
        model: the model, in the mode in which it is to be judged.
        inputs: one batch: a tensor, a tuple or list of the forward's arguments, or a dict of its
            keyword arguments. A list that is one argument, as detectors take their images, goes
            into a tuple: `(images,)`. Or the training data: a DataLoader, a Dataset, an iterable of
            batches that is no list; then its data is judged too, as `inspect_data` does, and its
            first batch goes into the model and the loss.
        targets: what `loss_fn` takes as its second argument.
        loss_fn: called as `loss_fn(output, targets)`, or `loss_fn(output)` without targets.
        optimizer: as the loop uses it.
        train_step: one step of the user's own loop; gets what its parameters are named after
            (model, inputs or x, targets or y, batch, optimizer, loss_fn or criterion, scheduler),
            else (inputs, targets) for two parameters, (model, inputs, targets) for three.
        scheduler: of the learning rate.
        steps: how many steps are observed, each with the same seed. Symptoms such as cannot-overfit
            are judged from 50 on.
        validation: the validation data, in the same forms, where the training data is given.
        trials: forward and backward passes of the batch in which the fixes of the findings are
            tried (`finding.tried`); 0 tries none. They take at most five times as long as the
            diagnosis, or ten seconds.
        rules: further rules and causes of crashes, or files that hold them.
        ignore: rule name or code, or "name:fqn" for one module, to the reason why it is suppressed;
            as `@cnnprobe.ignore` does for a class.

    Raises:
        TargetError: `model` is not an nn.Module, or is lazy.
        UsageError: a suppression has no reason.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(dim=1))
    >>> report = diagnose(net, torch.randn(8, 4), torch.arange(8) % 3, loss_fn=nn.CrossEntropyLoss())
    >>> [(finding.rule, finding.module) for finding in report.findings]
    [('softmax-before-ce', '3')]
    """
    inspection: Inspection | None = None
    said: tuple[str, ...] = ()
    if is_loader(inputs):
        inspection, inputs, targets, said = _read_loaders(
            model, inputs, targets, loss_fn, validation
        )
    elif validation is not None:
        raise UsageError(
            "validation data is compared with training data, and a batch was given",
            where="diagnose(validation=...)",
            fix="give the training loader in place of the batch",
        )
    caller = sys._getframe(1)
    roles = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "loss_fn": loss_fn,
        "inputs": inputs,
        "targets": targets,
    }
    names = {
        role: name
        for role, value in roles.items()
        if value is not None and (name := _variable(caller, value))
    }
    rules = list(rules)
    files = [pathlib.Path(each) for each in rules if not isinstance(each, Rule | DataRule | Cause)]
    own = [each for each in rules if isinstance(each, Rule)]
    causes = (*load_causes(files), *(each for each in rules if isinstance(each, Cause)))
    crashes: list[tuple[Trace | None, Explanation | None]] = []

    def explain_raised(raised: Raised) -> None:
        crash = Crash(
            error=raised.error, model=model, trace=raised.trace or NOTHING_SEEN, args=raised.args,
            kwargs=raised.kwargs, output=raised.output, loss_fn=loss_fn, targets=targets,
            optimizer=optimizer, causes=causes,
        )  # fmt: skip
        failure, explanation = failure_and_explanation(crash)
        if failure is not None and raised.trace is not None:
            crashes.append((replace(raised.trace, failure=failure), explanation))
        else:
            crashes.append((raised.trace, explanation))

    given = Request(
        model=model, inputs=inputs, targets=targets, loss_fn=loss_fn, optimizer=optimizer, train_step=train_step, scheduler=scheduler,
        steps=steps, names=names, when_raised=explain_raised,
    )  # fmt: skip
    begun = time.monotonic()
    evidence, error = observe_training(given)
    known = load_rules(files)
    suppressed = {**ignored_by_classes(model.named_modules()), **(ignore or {})}
    outcome = run_rules(evidence, (*known, *own), ignore=suppressed)
    tried = try_remedies(
        given,
        evidence,
        outcome.findings,
        (*known, *own),
        budget=trials if error is None else 0,
        seconds=time.monotonic() - begun,
    )
    data, findings = None, tried.findings
    if inspection is not None:
        of_data = (*load_data_rules(files), *(each for each in rules if isinstance(each, DataRule)))
        expected = read_expected(model, loss_fn, inspection.inputs, inspection.batch_size)
        data = judge(inspection, expected, rules=of_data, ignore=suppressed)
        findings = join_findings(data.findings, tried.findings, (*of_data, *known, *own))
    trace, explanation = evidence.trace, None
    if error is not None:
        seen, explanation = crashes[0] if crashes else (None, None)
        failed = (step.trace for step in evidence.steps if step.trace.failure is not None)
        trace = seen if seen is not None and seen.failure is not None else next(failed, trace)
    crashed, accepted = split_ignored(
        [to_finding(trace.failure, explanation)] if trace.failure is not None else [], suppressed
    )
    notes = (
        *trace.notes,
        *said,
        *outcome.notes,
        *(data.notes if data is not None else ()),
        *(
            f"{f.rule} in {f.module!r} is ignored: {reason}"
            for f, reason in (*accepted, *outcome.suppressed)
        ),
    )
    report = Report(
        trace=replace(trace, notes=notes),
        findings=(*crashed, *findings),
        together=tried.together,
        explanation=explanation,
        error=error,
        data=data,
    )
    _last[model] = report
    return report


def _read_loaders(
    model: nn.Module, loader: Any, targets: Any, loss_fn: Any, validation: Any
) -> tuple[Inspection, Any, Any, tuple[str, ...]]:
    """What was read of the loaders, what of the first batch goes into the model and the loss, and
    how that was found.
    """
    check_model(model, "the model that is diagnosed")
    if targets is not None:
        raise UsageError(
            "targets are given beside a loader, which has its own",
            where="diagnose(model, loader, targets)",
            fix="diagnose(model, loader, loss_fn=...); the validation data goes to validation=",
        )
    inspection = read(wrap_dataset(loader), validation, limits=Limits())
    if inspection.first is None:
        failed = inspection.data.training.failed
        raise TargetError(
            f"the loader gives no batch: {failed.kind}: {failed.message}"
            if failed
            else "the loader gives no batch",
            where="diagnose(model, loader)",
            fix="cnnprobe.inspect_data(loader) says which samples are at fault",
        )
    found = feed(inspection.first, model, loss_fn)
    return inspection, found.inputs, found.targets, (found.said,)


def inspect_data(
    loader: Any,
    validation: Any = None,
    *,
    model: nn.Module | None = None,
    loss_fn: Callable[..., Any] | None = None,
    samples: int | None = 1024,
    seconds: float | None = 10.0,
    pictures: bool = True,
    rules: Iterable[DataRule | str | os.PathLike[str]] = (),
    ignore: Mapping[str, str] | None = None,
) -> DataReport:
    """What a loader gives, measured and judged on a bounded sample: sizes, types, ranges, labels,
    copies, order, workers, augmentation.

    The loader is afterwards as it was, with its samplers, workers and generators, and so are the
    global generators: the next epoch is the same as without. A report of its own, that prints
    itself, is shown in a notebook, and saves itself as JSON, HTML or PNG.

    Args:
        loader: the training data as the loop gets it: a DataLoader, an iterable of batches, or a
            Dataset.
        validation: the same of the validation; what differs between the two, and what stands in
            both, is then judged too.
        model: tells the number of classes and whether a last batch of one stops a BatchNorm; it is
            left bit for bit as it was.
        loss_fn: tells what type of labels is wanted, and which label is left out.
        samples: so many are read of each; None reads all.
        seconds: reading ends after so long; None is no bound.
        pictures: draw the contact sheets; needs Pillow and torchvision.
        rules: further rules of the data, or files that hold them.
        ignore: rule name or code to the reason why it is suppressed.

    Raises:
        UsageError: the data can be read only once, as a generator can; a suppression has no reason.
        TargetError: it gives no batches.

    >>> import torch
    >>> batches = [(torch.randn(8, 3, 8, 8), torch.arange(1, 9) % 4) for _ in range(4)]
    >>> inspect_data(batches, pictures=False).findings
    ()
    """
    given = list(rules)
    files = [pathlib.Path(each) for each in given if not isinstance(each, DataRule)]
    own = [each for each in given if isinstance(each, DataRule)]
    inspection = read(loader, validation, limits=Limits(samples=samples, seconds=seconds))
    return judge(
        inspection,
        read_expected(model, loss_fn, inspection.inputs, inspection.batch_size),
        rules=(*load_data_rules(files), *own),
        ignore=ignore or {},
        pictures=pictures,
    )


def rules() -> tuple[Rule | DataRule, ...]:
    """Every rule that `diagnose` and `inspect_data` run, by code: `name`, `code`, `severity`,
    `sentence`, `page`.

    >>> rules()[0].name
    'dead-relu'
    """
    return (*all_rules(), *all_data_rules())


def _variable(frame: types.FrameType, value: Any) -> str | None:
    """The name under which the caller knows a value; loops and temporaries of one letter are no
    better than none.
    """
    for scope in (frame.f_locals, frame.f_globals):
        for name, held in scope.items():
            if held is value and not name.startswith("_"):
                return name
    return None


def keep_report(model: nn.Module, report: Report) -> None:
    """Make `report` the one that `last_report(model)` gives."""
    _last[model] = report


def last_report(model: nn.Module) -> Report:
    """The report of the model's latest probed call; also what an interrupted one had seen."""
    report = _last.get(model)
    if report is None:
        raise UnknownNameError(
            "no report of this model",
            where=f"last_report({type(model).__name__})",
            fix="call cnnprobe.probe(model, ...), or decorate it with @cnnprobe.probed",
        )
    return report
