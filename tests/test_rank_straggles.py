"""A rank that comes late, by hand: what counts is the time that is its own."""

import time

import pytest

from cnnprobe.diagnosis import Severity
from cnnprobe.monitoring.stages import Stages
from cnnprobe.ranks import RankRun, Ranks, all_rank_rules
from cnnprobe.records.history import History
from cnnprobe.records.ranks import RankInfo, RankLog, RankStep
from cnnprobe.records.trace import Trace

(RULE,) = (rule for rule in all_rank_rules() if rule.name == "rank-straggles")


def make_ranks(times, wrapper="DistributedDataParallel", **options):
    """Two ranks and more, by hand: for each step, for each rank, the seconds by stage and those in
    the queue.
    """
    steps = [[] for _ in times[0]]
    for number, of_step in enumerate(times):
        for rank, (more, queued) in enumerate(of_step):
            seconds = {"data": 0.01, "forward": 0.02, "backward": 0.03} | more
            steps[rank].append(RankStep(step=number, seconds=seconds, queued=queued))
    infos = [
        RankInfo(rank=rank, of=len(steps), wrapper=wrapper, options=options)
        for rank in range(len(steps))
    ]
    runs = tuple(
        RankRun(
            log=RankLog(info=info, steps=tuple(mine)),
            trace=Trace(model="Net"),
            history=History(model="Net"),
        )
        for info, mine in zip(infos, steps, strict=True)
    )
    return Ranks(runs=runs, of=len(runs))


SOUND = ({}, {})
LATE = ({"data": 0.21}, {})  # 0.2 s more than the others, whose step takes 0.06 s
SLOW = ({"backward": 0.23, "reduction": 0.001, "update": 0.01}, {})
WAITS = ({"reduction": 0.2, "update": 0.01}, {})
QUIET = [[SOUND, SOUND, SOUND]] * 3


@pytest.mark.parametrize(
    ("times", "options", "message"),
    [
        ([*QUIET, [SOUND, SOUND, LATE]], {},
            "rank 2 held up the others by 0.20 s in step 3, with data (more than 0.1 s and 50% of the rest of the step)"),  # noqa: E501
        ([[SOUND, SOUND, SOUND], [SOUND, SOUND, LATE]], {}, None),  # still warming up
        ([*QUIET, [SOUND, SOUND, ({"data": 0.21}, {"data": 0.15})]], {},
            None),  # others had the processor
        ([*QUIET, [SOUND, SOUND, ({"data": 0.21}, None)]], {}, None),  # who knows who had it
        ([*QUIET, [SOUND, SOUND, ({"data": 0.31}, None)]], {},
            "by 0.30 s in step 3, with data (more than 0.25 s"),
        ([*QUIET, [SOUND, SOUND, ({"data": 0.21, "backward": 0.5}, {})]], {},
            None),  # little in a long step
        ([*QUIET, [SOUND, ({"loss": 0.2}, {}), SOUND]], {},
            "rank 1 held up the others by 0.20 s in step 3, with loss"),
        ([*QUIET, [({"update": 0.2}, {}), SOUND, SOUND]], {},
            "rank 0 held up the others by 0.20 s in step 3, with update"),
        ([*QUIET, [({"forward": 0.3}, {}), SOUND, SOUND]], {"forward_waits": True}, None),
        ([[s[0], s[1]] for s in [*QUIET, [LATE, ({"update": 0.4}, {})]]], {},
            "rank 0 held up the others by 0.20 s in step 3, with data"),
        ([*QUIET, [SLOW, WAITS, WAITS]], {},
            "rank 0 held up the others by 0.20 s in step 3, with backward"),
        ([*QUIET, [SLOW, WAITS, WAITS]], {"forward_waits": True}, None),
        ([*QUIET, [({"backward": 0.23}, {}), WAITS, WAITS]], {}, None),  # all of it may be a wait
        ([*QUIET, [SOUND, SOUND, LATE], *QUIET, [SOUND, SOUND, LATE]], {},
            "; it came late in 2 of 5 steps"),
    ],
)  # fmt: skip
def test_one_late_step_is_judged_by_the_time_that_is_the_ranks_own(times, options, message):
    findings = list(RULE.check(make_ranks(times, **options)))
    assert ([] if message is None else [Severity.INFO]) == [f.severity for f in findings]
    assert message is None or message in findings[0].message


def test_three_late_steps_in_a_row_are_a_warning_in_a_long_sound_run():
    late = [[SOUND, SOUND, LATE]] * 3
    (finding,) = RULE.check(make_ranks([*QUIET * 10, *late]))
    assert Severity.WARNING == finding.severity
    assert "it came late in 3 of 3 steps" in finding.message


@pytest.mark.parametrize(("steps", "found"), [(6, 0), (12, 1)])
def test_the_queue_for_a_processor_counts_where_it_goes_on(steps, found):
    queued = ({"data": 0.06}, {"data": 0.05})
    assert found == len(list(RULE.check(make_ranks([[SOUND, SOUND, queued]] * steps))))


def test_the_time_in_the_queue_for_a_processor_is_no_time_of_the_rank():
    stages = Stages()
    stages.start()
    stages.open()
    if stages.queued is None:
        pytest.skip("NO /proc/thread-self/schedstat HERE: the queue was not looked at")
    stages.end("data")
    time.sleep(0.05)  # waits for nobody
    stages.end("loss")
    begun = time.thread_time()
    while time.thread_time() < begun + 0.05:
        pass
    stages.end("forward")
    for stage in ("loss", "forward"):
        assert stages.seconds[stage] - stages.queued[stage] == pytest.approx(0.05, abs=0.04)
    stages.close()
