"""Several ranks of gloo under a monitor: each is seen for itself, all of them are one report, and
what differs is named.
"""

import json

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.diagnosis import Severity
from cnnprobe.errors import ProbeError
from cnnprobe.monitoring.notes import describe_exception
from cnnprobe.ranks import RankRun, all_rank_rules, join
from cnnprobe.records.history import History
from cnnprobe.records.ranks import LEFT_BY, RankInfo, RankLog, RankStep
from cnnprobe.records.trace import Trace
from tests.support import rank_programs
from tests.support.loops import run, small
from tests.support.measured import Images, make_net
from tests.support.python import run_python
from tests.support.ranks import run_ranks

RULES = {rule.name: rule for rule in all_rank_rules() if rule.sick is not None}


def need_sharding():
    if torch.__version__ < (2, 7):
        pytest.skip("before torch 2.7 FSDP2 does not train on a CPU")


def run_all(program, folder, ranks, **where):
    for rank, ended in enumerate(run_ranks(program, str(folder), ranks=ranks, **where)):
        assert 0 == ended.returncode, (rank, ended.stdout, ended.stderr)
    return folder


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return run_all("examples", tmp_path_factory.mktemp("examples"), 2)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return run_all("exact", tmp_path_factory.mktemp("exact"), 4)


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return run_all("faults", tmp_path_factory.mktemp("faults"), 4)


def found(report, name):
    return next(finding for finding in report.findings if finding.rule == name)


# -- the rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_rule_finds_its_sick_example(examples, name):
    report = cnnprobe.load(examples / f"{name}-sick")
    assert RULES[name].severity in [f.severity for f in report.findings if name == f.rule]
    assert not [note for note in report.history.notes if "could not judge" in note]


@pytest.mark.parametrize("name", RULES)
def test_healthy_example_has_no_finding(examples, name):
    report = cnnprobe.load(examples / f"{name}-healthy")
    assert [] == [(f.rule, f.message) for f in report.findings]
    assert not [note for note in report.history.notes if "report this" in note or "judge" in note]


@pytest.mark.parametrize("name", RULES)
def test_the_ranks_together_say_at_once_what_their_logs_say_later(examples, name):
    later = cnnprobe.load(examples / f"{name}-sick")
    for rank in range(2):
        at_once = cnnprobe.load(examples / f"{name}-sick-{rank}.json")
        assert later.to("json") == at_once.to("json")


# -- the numbers -----------------------------------------------------------------------------------


