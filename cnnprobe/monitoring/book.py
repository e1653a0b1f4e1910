"""The journal of a watch: every step is on disk as soon as it is written down."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cnnprobe.errors import UsageError
from cnnprobe.monitoring.judging import judge
from cnnprobe.records.journal import Journal, Reading, open_journal

if TYPE_CHECKING:
    from cnnprobe.monitoring.watch import Watch


class Book:
    """Writes JSON lines to a file; `cnnprobe.load` reads it back, also of a run that was killed.

    With `before`, it goes on in the file that this was read from.
    """

    def __init__(
        self, path: str | os.PathLike[str], model: str, before: Reading | None = None
    ) -> None:
        if before is None:
            self._journal = Journal(path, model)
            return
        ledger = before.ledger
        self._journal = Journal(path, model, keep=before.size, slots=len(ledger.slots))
        self._journal.write(resumed=ledger.total, note=list(ledger.notes)[-1])

    def wrote(self, watch: "Watch", step: int, *, observed: bool) -> None:
        """A line for the step, and one for whatever is new."""
        if watch.ledger.rank is not None:
            self._journal.say(rank=watch.ledger.rank)
        if not self._journal.has("trace") and watch.first.over:
            self._journal.say(trace=watch.trace)
        self._journal.step(watch.ledger, step, observed=observed)
        if observed and watch.ledger.rank_steps:
            self._journal.say(rank_step=watch.ledger.rank_steps[-1])
        if watch.ledger.nonfinite is not None:
            self._journal.say(nonfinite=watch.ledger.nonfinite)
        if self._journal.failure:
            watch.note(self._journal.failure)

    def close(self, watch: "Watch") -> None:
        """What can be said at the end alone."""
        history = watch.history
        self._journal.say(
            trace=watch.trace, nonfinite=history.nonfinite, dead=history.dead, kept=history.kept
        )
        if history.rank is not None:
            self._journal.say(rank=history.rank.info, loss_scale=history.rank.loss_scale)
            if history.rank.steps:
                self._journal.say(rank_step=history.rank.steps[-1])
        for note in history.notes:
            self._journal.write(note=note)
        self._journal.write(findings=judge(watch).findings)
        self._journal.close(history.total)


def read_before(path: str | os.PathLike[str], model: str, *, resume: bool | int) -> Reading | None:
    """The run until the step at which it is to go on: `resume`, or after the last one for True.
    None where there is no file yet.

    Raises:
        UsageError: the file is of another model.
        ProbeError: it is no journal.
    """
    if not Path(path).exists():
        return None
    before = open_journal(path)
    ledger = before.ledger
    if ledger.model != model:
        raise UsageError(
            f"the log is of a {ledger.model}, but the model is a {model}",
            where=str(path),
            fix="give log= another file, or leave resume= out to write this one anew",
        )
    step = ledger.total if resume is True else int(resume)
    ledger.rewind(step)
    ledger.notes[f"the run was resumed at step {step}"] = None
    return before
