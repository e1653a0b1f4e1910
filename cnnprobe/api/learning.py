"""The verb of a model that does not learn, and the rules that it runs."""

import os
import pathlib
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cnnprobe.api.forward import keep_report
from cnnprobe.api.loaders import take_batch
from cnnprobe.crash import NOTHING_SEEN, Crash, failure_and_explanation
from cnnprobe.crash.cause import Cause, all_causes, load_causes
from cnnprobe.data import DataRule, all_data_rules, join_findings, load_data_rules
from cnnprobe.data.expected import read_expected
from cnnprobe.data.inspecting import judge
from cnnprobe.diagnosis import (
    Finding,
    Rule,
    Severity,
    ignored_by_classes,
    run_rules,
    split_ignored,
    to_finding,
)
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.errors import TargetError
from cnnprobe.ranks import RankRule, all_rank_rules
from cnnprobe.recorder import sources
from cnnprobe.recorder.devices import is_device_lost, read_index_ranges
from cnnprobe.recorder.peers import needs_all_ranks
from cnnprobe.recorder.preservation import own_passes
from cnnprobe.recorder.whole import gather_whole
from cnnprobe.records.explanation import Explanation
from cnnprobe.records.trace import Trace
from cnnprobe.remedies import order_beside, try_remedies
from cnnprobe.report import Report
from cnnprobe.rulebook import all_rules, load_rules
from cnnprobe.training import Raised, Request, observe_training


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
    tell: Callable[[str, int], None] | None = None,
) -> Report:
    """Why the model does not learn: findings of the rules, the root cause first; none where nothing
    is wrong.

    Without a loss the forward pass alone is judged; with one, its gradients too; with an optimizer
    or a train_step, `steps` steps on this one batch. What raises is explained as `probe` does
    (`report.explanation`), and is the first finding. Afterwards model, optimizer, scheduler,
    gradients, random generators and the variables of the train_step are as before.

    A model that is sharded over ranks (fully_shard) is diagnosed by all of them at once: each runs
    a whole copy on its own batch. `train_step` and `scheduler` are refused there.

    Args:
        model: the model, in the mode in which it is to be judged.
        inputs: one batch: a tensor, a tuple or list of the forward's arguments, or a dict of its
            keyword arguments. A list that is one argument, as detectors take their images, goes
            into a tuple: `(images,)`. Or the training data: a DataLoader, a Dataset, an iterable of
            batches, also a list of pairs such as `[(images, labels), ...]`; then its data is judged
            too, as `inspect_data` does, and its first batch goes into the model and the loss.
        targets: what `loss_fn` takes as its second argument.
        loss_fn: called as `loss_fn(output, targets)`, or `loss_fn(output)` without targets.
        optimizer: as the loop uses it.
        train_step: one step of the user's own loop; gets what its parameters are named after
            (model, inputs or x, targets or y, batch, optimizer, loss_fn or criterion, scheduler),
            else (inputs, targets) for two parameters, (model, inputs, targets) for three; as many
            parameters as a batch has parts get the parts. A `batch` is (inputs, targets), the
            inputs alone where there are no targets, and of a loader what the loader gives.
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
        tell: called after each batch that is read of a loader, with "training" or "validation" and
            the number of samples so far.

    Raises:
        TargetError: `model` is not an nn.Module, or is lazy; or it is sharded, and another rank did
            not come within 20 seconds, or a whole copy cannot be made.
        UsageError: a suppression has no reason.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(dim=1))
    >>> report = diagnose(net, torch.randn(8, 4), torch.arange(8) % 3, loss_fn=nn.CrossEntropyLoss())
    >>> [(finding.rule, finding.module) for finding in report.findings]
    [('softmax-before-ce', '3')]
    """  # noqa: E501
    batch = take_batch(
        model, (inputs, validation), targets, tell,
        learns=loss_fn is not None or train_step is not None,
    )  # fmt: skip
    inspection, inputs, targets = batch.inspection, batch.inputs, batch.targets
    asking = _find_asking(sys._getframe(1))
    names = _find_names(
        asking, model=model, optimizer=optimizer, scheduler=scheduler, loss_fn=loss_fn,
        inputs=inputs, targets=targets,
    )  # fmt: skip
    given_model = model
    model, optimizer, whole = _gather(model, optimizer, train_step, scheduler)
    known = _load_rules(rules)
    crashes = _Crashes(known.causes, read_index_ranges((("input", inputs), ("targets", targets))))
    given = Request(
        model=model, inputs=inputs, targets=targets, loss_fn=loss_fn, optimizer=optimizer,
        train_step=train_step, scheduler=scheduler, steps=steps, names=names,
        caller=asking.f_code.co_filename, space={**asking.f_globals, **asking.f_locals},
        assemble=batch.assemble,
        when_raised=crashes.explain,
    )  # fmt: skip
    begun = time.monotonic()
    with own_passes():
        try:
            evidence, error = observe_training(given)
        except Exception as raised:
            if (report := crashes.report_lost(raised)) is None:
                raise
            keep_report(given_model, report)
            return report
    suppressed = {**ignored_by_classes(model.named_modules()), **(ignore or {})}
    outcome = run_rules(evidence, known.training, ignore=suppressed)
    with own_passes():
        tried = try_remedies(
            given,
            evidence,
            outcome.findings,
            known.training,
            budget=trials if error is None else 0,
            seconds=time.monotonic() - begun,
        )
    data, findings = None, tried.findings
    if inspection is not None:
        expected = read_expected(model, loss_fn, inspection.inputs, inspection.batch_size)
        data = judge(inspection, expected, rules=known.data, ignore=suppressed)
        joined = join_findings(data.findings, findings, (*known.data, *known.training))
        findings = order_beside(joined, {each.name for each in known.data})
    trace, explanation = crashes.choose(evidence) if error is not None else (evidence.trace, None)
    crashed, accepted = split_ignored(
        [to_finding(trace.failure, explanation)] if trace.failure is not None else [], suppressed
    )
    notes = (
        *trace.notes, *whole, *batch.said, *_note_given(evidence), *outcome.notes,
        *(data.notes if data is not None else ()),
        *_note_ignored((*accepted, *outcome.suppressed)),
    )  # fmt: skip
    report = Report(
        trace=replace(trace, notes=notes),
        findings=_put_crash_first(crashed, findings, known),
        together=tried.together,
        explanation=explanation,
        error=error,
        data=data,
    )
    keep_report(given_model, report)
    return report


