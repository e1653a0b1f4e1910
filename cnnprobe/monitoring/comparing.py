"""The ranks compared while they train: each puts what it saw of its latest steps into the store of
the process group, and one of them, rank 0, reads it there and says at once what differs.

No collective, and nothing that the loop waits for: a thread on each rank does it. A rank that is
dead or slow is left out, and said.
"""

import math
import os
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from cnnprobe.errors import warn
from cnnprobe.monitoring import differing
from cnnprobe.monitoring.leading import Lead
from cnnprobe.monitoring.post import LATEST, Post, Telling
from cnnprobe.recorder.peers import find_store, is_of_peers
from cnnprobe.records.ledger import Ledger
from cnnprobe.records.ranks import RankStep

if TYPE_CHECKING:
    from cnnprobe.monitoring.watch import Watch

_BEAT = 5.0  # seconds after which a rank tells that it still runs
_OWN = 1.0  # seconds between two tellings of the rank that compares: they are read when it is gone
_POLL = (0.01, 0.5)  # seconds between two looks for a rank that comes late: at first, and at most
_SHORTEST = 0.05  # seconds between two talks: to wake up costs more than what is done then
_SHARE = 100  # a pause is as many times the time that was spent, as where there are many ranks
_LONGEST = 1.0  # seconds of such a pause
_RECENT = 8  # steps of its own that a rank compares first, when it takes over
_GRACE = 5.0  # seconds at the end for the last step of the others
_MORE = 1.0  # seconds more than a beat, after which a rank that says nothing has ended


class _Bell:
    """Wakes up the thread that waits for it, in half the computing time of threading.Event."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """On the thread of the loop alone."""
        if self._lock.locked():
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Whether it has rung, within the time; once for each time."""
        return self._lock.acquire(timeout=seconds)


class Comparison:
    """Tells the other ranks of this one, and on rank 0 says what differs."""

    def __init__(self, number: int, place: tuple[str, int]) -> None:
        """`number` is that of the monitor, `place` the file and line where it was made."""
        self._name = f"run{number}"
        self._place = place
        self._told = Telling()
        self._latest: RankStep | None = None  # that was told
        self._steps: deque[RankStep] = deque(maxlen=LATEST)  # that the thread has not taken
        self._recent: deque[RankStep] = deque(maxlen=_RECENT)  # that it has
        self._news, self._exit = _Bell(), _Bell()
        self._is_leaving = False
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
            self._is_leaving = True
            self._exit.ring()
            self._news.ring()
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
            if step is not self._latest:
                self._latest = step
                self._steps.append(step)
        self._told = Telling(total=ledger.total, nonfinite=ledger.nonfinite, done=done)
        self._news.ring()

    def _note(self, watch: "Watch") -> None:
        while self._said:
            watch.note(self._said.popleft())

    # -- on a thread of its own --------------------------------------------------------------------

    def _run(self, post: Post, lead: Lead) -> None:
        try:
            self._talk(post, lead)
        except Exception as error:
            # The store is gone with the process that held it: at the end that is as it should be.
            if self._fled or not self._is_leaving:
                self._say(
                    f"the store of the process group does not answer ({type(error).__name__}): "
                    f"{_name_holder()} may have ended; the ranks are not compared any more"
                )

    def _talk(self, post: Post, lead: Lead) -> None:
        told, put, pause, end = None, -math.inf, _POLL[0], math.inf
        while True:
            begun, is_first = time.thread_time(), told is None
            self._news.wait(0)
            leaving, now = self._is_leaving, self._told
            pause = _POLL[0] if now is not told else min(2 * pause, _POLL[1])
            mine = replace(now, steps=self._take())
            if self._is_due(time.monotonic() - put, lead, is_new=now is not told):
                post.put(mine if lead.differences is None else now)
                put = time.monotonic()
            told = now
            self._compare(post, lead, mine, leaving=leaving)
            if not leaving:
                spent = 0.0 if is_first else time.thread_time() - begun  # all that is done once
                self._rest(lead, pause, spent)
                continue
            end = min(end, time.monotonic() + (_BEAT + 2 * _MORE if self._fled else _GRACE))
            if self._is_over(lead) or time.monotonic() > end:
                break
            time.sleep(pause)
        lead.hand_on()
        self._said.extend(() if lead.differences is None else lead.differences.describe_absent())

    def _take(self) -> tuple[RankStep, ...]:
        """The steps that are new; the loop may be at the next one."""
        steps = tuple(self._steps.popleft() for _ in range(len(self._steps)))
        self._recent.extend(steps)
        return steps

    def _is_due(self, seconds: float, lead: Lead, *, is_new: bool) -> bool:
        """Whether to tell the others, after as many seconds."""
        if self._is_leaving:
            return is_new
        if lead.differences is not None:
            return seconds >= _OWN
        return is_new or seconds >= _BEAT

    def _compare(self, post: Post, lead: Lead, mine: Telling, *, leaving: bool) -> None:
        """Say what differs, on the rank that leads."""
        patience, led = _BEAT + _MORE if self._fled else differing.SILENT, lead.differences
        lead.hold(patience, every=_BEAT, leaving=leaving)
        if lead.differences is not None:
            lead.differences.patience = patience
            if lead.differences is not led:  # this rank takes over
                mine = replace(mine, steps=tuple(self._recent))
            for text in lead.differences.follow(post, mine):
                self._say(text)

    def _is_over(self, lead: Lead) -> bool:
        if lead.differences is None:
            return lead.is_left_to_others or not self._fled
        return lead.differences.is_over

    def _rest(self, lead: Lead, pause: float, spent: float) -> None:
        """Until there is something new; longer where much time was spent."""
        shortest = min(_LONGEST, max(_SHORTEST, _SHARE * spent))
        if lead.differences is not None and lead.differences.is_waiting:
            self._exit.wait(max(pause, shortest))
            return
        # First asleep: where steps are short, the thread wakes up once for several of them.
        self._exit.wait(shortest)
        if not self._news.wait(0):
            if lead.differences is None:
                self._news.wait(_BEAT)
            elif self._news.wait(_POLL[1]):  # else its loop may stand still, waiting for another
                self._exit.wait(_POLL[0])  # the others end their step a little earlier or later

    def _say(self, text: str) -> None:
        self._said.append(text)
        warn(text, place=self._place)


def _name_holder() -> str:
    """Who holds the store: the agent of torchrun, or without it rank 0."""
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    return "the agent of torchrun" if has_agent else "rank 0, which holds it,"