def train_alone():
    """The same training in one process: the parts of the batch one after the other."""
    model = nn.Sequential(*rank_programs.net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with cnnprobe.monitor(model, optimizer, histograms=True) as watched:
        for step in range(4):
            optimizer.zero_grad()
            for rank in range(4):
                x, y = rank_programs.batch(rank, step)
                loss = nn.functional.cross_entropy(model(x), y)
                watched.loss(loss)
                (loss / 4).backward()
            optimizer.step()
    return watched.history


def test_four_ranks_together_have_the_numbers_of_one_process(exact):
    merged, alone = cnnprobe.load(exact / "logs").history, train_alone()
    seen = 0
    for series in alone.series:
        if series.what in ("parameter", "update") or series.fqn.endswith(("weight", "bias")):
            continue
        fqn = f"module.{series.fqn}" if series.fqn else "module"
        same = merged.of(fqn, series.what)
        assert "all ranks" == same.ranks
        assert same.numbers.keys() == series.numbers.keys() - {"dead"}
        for name in ("count", "zeros", "nan", "inf"):
            assert series[name] == same[name], (fqn, name)
        # The parameters of later steps differ in rounding: gloo adds up in another order.
        for name in ("min", "max"):
            assert series[name][0] == same[name][0], (fqn, name)
        assert series.histograms[0] == same.histograms[0], fqn
        for name in ("mean", "std", "norm", "min", "max"):
            assert series[name] == pytest.approx(same[name], rel=1e-4, abs=1e-6), (fqn, name)
        seen += 1
    assert seen >= 8
    for name in ("loss", "gradient norm", "update ratio", "learning rate"):
        assert alone.curve(name).values == pytest.approx(merged.curve(name).values, rel=1e-4)
        assert "all ranks" == merged.curve(name).ranks


def test_sound_ranks_have_no_finding_and_the_same_parameters(exact):
    report = cnnprobe.load(exact / "logs")
    assert () == report.findings
    assert "all ranks" == report.history.of("module.0.weight", "parameter").ranks
    assert [(0, 4), (1, 4), (2, 4), (3, 4)] == [(r.rank, r.total) for r in report.history.ranks]


def test_one_rank_says_of_each_number_whose_it_is(exact):
    history = cnnprobe.load(exact / "logs" / "rank1.jsonl").history
    assert "rank 1" == history.of("module.0").ranks
    assert "rank 1" == history.of("module.0", "gradient").ranks
    assert "all ranks" == history.of("module.0.weight", "parameter").ranks
    assert "all ranks" == history.of("module.0.weight", "gradient").ranks
    owners = {curve.name: curve.ranks for curve in history.curves}
    assert ("rank 1", "all ranks") == (owners["loss"], owners["gradient norm"])


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    need_sharding()
    return run_all("sharded", tmp_path_factory.mktemp("sharded"), 4)


@pytest.mark.parametrize("mesh", ["whole", "pairs"])
def test_shards_together_have_the_numbers_of_the_whole_parameters(sharded, mesh):
    merged, alone = cnnprobe.load(sharded / mesh).history, train_alone()
    seen = 0
    for series in alone.series:
        same = merged.of(series.fqn, series.what, series.call)
        assert "all ranks" == same.ranks
        for name in ("count", "zeros", "nan", "inf") if series.what != "update" else ():
            assert series[name] == same[name], (series.fqn, name)
        for name in same.numbers:
            expected = pytest.approx(series[name], rel=1e-3, abs=1e-6)
            assert expected == same[name], (series.fqn, series.what, name)
        seen += series.fqn.endswith("weight")
    assert 6 == seen
    for name in ("loss", "gradient norm", "update ratio"):
        assert alone.curve(name).values == pytest.approx(merged.curve(name).values, rel=1e-3)


def test_a_rank_of_shards_says_that_it_holds_a_part(sharded):
    history = cnnprobe.load(sharded / "whole" / "rank2.jsonl").history
    weight = history.of("3.weight", "parameter")
    assert "rank 2, its part" == weight.ranks
    assert weight["count"][0] < 192
    assert any("the part that this rank holds is read" in note for note in history.notes)
    assert "rank 2, its part" == history.curve("gradient norm").ranks


@pytest.fixture(scope="module")
def verbs(tmp_path_factory):
    need_sharding()
    programs = "tests.support.verb_programs"
    folder = run_all("verbs", tmp_path_factory.mktemp("verbs"), 2, programs=programs)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_one_rank_alone_may_probe_and_diagnose_a_model_in_ddp(verbs):
    told = "rank 0 of 2: inputs, outputs and their statistics are of this rank's batch alone"
    assert [told, "(4, 4, 4, 4)"] == verbs[0]["probe"]
    assert told in verbs[0]["diagnose"]
    assert [told.replace("rank 0", "rank 1")] == verbs[1]["record"]


def test_a_sharded_model_is_probed_by_all_ranks_or_refused(verbs):
    assert verbs[0]["refused"] == (
        "the model is sharded, and rank 1 did not call cnnprobe.probe within 1 seconds\n"
        "  where: rank 0 of 2\n"
        "  fix:   call cnnprobe.probe on all ranks at the same place of the program"
    )
    for rank, said in enumerate(verbs):
        assert f"values of the part that rank {rank} holds" in said["sharded"][1]
        whole, mean, alone = said["sums"]
        assert alone == pytest.approx(whole, rel=1e-5)
        assert alone / 12 == pytest.approx(mean, rel=1e-5)


def test_all_ranks_together_diagnose_a_sharded_model_as_the_whole_one(verbs):
    for rank, said in enumerate(verbs):
        diagnosis = said["diagnosis"]
        whole, parts = diagnosis["found"]
        assert "softmax-before-ce" in [rule for rule, *_ in whole]
        assert whole == parts
        assert diagnosis["notes"][:2] == [
            (
                f"rank {rank} of 2: inputs, outputs and their statistics are of this rank's batch "
                "alone"
            ),
            (
                "the model is sharded: each rank has diagnosed a whole copy of it on its own "
                "batch, in the precision of its parameters"
            ),
        ]
        assert 1 == len(set(diagnosis["calls"]))


def test_a_diagnosis_leaves_the_shards_and_their_optimizer_as_they_were(verbs):
    for said in verbs:
        assert said["diagnosis"]["as before"]
        diagnosed, twin = said["diagnosis"]["losses"]
        assert twin == diagnosed


def test_a_diagnosis_of_split_layers_is_refused(verbs):
    for said in verbs:
        assert said["diagnosis"]["split"] == (
            "the model is split over the ranks within its layers, as by tensor parallelism: no "
            "rank can run it alone\n  where: Sequential\n"
            "  fix:   call cnnprobe.diagnose before it is split; cnnprobe.monitor(model) watches "
            "the split one"
        )


def test_a_diagnosis_of_shards_is_refused_where_a_rank_does_not_come_and_with_a_step(verbs):
    assert "rank 1 did not call cnnprobe.diagnose within 1 seconds" in verbs[0]["left alone"]
    assert verbs[0]["diagnosis"]["step"] == (
        "the model is sharded, and the train_step is made for its shards: a diagnosis runs a "
        "whole copy, which it does not know\n  where: diagnose(train_step=...)\n"
        "  fix:   leave train_step= out, and give loss_fn= and optimizer="
    )


def test_a_sharded_model_is_measured_over_batches_that_are_uneven(verbs):
    whole = cnnprobe.measure(make_net(), Images(10), batch_size=4)  # of one process
    for said in verbs:
        for name, low, high, mean in said["measured"]:
            known = whole.of(name)
            assert (known.low, known.high) == (tuple(low), tuple(high))
            assert known.statistics.mean == pytest.approx(mean, rel=1e-6)


def test_one_rank_alone_may_inspect_its_data_beside_a_sharded_model(verbs):
    assert "DataReport" == verbs[0]["inspected"]


# -- the faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule", "module", "message"),
    [
        ("seed", "ranks-diverged", "0",
            "parameter '0.weight' differs between ranks 0, 1, 2 and 3, each from each before step 0"),  # noqa: E501
        ("skipped", "ranks-diverged", "module.0",
            "before step 2; before step 1 it was equal; 3 more parameters differ"),
        ("frozen", "ranks-diverged", "module",
            "buffer 'module.count' differs between ranks 0, 2 and 3 and rank 1 before step 1"),
        ("nan", "nan-on-one-rank", "module.0", "in step 1 on rank 2 alone"),
        ("sleep", "rank-straggles", None, "rank 3 held up the others by 0.6"),
    ],
)  # fmt: skip
def test_a_fault_of_one_rank_is_named_within_one_step(faults, name, rule, module, message):
    finding = found(cnnprobe.load(faults / name), rule)
    assert module == finding.module
    assert message in finding.message


