"""A training run under watch, as its user holds it: history, findings and report, as of now."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from cnnprobe.diagnosis import Finding
from cnnprobe.errors import ProbeError, TargetError, UsageError
from cnnprobe.monitoring import Listener, Settings, Watch
from cnnprobe.monitoring.board import Board
from cnnprobe.monitoring.book import Book, read_before
from cnnprobe.monitoring.comparing import Comparison
from cnnprobe.monitoring.exchange import number_monitors
from cnnprobe.monitoring.judging import judge
from cnnprobe.monitoring.line import progress
from cnnprobe.monitoring.merged import merge_ranks
from cnnprobe.monitoring.placement import name_log
from cnnprobe.recorder.inventory import (
    check_hashable,
    check_model,
    class_of,
    has_values,
    refuse_offloaded,
)
from cnnprobe.recorder.peers import find_rank
from cnnprobe.records.explanation import Explanation
from cnnprobe.records.journal import Reading
from cnnprobe.report import Report

_WHERE = "monitor"


class Monitor(Watch):
    """Watches a model's training steps while its block lasts; what it has seen stays.

    >>> import cnnprobe, torch
    >>> from torch import nn
    >>> model, loss_fn = nn.Linear(4, 2), nn.CrossEntropyLoss()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with cnnprobe.monitor(model, optimizer) as monitor:
    ...     for step in range(3):
    ...         optimizer.zero_grad()
    ...         loss = loss_fn(model(torch.ones(3, 4)), torch.tensor([0, 1, 0]))
    ...         loss.backward()
    ...         optimizer.step()
    >>> monitor.history.steps, len(monitor.history.curve("loss").values), monitor.findings
    ((0, 1, 2), 3, ())
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.number = number_monitors()
        self._merges = 0  # calls of `merged`
        self.explain: Callable[[Exception], Explanation | None] | None = None  # given by the verb
        self.explanation: Explanation | None = None  # of the exception that left the block

    def __exit__(self, *left: object) -> None:
        super().__exit__(*left)
        explain, self.explain = self.explain, None  # it holds the model
        error = left[1]
        if (
            explain is not None
            and isinstance(error, Exception)
            and not isinstance(error, ProbeError)
        ):
            self.explanation = explain(error)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the rules of `diagnose` find in the run so far, root causes first, as far as a
        watched loop has what they ask for.
        """
        return judge(self).findings

    @property
    def report(self) -> Report:
        """The first training pass, the findings and the history; holds no model."""
        return Report(trace=self.trace, findings=self.findings, history=self.history)

    def merged(self, *, seconds: float = 60.0) -> Report:
        """One report of all ranks of the process group, to be called by all of them: statistics of
        all batches together, the curves, and what differs between ranks. Of one process alone it is
        its own report.

        It goes through the store of the process group and uses no collective.

        Args:
            seconds: how long the other ranks are waited for. One that has not called `merged` by
                then, as it has died, is left out, which the report says.

        Raises:
            ProbeError: the process group is gone.
        """
        log = self.history.rank
        if log is None:
            return self.report
        self._merges += 1
        return merge_ranks(self, log, f"monitor{self.number}/{self._merges}", seconds)

    def loss(self, loss: Tensor) -> Tensor:
        """Take in the loss of this step and give it back: `monitor.loss(loss).backward()`. Of
        several in a step the mean is told.
        """
        return super().loss(loss)

    def next_step(self) -> None:
        """Say that a training step is over, where no optimizer was given and no call of the model
        tells.
        """
        self.loop.finish()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report in the format that the suffix names."""
        self.report.save(path)

    def __str__(self) -> str:
        return str(self.report)

    def __repr__(self) -> str:
        observed = len(self.ledger.steps)
        return f"<Monitor of {self.ledger.model}: {self.step} steps, {observed} observed>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return self.report._repr_mimebundle_(include, exclude)


