"""The ranks compared while they train: each puts what it saw of its latest steps into the store of
the process group, and one of them, rank 0, reads it there and says at once what differs.

No collective, and nothing that the loop waits for: a thread on each rank does it, in half a percent
of the time. A rank that is dead or slow is left out, and said.
"""

import math
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from cnnprobe.errors import warn
from cnnprobe.monitoring import differing
from cnnprobe.monitoring.leading import Lead
from cnnprobe.monitoring.post import Post, Telling
from cnnprobe.recorder.peers import find_store, is_of_peers
from cnnprobe.records.ledger import Ledger
from cnnprobe.records.ranks import RankStep

if TYPE_CHECKING:
    from cnnprobe.monitoring.watch import Watch

_LATEST = 8  # steps that a rank tells again: of short ones several come at once
_BEAT = 5.0  # seconds after which a rank tells that it still runs
_POLL = (0.01, 0.5)  # seconds between two looks for a rank that comes late: at first, and at most
_SHARE = 200  # a pause is as many times the time that was spent
_SHORTEST = 0.15  # seconds of such a pause: to wake up costs more than what is done then
_LONGEST = 1.0  # seconds of such a pause
_GRACE = 5.0  # seconds at the end for the last step of the others
_MORE = 1.0  # seconds more than a beat, after which a rank that says nothing has ended


class Comparison:
    """Tells the other ranks of this one, and on rank 0 says what differs."""

    def __init__(self, number: int, place: tuple[str, int]) -> None:
        """`number` is that of the monitor, `place` the file and line where it was made."""
        self._name = f"run{number}"
        self._place = place
        self._told = Telling()
        self._steps: deque[RankStep] = deque(maxlen=_LATEST)
        self._new = threading.Event()
        self._leaving = threading.Event()
        self._fled = False  # the loop has ended as another rank has
        self._said: deque[str] = deque()
        self._work: threading.Thread | None = None
        self._tries = True

    def wrote(self, watch: "Watch", step: int, *, observed: bool) -> None:  # noqa: ARG002
        """Tell of an observed step."""
        self._note(watch)
        if observed:
            self._tell(watch.ledger)
        if self._tries:
            self._begin(watch)

    def close(self, watch: "Watch") -> None:
        """Tell of what the last step has made of the parameters, and end."""
        if self._work is not None:
            self._tell(watch.ledger, done=True)
            self._fled = is_of_peers(sys.exc_info()[1])
            self._leaving.set()
            self._new.set()
            self._work.join(2 * _GRACE)
        self._note(watch)

    def _begin(self, watch: "Watch") -> None:
        self._tries = False
        store, rank = find_store(), watch.ledger.rank
        if rank is None or rank.of < 2 or store is None:
            return
        if not store.has_extended_api():
            while hasattr(store, "underlying_store"):  # a PrefixStore
                store = store.underlying_store
            kind = type(store).__name__
            watch.note(
                f"the ranks are not compared while they train: a {kind} cannot tell what is new"
            )
            return
        lead = Lead(store, self._name, rank, watch.ledger.model)
        work = (Post(store, self._name, rank), lead)
        self._work = threading.Thread(target=self._run, args=work, daemon=True)
        self._work.start()

    def _tell(self, ledger: Ledger, *, done: bool = False) -> None:
        for step in ledger.rank_steps[-1:]:
            if not self._steps or self._steps[-1] is not step:
                self._steps.append(step)
        self._told = Telling(
            steps=tuple(self._steps), total=ledger.total, nonfinite=ledger.nonfinite, done=done
        )
        self._new.set()

    def _note(self, watch: "Watch") -> None:
        while self._said:
            watch.note(self._said.popleft())

    # -- on a thread of its own --------------------------------------------------------------------

    def _run(self, post: Post, lead: Lead) -> None:
        try:
            self._talk(post, lead)
        except Exception as error:
            # The store is gone with the process that held it: at the end that is as it should be.
            if self._fled or not self._leaving.is_set():
                self._say(
                    f"the store of the process group does not answer ({type(error).__name__}): "
                    f"{_name_holder()} may have ended; the ranks are not compared any more"
                )

    def _talk(self, post: Post, lead: Lead) -> None:
        told, put, pause, end = None, 0.0, _POLL[0], math.inf
        while True:
            begun, is_first = time.thread_time(), told is None
            self._new.clear()
            leaving, mine = self._leaving.is_set(), self._told
            if mine is not told or time.monotonic() - put >= _BEAT:
                post.put(mine)
                told, put, pause = mine, time.monotonic(), _POLL[0]
                if lead.differences is not None:
                    time.sleep(pause)  # the others end their step a little earlier or later
            self._compare(post, lead, mine, leaving=leaving)
            if leaving:
                end = min(end, time.monotonic() + (_BEAT + 2 * _MORE if self._fled else _GRACE))
                if self._is_over(lead) or time.monotonic() > end:
                    break
                time.sleep(pause)
            else:
                is_waiting = lead.differences is not None and lead.differences.is_waiting
                spent = 0.0 if is_first else time.thread_time() - begun  # all that is done once
                self._rest(pause if is_waiting else _BEAT, spent)
            pause = min(2 * pause, _POLL[1])
        self._said.extend(() if lead.differences is None else lead.differences.describe_absent())

    def _compare(self, post: Post, lead: Lead, mine: Telling, *, leaving: bool) -> None:
        """Say what differs, on the rank that leads."""
        patience = _BEAT + _MORE if self._fled else differing.SILENT
        lead.hold(patience, every=_BEAT, leaving=leaving)
        if lead.differences is not None:
            lead.differences.patience = patience
            for text in lead.differences.follow(post, mine):
                self._say(text)

    def _is_over(self, lead: Lead) -> bool:
        if lead.differences is None:
            return lead.is_done or not self._fled
        return lead.differences.is_over

    def _rest(self, seconds: float, spent: float) -> None:
        """Until there is something new, or for these seconds; longer where much time was spent."""
        earliest = time.monotonic() + min(_LONGEST, max(_SHORTEST, _SHARE * spent))
        self._new.wait(seconds)
        self._leaving.wait(max(0.0, earliest - time.monotonic()))

    def _say(self, text: str) -> None:
        self._said.append(text)
        warn(text, place=self._place)


def _name_holder() -> str:
    """Who holds the store: the agent of torchrun, or without it rank 0."""
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    return "the agent of torchrun" if has_agent else "rank 0, which holds it,"
