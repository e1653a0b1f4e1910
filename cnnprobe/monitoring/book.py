"""The journal of a watch: every step is on disk as soon as it is written down."""

import os
from typing import TYPE_CHECKING, Any

from cnnprobe.monitoring.judging import judge
from cnnprobe.records.journal import Journal

if TYPE_CHECKING:
    from cnnprobe.monitoring.watch import Watch


class Book:
    """Writes JSON lines to a file; `cnnprobe.load` reads it back, also of a run that was killed."""

    def __init__(self, path: str | os.PathLike[str], model: str) -> None:
        self._journal = Journal(path, model)
        self._said: dict[str, Any] = {}

    def wrote(self, watch: "Watch", step: int, *, observed: bool) -> None:
        """A line for the step, and one for whatever is new."""
        if watch.ledger.rank is not None:
            self._say(rank=watch.ledger.rank)
        if "trace" not in self._said and watch.first.over:
            self._say(trace=watch.trace)
        self._journal.step(watch.ledger, step, observed=observed)
        if observed and watch.ledger.rank_steps:
            self._say(rank_step=watch.ledger.rank_steps[-1])
        if watch.ledger.nonfinite is not None:
            self._say(nonfinite=watch.ledger.nonfinite)

    def _say(self, **what: Any) -> None:
        for name, value in what.items():
            if self._said.get(name) != value:
                self._said[name] = value
                self._journal.write(**{name: value})

    def close(self, watch: "Watch") -> None:
        """What can be said at the end alone."""
        history = watch.history
        self._say(
            trace=watch.trace, nonfinite=history.nonfinite, dead=history.dead, kept=history.kept
        )
        if history.rank is not None:
            self._say(rank=history.rank.info, loss_scale=history.rank.loss_scale)
            if history.rank.steps:
                self._say(rank_step=history.rank.steps[-1])
        for note in history.notes:
            self._journal.write(note=note)
        self._journal.write(findings=judge(watch).findings)
        self._journal.close(history.total)