def start(
    model: nn.Module,
    optimizer: Any,
    settings: Settings,
    *,
    loss_fn: Any,
    outputs: Mapping[str, Any],
    around: Mapping[str, Any],
) -> Monitor:
    """A monitor that is not yet entered.

    Args:
        model: the one to watch.
        optimizer: its optimizer, several of them, or None.
        settings: what is observed.
        loss_fn: a loss module whose calls give the loss; None looks for one in `around`.
        outputs: "log" (a path), "resume" (a boolean or a step), "tensorboard" (a folder or a
            SummaryWriter), "live" (a boolean), "place" (file and line of the call).
        around: the caller's variables by name.

    Raises:
        TargetError: model or optimizer are none.
        UsageError: the settings make no sense, or the log to resume is of another model.
    """
    settings.check()
    check_model(model, _WHERE)
    check_hashable(model, _WHERE)
    parameters = [p for p in model.parameters() if not is_lazy(p)]
    if parameters and not any(map(has_values, parameters)):
        refuse_offloaded(model, _WHERE)
        raise TargetError(
            "the model has no values: it is on the meta device, or fake",
            where=_WHERE,
            fix="make it on a real device; cnnprobe.record(model) shows its shapes as it is",
        )
    optimizers = _optimizers(optimizer)
    losses = _choose_losses(loss_fn, around)
    before = _read_before(outputs, class_of(model).__name__)
    monitor = Monitor(
        model,
        optimizers,
        settings,
        losses=losses,
        listeners=_listeners(outputs, class_of(model).__name__, before),
        ledger=None if before is None else before.ledger,
    )
    if find_rank()[1] > 1:  # before the log, which has its notes
        monitor.listeners.insert(0, Comparison(monitor.number, outputs["place"]))
    monitor.names = _find_names(around, {"model": model, "optimizer": optimizer})
    if len(losses) > 1:
        monitor.note(
            f"{len(losses)} loss functions were seen; what they give is averaged: tell the loss "
            "by monitor.loss(loss)"
        )
    return monitor


def _optimizers(given: Any) -> Sequence[Optimizer]:
    optimizers = (
        [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    )
    for optimizer in optimizers:
        if not hasattr(optimizer, "register_step_post_hook"):
            fix = "pass the torch.optim.Optimizer itself, several in a list, or None"
            raise TargetError(
                f"{type(optimizer).__name__} is not a torch.optim.Optimizer", where=_WHERE, fix=fix
            )
    return optimizers


def _find_names(around: Mapping[str, Any], roles: Mapping[str, Any]) -> dict[str, str]:
    """The user's variable for each role."""
    named = {
        role: [name for name, value in around.items() if value is subject]
        for role, subject in roles.items()
        if subject is not None
    }
    return {role: names[0] for role, names in named.items() if names}


def _choose_losses(given: Any, around: Mapping[str, Any]) -> list[nn.Module]:
    if isinstance(given, nn.Module):
        return [given]
    return _find_losses(around.values()) if given is None else []


def _find_losses(values: Iterable[Any]) -> list[nn.Module]:
    found: dict[int, nn.Module] = {}
    for value in list(values):
        if isinstance(value, _Loss):
            found[id(value)] = value
    return list(found.values())


def _read_before(outputs: Mapping[str, Any], model: str) -> Reading | None:
    """The run so far, where it is to be resumed and there is one."""
    log, resume = outputs.get("log"), outputs.get("resume", False)
    if resume is False:
        return None
    if type(resume) not in (bool, int) or resume < 0:
        raise UsageError(
            f"resume={resume!r} is not a step",
            where=_WHERE,
            fix="give resume=True, or the step at which the loop goes on: resume=1200",
        )
    if log is None:
        raise UsageError(
            "there is no log to resume",
            where=_WHERE,
            fix='give the file of the run: monitor(log="run.jsonl", resume=True)',
        )
    return read_before(name_log(log), model, resume=resume)


def _listeners(outputs: Mapping[str, Any], model: str, before: Reading | None) -> list[Listener]:
    listeners: list[Listener] = []
    if outputs.get("tensorboard") is not None:
        listeners.append(Board(_board_of_rank(outputs["tensorboard"])))
    if outputs.get("log") is not None:
        listeners.append(Book(name_log(outputs["log"]), model, before))
    if outputs.get("live") and find_rank()[0] == 0:
        listeners.append(progress())
    return listeners


def _board_of_rank(target: Any) -> Any:
    """The folder of this rank, where there are several; a writer of the user's own as it is."""
    rank, of = find_rank()
    if of < 2 or not isinstance(target, str | os.PathLike):
        return target
    return os.path.join(os.fspath(target), f"rank{rank}")  # noqa: PTH118 - a path of the user's own kind