def test_a_step_in_which_a_rank_sleeps_is_named_with_what_it_did(faults):
    finding = found(cnnprobe.load(faults / "sleep"), "rank-straggles")
    assert "s in step 3, with data (more than 0.1 s and 50% of the rest of the step)" in (
        finding.message.replace("0.25 s", "0.1 s")  # where the system has no /proc
    )
    assert Severity.INFO == finding.severity


def test_the_sound_twin_has_no_finding(faults):
    assert [] == [f.rule for f in cnnprobe.load(faults / "sound").findings if f.rule in RULES]


def test_logs_of_a_training_that_still_runs_are_merged_without_a_lost_rank(faults, tmp_path):
    for log in (faults / "skipped").iterdir():
        lines = log.read_text().splitlines(keepends=True)
        over = next(i for i, line in enumerate(lines) if '"step":2,' in line and "curves" in line)
        (tmp_path / log.name).write_text("".join(lines[: over + 2]))
    report = cnnprobe.load(tmp_path)
    assert {"ranks-diverged"} <= {finding.rule for finding in report.findings}
    assert "rank-lost" not in {finding.rule for finding in report.findings}
    assert (0, 1, 2) == report.history.steps
    assert not any(rank.finished for rank in report.history.ranks)


# -- what is refused -------------------------------------------------------------------------------

HEAD = '{"schema_version": 1, "type": "Journal", "model": "Net"}\n'


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ({}, ".",
            "there is no log of a rank\n  where: {}\n  fix:   give the folder that monitor(log=...) got, with files such as rank0.jsonl"),  # noqa: E501
        ({"a.rank0.jsonl": HEAD, "b.rank0.jsonl": HEAD}, ".",
            "there are the logs of 2 runs: 'a', 'b'\n  where: {}\n  fix:   name one of them: {}/b.jsonl"),  # noqa: E501
        ({"rank0.jsonl": HEAD + '{"rank": {"rank": 1, "of": 2}}\n'}, ".",
            "this is the log of rank 1\n  where: {}/rank0.jsonl\n  fix:   name it rank1.jsonl, as it was"),  # noqa: E501
        ({"rank0.jsonl": "{}"}, ".", "is not a cnnprobe Journal"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_run_is_refused(tmp_path, files, path, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ProbeError) as raised:
        cnnprobe.load(tmp_path / path)
    assert message.replace("{}", str(tmp_path)) in str(raised.value)


@pytest.mark.parametrize("begun", [b"", b'{"cnnprobe": '], ids=["empty", "cut"])
def test_a_log_without_a_first_line_is_of_a_rank_that_left_nothing(exact, tmp_path, begun):
    for rank in range(4):
        log = (exact / "logs" / f"rank{rank}.jsonl").read_bytes()
        (tmp_path / f"rank{rank}.jsonl").write_bytes(begun if rank == 2 else log)
    history = cnnprobe.load(tmp_path).history
    assert [0, 1, 3] == [rank.rank for rank in history.ranks]
    assert "rank 2 left nothing: what is said here is not of all ranks" in history.notes
    for file in tmp_path.iterdir():
        file.write_bytes(begun)
    with pytest.raises(ProbeError, match="nothing has been written yet"):
        cnnprobe.load(tmp_path)


def test_logs_of_one_rank_from_two_runs_are_not_merged():
    info = RankInfo(rank=0, of=2)
    run = RankRun(log=RankLog(info=info), trace=Trace(model="Net"), history=History(model="Net"))
    with pytest.raises(ProbeError, match="two logs are of rank 0"):
        join([run, run])


def make_run(rank, *, of=2, steps=(), notes=(), **info):
    log = RankLog(info=RankInfo(rank=rank, of=of, **info), steps=steps, finished=bool(notes))
    history = History(model="Net", total=4, notes=notes)
    return RankRun(log=log, trace=Trace(model="Net"), history=history)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"of": 4, "run": "b"}, "2 runs: ranks 0 and 1 of a run of 2 and rank 2 of a run of 4"),
        ({"of": 4}, "2 runs: ranks 0 and 1 of a run of 2 and rank 2 of a run of 4"),
        ({"of": 2, "run": "b"}, "2 runs: ranks 0 and 1 of a run of 2 and rank 2 of a run of 2"),
    ],
)
def test_logs_that_an_earlier_run_has_left_in_the_folder_are_not_merged(others, said):
    runs = [make_run(0, run="a"), make_run(1, run="a"), make_run(2, **others)]
    with pytest.raises(ProbeError) as raised:
        join(runs)
    assert f"the logs are of {said}" == raised.value.what
    assert raised.value.fix.startswith("remove the logs of an earlier run")


