"""What differs between the ranks while they train, as rank 0 sees it; by the rules of ranks."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from cnnprobe.diagnosis import Severity, run_rules
from cnnprobe.monitoring.post import LATEST, Hashes, Post, Telling
from cnnprobe.ranks import RankRun, Ranks, all_rank_rules, name_ranks
from cnnprobe.records.history import History, NonFinite
from cnnprobe.records.ranks import STAGES, RankInfo, RankLog, RankStep, leave_last_out
from cnnprobe.records.trace import Trace

SILENT = 20.0  # seconds after which a rank that tells nothing any more is left out
_ABSENT = 2.0  # seconds after which a rank that has told nothing at all is not waited for
_STUCK = 2.0  # seconds after which a step that a rank has not finished is judged as it stands
_REMEMBERED = 32  # steps that the rules look at
_LATE = 0.1  # seconds between the ranks in one stage: worth asking the rule
_RULES = {
    "parameters": ("ranks-diverged",),
    "buffers": ("ranks-diverged", "bn-not-synchronised"),
    "gradients": ("rank-without-gradient",),
    "not finite": ("nan-on-one-rank",),
    "late": ("rank-straggles",),
}
"""What one step shows for certain, and the rules that name it. Others need more of the run."""

_Said = Mapping[int, RankStep]  # of one step, by rank


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One step of all ranks, with one hash of all parameters and one of all buffers; a hash of each
    tensor of this rank, and of others that were asked for it.
    """

    said: _Said
    own: RankStep | None = None
    hashes: Mapping[int, Hashes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The latest step that was looked at, and the rules that have spoken."""

    step: int = -1
    rules: tuple[str, ...] = ()


class Differences:
    """Follows all ranks, step by step."""

    def __init__(self, info: RankInfo, model: str, before: Judged) -> None:
        """`before` is what a rank had judged that led before this one."""
        self._model = model
        self._info = info
        self._infos = {info.rank: info}
        self._told: dict[int, Telling] = {}
        self._last: dict[int, int] = {}  # step of each
        self._heard: dict[int, float] = {}  # when each last told something
        self._silent: set[int] = set()
        self._own: dict[int, RankStep] = {}  # with a hash of each tensor
        self._waiting: dict[int, dict[int, RankStep]] = {}  # steps that not all ranks have finished
        self._seen: deque[_Seen] = deque(maxlen=_REMEMBERED)
        self._latest = before.step  # step that was looked at
        self._begun = self._moved = time.monotonic()
        self._over = set(before.rules)  # rules that have spoken
        self._lost: dict[int, float] = {}  # ranks, and the seconds for which they said nothing
        self.patience = SILENT

    @property
    def is_waiting(self) -> bool:
        """Whether a rank has finished a step that another has not."""
        return bool(self._waiting)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be expected from any rank."""
        told = [self._told.get(rank) for rank in range(self._info.of) if rank not in self._silent]
        is_late = time.monotonic() - self._begun > _ABSENT
        return all(is_late if each is None else each.done for each in told)

    @property
    def judged(self) -> Judged:
        """What another rank goes on from."""
        return Judged(step=self._latest, rules=tuple(sorted(self._over)))

    def lose(self, rank: int, seconds: float) -> None:
        """A rank has said nothing for these seconds, as another way tells."""
        self._lost[rank] = seconds

    @staticmethod
    def prepare() -> None:
        """What is done once, and takes the longest."""
        all_rank_rules()

    def follow(self, post: Post, mine: Telling) -> Iterator[str]:
        """What is new between the ranks, in sentences; each kind once."""
        self._own |= {step.step: step for step in mine.steps}
        self._take(self._info.rank, replace(mine, steps=tuple(map(post.shorten, mine.steps))))
        for rank, telling in post.look():
            if rank not in self._infos:
                self._infos[rank] = post.read_info(rank)
            self._take(rank, telling)
        yield from self._find_silent()
        for number in sorted(self._waiting):
            if self._waiting[number].keys() >= self._list_expected(number):
                yield from self._look_at(number, self._waiting.pop(number), post)
        for number in sorted(self._waiting)[:-LATEST]:
            del self._waiting[number]
        yield from self._look_at_stuck()

    def describe_absent(self) -> Iterator[str]:
        """The ranks that have told nothing at all, as where they have no monitor."""
        absent = sorted(set(range(self._info.of)) - self._told.keys())
        if absent:
            yield f"no word from {name_ranks(absent)} in this run: the others were compared alone"

    def _take(self, rank: int, telling: Telling) -> None:
        self._told[rank] = telling
        self._heard[rank] = time.monotonic()
        self._silent.discard(rank)
        self._last[rank] = max([self._last.get(rank, -1), *(step.step for step in telling.steps)])
        for step in telling.steps:
            if step.step > self._latest and rank not in self._waiting.get(step.step, {}):
                self._waiting.setdefault(step.step, {})[rank] = step
                self._moved = time.monotonic()

    def _list_expected(self, number: int) -> set[int]:
        """The ranks that may still tell this step: not those that have left before it."""
        left = {r for r, told in self._told.items() if told.done and self._last[r] < number}
        return set(range(self._info.of)) - self._silent - left

    def _find_silent(self) -> Iterator[str]:
        for rank in range(self._info.of):
            if rank in self._silent or rank == self._info.rank:
                continue
            is_heard = time.monotonic() - self._heard.get(rank, self._begun) < self.patience
            if is_heard and rank not in self._lost:
                continue
            self._silent.add(rank)
            telling = self._told.get(rank)
            if telling is not None and not telling.done:
                seconds = self._lost.pop(rank, self.patience)
                yield (
                    f"no word from rank {rank} for {seconds:.0f} s, after step "
                    f"{telling.total - 1}: it may have ended, or stand still; the others are "
                    "compared without it"
                )

    # -- one step ----------------------------------------------------------------------------------

    def _look_at(self, number: int, said: _Said, post: Post) -> Iterator[str]:
        self._latest, finished = number, leave_last_out(said)
        kinds = set(_find_kinds(finished))
        if len(finished) < len(said) and any(step.without_gradient for step in finished.values()):
            kinds.add("gradients")  # for which the others may have waited in vain
        events = [self._read_event(rank, number) for rank in said]
        if len({None if event is None else event.what for event in events}) > 1:
            kinds.add("not finite")
        rules = {name for kind in kinds for name in _RULES[kind]} - self._over
        others = [rank for rank in said if rank != self._info.rank]
        is_needed = rules and not kinds.isdisjoint(("parameters", "buffers"))
        hashes = post.read_hashes(others, number) if is_needed else {}
        own = {each: self._own.pop(each) for each in list(self._own) if each <= number}
        self._seen.append(_Seen(said=said, own=own.get(number), hashes=hashes))
        if rules:
            yield from self._judge(number, rules)

    def _look_at_stuck(self) -> Iterator[str]:
        """A rank that waits in a reduction to which another does not come cannot say anything."""
        if not self._waiting or time.monotonic() - self._moved < _STUCK:
            return
        number, said = min(self._waiting.items())
        rules = {"rank-without-gradient"} - self._over
        if rules and any(step.without_gradient for step in said.values()):
            self._seen.append(_Seen(said=said))
            yield from self._judge(number, rules)
            self._seen.pop()

    def _judge(self, number: int, names: set[str]) -> Iterator[str]:
        rules = [rule for rule in all_rank_rules() if rule.name in names]
        for finding in run_rules(self._gather(number), rules).findings:
            if finding.severity >= Severity.WARNING:
                self._over.add(finding.rule)
                yield f"step {number}: {finding.rule}: {finding.message}; {finding.fix}"

    def _gather(self, number: int) -> Ranks:
        """The latest steps, as the rules take them."""
        runs, seen = [], [_fill(each, each.said.get(self._info.rank)) for each in self._seen]
        for rank, info in sorted(self._infos.items()):
            steps = tuple(said[rank] for said in seen if rank in said)
            history = History(
                model=self._model,
                total=self._told[rank].total,
                nonfinite=self._read_event(rank, number),
            )
            log = RankLog(info=info, steps=steps)
            runs.append(RankRun(log=log, trace=Trace(model=self._model), history=history))
        missing = set(range(self._info.of)) - self._infos.keys()
        return Ranks(runs=tuple(runs), of=self._info.of, missing=tuple(sorted(missing)))

    def _read_event(self, rank: int, number: int) -> NonFinite | None:
        """What the rank met until this step: one that is ahead may have met more."""
        event = self._told[rank].nonfinite
        return event if event is not None and event.step <= number else None


def _find_kinds(said: Mapping[int, RankStep]) -> Iterator[str]:
    steps = list(said.values())
    for kind in ("parameters", "buffers"):
        if len({text for step in steps if (text := getattr(step, kind))}) > 1:
            yield kind
    if len({step.without_gradient for step in steps}) > 1:
        yield "gradients"
    is_split = all("reduction" in step.seconds for step in steps)
    waits = {"reduction"} if is_split else {"reduction", "backward"}
    for stage in set(STAGES) - waits:
        own = [
            step.seconds[stage] - (step.queued or {}).get(stage, 0.0)
            for step in steps
            if stage in step.seconds
        ]
        if own and max(own) - min(own) >= _LATE:
            yield "late"


def _fill(seen: _Seen, short: RankStep | None) -> _Said:
    """A hash of each tensor, in the place of one for all: those of a rank that has the same are
    known here; of others that were not asked nothing is.
    """
    filled, own = {}, seen.own
    for rank, step in seen.said.items():
        parameters, buffers = seen.hashes.get(rank, ("", ""))
        if own is not None and short is not None:
            parameters = own.parameters if step.parameters == short.parameters else parameters
            buffers = own.buffers if step.buffers == short.buffers else buffers
        filled[rank] = replace(step, parameters=parameters, buffers=buffers)
    return filled