def _gather(
    model: Any, optimizer: Any, train_step: Any, scheduler: Any
) -> tuple[Any, Any, tuple[str, ...]]:
    """What one rank can run alone: the model and its optimizer themselves, or whole copies of
    sharded ones, and then a note.
    """
    if not isinstance(model, nn.Module) or not needs_all_ranks(model):
        return model, optimizer, ()
    if train_step is not None or scheduler is not None:
        role = "train_step" if train_step is not None else "scheduler"
        raise TargetError(
            f"the model is sharded, and the {role} is made for its shards: a diagnosis runs a "
            "whole copy, which it does not know",
            where=f"diagnose({role}=...)",
            fix=f"leave {role}= out, and give loss_fn= and optimizer=",
        )
    optimizers = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
    given = [each for each in optimizers if each is not None]
    whole, copies = gather_whole(model, given, "cnnprobe.diagnose")
    found: Any = list(copies) if isinstance(optimizer, list | tuple) else next(iter(copies), None)
    return whole, found, (_WHOLE,)


_WHOLE = (
    "the model is sharded: each rank has diagnosed a whole copy of it on its own batch, in the "
    "precision of its parameters"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judges:
    """All that judges: the rules of training, those of the data, the user's causes of crashes."""

    training: tuple[Rule, ...]
    data: tuple[DataRule, ...]
    causes: tuple[Cause, ...]


def _load_rules(given: Iterable[Rule | DataRule | Cause | str | os.PathLike[str]]) -> _Judges:
    """Our own rules, and those that the user gave, as objects or as files."""
    own = list(given)
    files = [pathlib.Path(each) for each in own if not isinstance(each, Rule | DataRule | Cause)]
    return _Judges(
        training=(*load_rules(files), *(each for each in own if isinstance(each, Rule))),
        data=(*load_data_rules(files), *(each for each in own if isinstance(each, DataRule))),
        causes=(*load_causes(files), *(each for each in own if isinstance(each, Cause))),
    )


def _put_crash_first(
    crashed: Sequence[Finding], findings: Sequence[Finding], known: _Judges
) -> tuple[Finding, ...]:
    """The crash, then the other findings, of which some follow from it."""
    if not crashed:
        return tuple(findings)
    causes = [each for each in (*all_causes(), *known.causes) if each.name == crashed[0].rule]
    explained = {name for each in causes for name in each.explains}
    linked = [
        replace(f, follows_from=(crashed[0].rule, *f.follows_from)) if f.rule in explained else f
        for f in findings
    ]
    # A stable sort: root causes stay before what follows, and info stays last.
    linked.sort(key=lambda f: (f.severity is Severity.INFO, bool(f.follows_from)))
    return (*crashed, *linked)


class _Crashes:
    """What raised while the steps were observed, each explained while its frames are alive."""

    def __init__(self, causes: tuple[Cause, ...], ranges: tuple[tuple[str, int, int], ...]) -> None:
        self._causes = causes
        self._ranges = ranges
        self._seen: list[tuple[Trace | None, Explanation | None]] = []

    def explain(self, raised: Raised, given: Request) -> None:
        """Keep the explanation, and the trace with the failure that it tells."""
        crash = Crash(
            error=raised.error, model=given.model, trace=raised.trace or NOTHING_SEEN,
            args=raised.args, kwargs=raised.kwargs, output=raised.output, loss_fn=given.loss_fn,
            targets=given.targets, optimizer=given.optimizer, causes=self._causes,
            ranges=self._ranges,
        )  # fmt: skip
        failure, explanation = failure_and_explanation(crash)
        trace = raised.trace
        if failure is not None and trace is not None:
            trace = replace(trace, failure=failure)
        self._seen.append((trace, explanation))

    def report_lost(self, raised: Exception) -> Report | None:
        """The report of a training that ended with the device; None where that is still there."""
        if not is_device_lost():
            return None
        trace, explanation = self._seen[0] if self._seen else (None, None)
        crashed = (
            ()
            if trace is None or trace.failure is None
            else (to_finding(trace.failure, explanation),)
        )
        return Report(
            trace=trace or NOTHING_SEEN, findings=crashed, explanation=explanation, error=raised
        )

    def choose(self, evidence: Evidence) -> tuple[Trace, Explanation | None]:
        """The trace that shows the failure, and why it failed."""
        seen, explanation = self._seen[0] if self._seen else (None, None)
        if seen is not None and seen.failure is not None:
            return seen, explanation
        failed = (step.trace for step in evidence.steps if step.trace.failure is not None)
        return next(failed, evidence.trace), explanation


def _note_given(evidence: Evidence) -> tuple[str, ...]:
    if not evidence.given:
        return ()
    return (f"the loss was given {evidence.given}: your loop must pass that, not the whole output",)


def _note_ignored(ignored: Iterable[tuple[Finding, str]]) -> Iterator[str]:
    for finding, reason in ignored:
        yield f"{finding.rule} in {finding.module!r} is ignored: {reason}"


def _find_asking(frame: types.FrameType) -> types.FrameType:
    """The frame that asks: the user's own, also where an assertion of ours stands between."""
    outer: types.FrameType | None = frame
    while outer is not None and sources.is_ours(outer.f_code.co_filename):
        outer = outer.f_back
    return outer or frame


def _find_names(frame: types.FrameType, **roles: Any) -> dict[str, str]:
    """The names under which the caller knows the values, by role."""
    found = {role: _find_name(frame, value) for role, value in roles.items() if value is not None}
    return {role: name for role, name in found.items() if name}


def _find_name(frame: types.FrameType, value: Any) -> str | None:
    for scope in (frame.f_locals, frame.f_globals):
        for name, held in scope.items():
            if held is value and not name.startswith("_"):
                return name
    return None


def rules() -> tuple[Rule | DataRule | RankRule, ...]:
    """Every rule that `diagnose` and `inspect_data` run, and those that compare ranks, by code:
    `name`, `code`, `severity`, `sentence`, `page`.

    >>> rules()[0].name
    'dead-relu'
    """
    return (*all_rules(), *all_data_rules(), *all_rank_rules())