def test_all_ranks_of_a_process_group_name_their_run_alike(exact):
    infos = [cnnprobe.load(exact / "logs" / f"rank{r}.jsonl").history.rank.info for r in range(4)]
    assert 1 == len({info.run for info in infos})
    assert infos[0].run


def test_parameters_after_the_run_of_one_rank_are_not_those_of_a_step_of_another():
    names = {"parameters": ("w",)}
    seconds = {"forward": 0.1}
    same, last = "0000000a", "0000000b"
    longer = [RankStep(step=n, parameters=same, seconds=seconds) for n in range(3)]
    shorter = [*longer[:2], RankStep(step=2, parameters=last)]  # as join() leaves them
    runs = [make_run(0, steps=tuple(shorter), **names), make_run(1, steps=tuple(longer), **names)]
    assert "ranks-diverged" not in [finding.rule for finding in join(runs).findings]
    longer[2] = RankStep(step=2, parameters=same)
    runs = [make_run(0, steps=tuple(shorter), **names), make_run(1, steps=tuple(longer), **names)]
    assert "ranks-diverged" in [finding.rule for finding in join(runs).findings], "both are over"


def test_a_rank_that_was_ended_because_another_raised_names_that_one():
    note = f"{LEFT_BY}ValueError in step 3: broken sample"
    findings = join([make_run(0), make_run(1, notes=(note,))]).findings
    (lost,) = [finding for finding in findings if finding.rule == "rank-lost"]
    assert lost.message.startswith("rank 0 ended in step 4, without leaving the block")
    assert lost.message.endswith("; rank 1 left it by ValueError in step 3: broken sample")


def test_a_rank_whose_peer_has_gone_is_not_named_as_the_reason():
    error = RuntimeError("[/gloo/transport/tcp/pair.cc:561] Connection closed by peer")
    note = describe_exception(error, 3)
    assert note.startswith("another rank did not answer: the block was left by RuntimeError in ")
    findings = join([make_run(0, notes=(note,)), make_run(1)]).findings
    (lost,) = [finding for finding in findings if finding.rule == "rank-lost"]
    assert lost.message.endswith("the furthest rank made 4 steps")


def test_without_a_process_group_the_fix_is_to_merge_the_logs(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProbeError) as raised:
        run(small()).merged()
    assert "no process group to reach the other ranks by" in raised.value.what
    assert "cnnprobe.load(folder)" in raised.value.fix


def test_one_process_alone_merges_to_its_own_report():
    monitor = run(small())
    assert monitor.report == monitor.merged()
    assert {""} == {series.ranks for series in monitor.history.series}


def test_command_merges_a_folder_and_fails_on_what_it_finds(examples, tmp_path):
    folder = examples / "ranks-diverged-sick"
    done = run_python("-m", "cnnprobe", "merge", folder, "-o", tmp_path / "all.json")
    assert 1 == done.returncode, done.stderr
    assert "found: ranks-diverged in 'module.0'" in done.stderr
    assert cnnprobe.load(folder).to("json") == cnnprobe.load(tmp_path / "all.json").to("json")
    sound = run_python(
        "-m", "cnnprobe", "merge", examples / "ranks-diverged-healthy", "--width", "80"
    )
    assert 0 == sound.returncode, sound.stderr
    assert "rank  host" in sound.stdout or "rank  steps" in sound.stdout
