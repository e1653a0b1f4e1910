"""Ranks that are compared while they train: what differs is said at once, by nothing that a rank
waits for.
"""

import json
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
from torch.distributed import FileStore, HashStore, PrefixStore

import cnnprobe
from cnnprobe.monitoring import comparing, differing, post
from cnnprobe.monitoring.differing import Differences, Judged
from cnnprobe.monitoring.exchange import share
from cnnprobe.monitoring.leading import Lead
from cnnprobe.monitoring.post import Post, Telling
from cnnprobe.records.history import NonFinite
from cnnprobe.records.ledger import Ledger
from cnnprobe.records.ranks import RankInfo, RankStep
from tests.support.ranks import run_ranks

SECONDS = {"data": 0.01, "forward": 0.02, "backward": 0.03}
INFO = {"parameters": ("0.weight", "0.bias"), "wrapper": "DistributedDataParallel"}
SAME, OTHER = "0000000a0000000b", "0000000a0000000c"


def find(report, name):
    return [finding for finding in report.findings if finding.rule == name]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    for rank, ended in enumerate(run_ranks("told", str(folder), ranks=3)):
        assert 0 == ended.returncode, (rank, ended.stdout, ended.stderr)
    return json.loads((folder / "said.json").read_text()), folder


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("skipped", [2],
            "ranks-diverged: parameter 'module.0.weight' differs between ranks 0, 1 and 2, each from each before step 2; before step 1 it was equal; 3 more parameters differ"),  # noqa: E501
        ("nan", [1],
            "nan-on-one-rank: parameter 'module.0.bias' (Conv2d) has 1 NaN and 0 Inf among 4 values in step 1 on rank 2 alone"),  # noqa: E501
        ("late", [3, 4], "rank-straggles: rank 1 "),
        ("slow", [3, 4], "rank-straggles: rank 2 "),
        ("norms", [1],
            "bn-not-synchronised: 'module.1.running_mean' differs between ranks 0, 1 and 2, each from each before step 1"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_differs_is_said_within_one_step_and_once(told, name, steps, message):
    said = told[0][name]
    (text,) = [text for text in said[-1] if message in text]
    (step,) = [step for step in steps if text.startswith(f"step {step}: {message}")]
    assert text not in said[step], "before the step was over"
    assert text in said[min(step + 2, 5)]


def test_the_rank_whose_backward_is_slow_is_told_from_those_that_wait_for_it(told):
    said, folder = told
    (text,) = [text for text in said["slow"][-1] if "straggles" in text]
    where = r"(in step \d, with|longer than the others for) backward"
    (longer,) = re.findall(rf" (\d+(?:\.\d+)?) s {where}", text)
    assert float(longer[0]) > 0.5, "it sleeps for a second"
    report = cnnprobe.load(folder / "slow")
    assert ["rank-straggles"] == [finding.rule for finding in report.findings]
    seconds = [rank.seconds for rank in report.history.ranks]
    for rank in (0, 1):  # in proportion: a busy machine lengthens all of them
        assert seconds[2]["backward"] > 2 * seconds[rank]["backward"]
        assert seconds[rank]["reduction"] > 2 * seconds[2]["reduction"]


def test_sound_ranks_say_nothing(told):
    assert [[]] * 6 == told[0]["sound"]


def test_what_was_said_stands_in_the_log(told):
    said, folder = told
    notes = cnnprobe.load(folder / "skipped" / "rank0.jsonl").history.notes
    assert set(said["skipped"][-1]) <= set(notes)


def test_a_branch_that_one_rank_does_not_take_is_named_while_the_other_waits(tmp_path):
    ended = run_ranks("unused", str(tmp_path), ranks=2)
    assert [0, 0] == [each.returncode for each in ended], [each.stderr for each in ended]
    message = "'module.extra.weight' got no gradient on rank 1 in step 1"
    (finding,) = find(cnnprobe.load(tmp_path), "rank-without-gradient")
    assert "module.extra" == finding.module
    for text in (finding.message, ended[0].stderr):
        assert message in text
        assert "rank 0 did not come to the end of this step" in text


def test_a_rank_that_is_killed_leaves_its_log_and_the_report_of_the_others(tmp_path):
    ended = run_ranks("killed", str(tmp_path), "2", ranks=3)
    assert [0, 0, -9] == [each.returncode for each in ended], [each.stderr for each in ended]
    for rank in (0, 1):
        report = cnnprobe.load(tmp_path / f"merged{rank}.json")
        assert [0, 1] == [each.rank for each in report.history.ranks]
        assert any(note.startswith("rank 2 left nothing") for note in report.history.notes)
    report = cnnprobe.load(tmp_path / "logs")
    (lost,) = find(report, "rank-lost")
    assert "rank 2 on" in lost.message
    assert "ended in step 3" in lost.message
    assert (0, 1, 2) == report.history.steps
    said = r"no word from rank 2 for [12] s, after step [012]: it may have ended, or stand still"
    assert 1 == len(re.findall(said, ended[0].stderr)), ended[0].stderr
    assert "no word" not in ended[1].stderr
    notes = cnnprobe.load(tmp_path / "logs" / "rank0.jsonl").history.notes
    assert any(re.match(said, note) for note in notes)


def test_another_rank_says_that_rank_0_was_killed(tmp_path):
    ended = run_ranks("killed", str(tmp_path), "0", ranks=3, has_agent=True)
    assert [-9, 0, 0] == [each.returncode for each in ended], [each.stderr for each in ended]
    said = r"no word from rank 0 for 1 s, after step [012]: it may have ended, or stand still"
    assert 1 == sum(len(re.findall(said, each.stderr)) for each in ended), "one says it"
    notes = [cnnprobe.load(tmp_path / "logs" / f"rank{r}.jsonl").history.notes for r in (1, 2)]
    assert any(re.match(said, note) for note in (*notes[0], *notes[1]))


def test_every_rank_says_that_the_store_went_with_rank_0(tmp_path):
    ended = run_ranks("killed", str(tmp_path), "0", ranks=3)
    assert [-9, 0, 0] == [each.returncode for each in ended], [each.stderr for each in ended]
    said = (
        r"the store of the process group does not answer \(\w+\): rank 0, which holds it, may "
        r"have ended; the ranks are not compared any more"
    )
    for rank in (1, 2):
        assert 1 == len(re.findall(said, ended[rank].stderr)), ended[rank].stderr
        notes = cnnprobe.load(tmp_path / "logs" / f"rank{rank}.jsonl").history.notes
        assert any(re.match(said, note) for note in notes)


def test_another_rank_compares_after_rank_0_has_left_its_loop(tmp_path):
    ended = run_ranks("left", str(tmp_path), ranks=3)
    assert [0, 0, 0] == [each.returncode for each in ended], [each.stderr for each in ended]
    said = "ranks-diverged: parameter '0.weight' differs between rank 1 and rank 2 before step "
    assert [0, 1] == sorted(each.stderr.count(said) for each in ended[1:])
    assert said not in ended[0].stderr
    assert not any("no word" in each.stderr for each in ended)


# -- by hand, in one process -----------------------------------------------------------------------


class Together:
    """Several ranks that share a store, of which the test says when each tells what."""

    def __init__(self, of):
        self.store = CountingStore()
        infos = [RankInfo(rank=rank, of=of, **INFO) for rank in range(of)]
        self.posts = [Post(self.store, "run0", info) for info in infos]
        self.differences = Differences(infos[0], "Net", Judged())

    def tell(self, rank, number, parameters=SAME, **more):
        step = RankStep(step=number, seconds=SECONDS, parameters=parameters)
        mine = Telling(steps=(step,), total=number + 1, **more)
        self.posts[rank].put(mine)
        return mine

    def follow(self, mine):
        return list(self.differences.follow(self.posts[0], mine))


def measure(value):
    """The bytes in what is sent or read."""
    if isinstance(value, str | bytes):
        return len(value)
    return sum(map(measure, value)) if isinstance(value, list) else 0


class CountingStore:
    """A store in this process that counts what is asked of it."""

    def __init__(self):
        self.inner, self.calls = HashStore(), []

    def __getattr__(self, name):
        def call(*given):
            found = getattr(self.inner, name)(*given)
            values = [*given[1:], found] if name != "check" else []
            self.calls.append((name, sum(map(measure, values))))
            return found

        return call


def test_a_step_is_compared_as_soon_as_all_ranks_have_told_it():
    together = Together(3)
    mine = together.tell(0, 0)
    assert [] == together.follow(mine)
    together.tell(1, 0)
    assert [] == together.follow(mine)
    assert together.differences.is_waiting
    together.tell(2, 0, OTHER)
    (text,) = together.follow(mine)
    assert "parameter '0.bias' differs between ranks 0 and 1 and rank 2 before step 0" in text
    for rank, parameters in enumerate((SAME, SAME, OTHER)):
        mine = together.tell(rank, 1, parameters) if rank else together.tell(0, 1)
    assert [] == together.follow(together.tell(0, 1)), "it was said already"
    assert not together.differences.is_waiting


def test_a_rank_that_is_slow_holds_up_nobody_and_is_left_out_in_the_end(monkeypatch):
    monkeypatch.setattr(differing, "SILENT", 0.1)
    together = Together(3)
    for rank in range(3):
        together.tell(rank, 0)
    together.follow(together.tell(0, 0))
    time.sleep(0.15)
    together.tell(1, 1, OTHER)
    said = together.follow(together.tell(0, 1))
    assert said[0].startswith("no word from rank 2 for 0 s, after step 0: it may have ended")
    assert "'0.bias' differs between rank 0 and rank 1 before step 1; before step 0" in said[1]


@pytest.mark.parametrize("total", [20, 200])
def test_steps_that_are_told_together_are_compared_one_by_one(total):
    together = Together(2)
    steps = [
        RankStep(step=number, seconds=SECONDS, parameters=OTHER if number == 5 else SAME)
        for number in range(total)
    ]
    together.posts[1].put(Telling(steps=tuple(steps), total=total))
    steps = [replace(step, parameters=SAME) for step in steps]
    (text,) = together.follow(Telling(steps=tuple(steps), total=total))
    assert text.startswith("step 5: ranks-diverged: parameter '0.bias' differs between rank 0 and ")
    assert "before step 5; before step 4 it was equal" in text


def test_steps_that_were_told_long_ago_are_not_sent_again(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(post.time, "monotonic", lambda: now[0])
    store = CountingStore()
    mine = Post(store, "run0", RankInfo(rank=0, of=2, **INFO))
    told = []
    for number in range(600):  # 50 in a second, then 512
        now[0] += 1 / 50 if number < 100 else 1 / 512
        step = RankStep(step=number, seconds=SECONDS, parameters=SAME)
        mine.put(Telling(steps=(step,), total=number + 1))
        told.append(store.get("cnnprobe/run0/0").decode().count("\n"))
    assert (32, 32, 512 // 4 + 1) == (told[50], told[99], told[599])


def test_of_many_tensors_the_hashes_of_few_steps_are_kept_and_the_rest_found_later():
    infos = [RankInfo(rank=rank, of=2, parameters=("a",) * 4096) for rank in range(2)]
    store = HashStore()
    reader, other = [Post(store, "run0", info) for info in infos]
    steps = [RankStep(step=number, parameters=f"{number:08x}" * 4096) for number in range(20)]
    other.put(Telling(steps=tuple(steps), total=20))
    assert [] == [
        reader.read_hashes([1], number)
        for number in range(12)
        if {} != reader.read_hashes([1], number)
    ]
    for number in range(12, 20):
        assert {1: (f"{number:08x}" * 4096, "")} == reader.read_hashes([1], number)


def test_a_rank_that_has_left_its_block_is_not_waited_for():
    together = Together(3)
    for rank in (1, 2):
        together.tell(rank, 0)
    together.follow(together.tell(0, 0))
    after = RankStep(step=1, parameters=OTHER)  # as from the best checkpoint
    together.posts[2].put(Telling(steps=(after,), total=1, done=True))
    together.tell(1, 1)
    assert [] == together.follow(together.tell(0, 1))
    together.tell(1, 2, OTHER)
    (text,) = together.follow(together.tell(0, 2))
    assert "'0.bias' differs between rank 0 and rank 1 before step 2; before step 1" in text
    assert not together.differences.is_waiting


def make_leads(store, of):
    infos = [RankInfo(rank=rank, of=of, **INFO) for rank in range(of)]
    return [Lead(store, "run0", info, "Net") for info in infos]


def test_rank_0_leads_and_goes_on_as_long_as_it_is_heard_of():
    first, second = make_leads(HashStore(), 2)
    assert (first.differences is None, second.differences is None) == (False, True)
    for _ in range(3):
        time.sleep(0.06)
        first.hold(0.1, every=0.0)
        second.hold(0.1, every=0.0)
    assert first.differences is not None
    assert second.differences is None
    first.hold(0.1, every=0.0, leaving=True)
    time.sleep(0.15)
    for _ in range(2):
        second.hold(0.1, every=0.0)
    assert second.is_left_to_others
    assert second.differences is None


def test_one_of_the_others_takes_over_and_the_first_one_gives_way():
    first, *others = leads = make_leads(HashStore(), 4)
    for lead in (*leads, *leads):
        lead.hold(0.1, every=0.0)
    time.sleep(0.15)
    for lead in others:
        lead.hold(0.1, every=0.0)
    assert [True, False, False] == [lead.differences is not None for lead in others]
    first.hold(0.1, every=0.0)  # it only stood still
    assert first.differences is None
    for lead in leads:
        lead.hold(0.1, every=0.0)
    assert 1 == sum(lead.differences is not None for lead in leads)


def test_where_the_first_has_left_before_the_others_one_of_them_goes_on_from_what_it_had_judged():
    together = Together(3)
    first, *others = make_leads(together.store, 3)
    for rank, parameters in ((1, SAME), (2, OTHER)):
        together.tell(rank, 0, parameters)
    first.hold(20.0, every=0.0)
    mine = together.tell(0, 0, done=True)
    (text,) = first.differences.follow(together.posts[0], mine)
    assert "ranks-diverged" in text
    first.hold(20.0, every=0.0, leaving=True)
    for lead in others:
        lead.hold(20.0, every=0.0)
    assert [None, None] == [lead.differences for lead in others], "it looks at the last steps"
    first.hand_on()
    for lead in (*others, *others):
        lead.hold(20.0, every=0.0)
    second, third = (lead.differences for lead in others)
    assert third is None
    assert Judged(step=0, rules=("ranks-diverged",)) == second.judged
    together.tell(2, 1, OTHER)
    assert [] == list(second.follow(together.posts[1], together.tell(1, 1))), "it was said already"
    assert Judged(step=1, rules=("ranks-diverged",)) == second.judged


def test_the_last_that_leads_says_that_all_have_left():
    together = Together(2)
    first, second = make_leads(together.store, 2)
    together.tell(1, 0, done=True)
    list(first.differences.follow(together.posts[0], together.tell(0, 0, done=True)))
    first.hold(20.0, every=0.0, leaving=True)
    first.hand_on()
    for _ in range(2):
        second.hold(0.0, every=0.0)
    assert second.is_left_to_others


def test_a_lead_asks_the_store_no_more_often_than_it_has_to():
    store = CountingStore()
    (first, second) = make_leads(store, 2)
    for _ in range(50):
        first.hold(20.0, every=5.0)
        second.hold(20.0, every=5.0)
    assert ["compare_set", "check", "get"] == [name for name, _ in store.calls]


def test_a_rank_without_a_monitor_is_noted_and_raises_no_alarm(monkeypatch):
    monkeypatch.setattr(differing, "SILENT", 0.0)
    together = Together(2)
    assert [] == together.follow(together.tell(0, 0))
    (note,) = together.differences.describe_absent()
    assert note == "no word from rank 1 in this run: the others were compared alone"


def test_a_store_that_cannot_tell_what_is_new_is_named(monkeypatch, tmp_path):
    store = PrefixStore("group", FileStore(str(tmp_path / "store"), 2))
    monkeypatch.setattr(comparing, "find_store", lambda: store)
    notes = []
    ledger = Ledger(model="Net", rank=RankInfo(rank=0, of=2))
    watch = SimpleNamespace(ledger=ledger, note=notes.append)
    comparison = comparing.Comparison(0, ("train.py", 1))
    comparison.wrote(watch, 0, observed=True)
    comparison.close(watch)
    assert notes == [
        "the ranks are not compared while they train: a FileStore cannot tell what is new"
    ]


def test_what_a_rank_met_in_a_later_step_is_not_held_against_it():
    together = Together(2)
    event = NonFinite(step=1, what="parameter", fqn="0.weight", nan=1, count=4)
    together.tell(1, 0, nonfinite=event)  # it is a step ahead
    assert [] == together.follow(together.tell(0, 0))
    together.tell(1, 1, nonfinite=event)
    assert [] == together.follow(together.tell(0, 1, nonfinite=event)), "all met it"


# -- the report of all -----------------------------------------------------------------------------


def meet(store, of, *, absent=(), seconds=5.0):
    """What each rank gets where all of them share the number that they have; a thread each."""

    def make(rank):
        return random.Random(rank).randbytes(1000)

    def take_part(rank):
        found = share(store, "one", make(rank), combine, who=(rank, of), seconds=seconds)
        return found.removesuffix(make(-1))

    def combine(found):
        assert all(data == make(rank) for rank, data in found.items())
        return bytes(found) + make(-1)

    ranks = [rank for rank in range(of) if rank not in absent]
    with ThreadPoolExecutor(of) as pool:
        return list(pool.map(take_part, ranks))


def test_each_rank_has_the_same_answer_of_all():
    assert [bytes([0, 1, 2, 3, 4])] * 5 == meet(HashStore(), 5)


def test_a_rank_that_does_not_come_is_left_out_after_the_time():
    begun = time.monotonic()
    assert [bytes([0, 2])] * 2 == meet(HashStore(), 3, absent=[1], seconds=0.3)
    assert 0.3 <= time.monotonic() - begun < 3


def test_where_the_reader_has_gone_each_reads_for_itself():
    store = HashStore()
    store.set("cnnprobe/one/reader", "2")  # and then it was killed
    assert [bytes([0, 1])] * 2 == meet(store, 3, absent=[2], seconds=0.2)


def test_what_the_report_of_all_moves_grows_with_the_ranks_and_not_with_their_square():
    moved = []
    for of in (4, 8, 16):
        store = CountingStore()
        meet(store, of)
        names = [name for name, _ in store.calls if name in ("get", "set")]
        # Each rank puts its bytes and reads the answer, one reads the bytes of all, each in two
        # keys; and each asks once how many are here.
        assert 2 * (of + 1) + 1 == names.count("set")
        assert 2 * (of - 1) * 2 + (of - 1) + 1 == names.count("get")
        moved.append(sum(size for name, size in store.calls if name in ("get", "set")))
    assert moved[2] - moved[1] == pytest.approx(2 * (moved[1] - moved[0]), rel=0.1)


def test_what_is_sent_and_asked_grows_with_the_ranks_and_not_with_their_square():
    asked, sent = [], []
    for of in (4, 8, 16):
        together = Together(of)
        for number in range(2):
            together.store.calls.clear()
            for rank in range(1, of):
                together.tell(rank, number)
            assert [] == together.follow(together.tell(0, number))
        asked.append(len(together.store.calls))
        sent.append(sum(size for _, size in together.store.calls))
    assert [4 + 1, 8 + 1, 16 + 1] == asked  # a rank puts once, rank 0 reads once
    assert sent[2] - sent[1] == pytest.approx(2 * (sent[1] - sent[0]), rel=0.1)
