"""Ranks on a GPU: one of NCCL, and two of gloo that share it, as SyncBatchNorm runs on no CPU."""

import json

import pytest
import torch

import cnnprobe
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO GPU HERE: NCCL and SyncBatchNorm were not run"
)


def run_all(program, folder, backend, ranks):
    programs = "tests.support.cuda_programs"
    found = run_ranks(program, str(folder), backend, ranks=ranks, programs=programs)
    for rank, ended in enumerate(found):
        assert 0 == ended.returncode, (rank, ended.stdout, ended.stderr)
    return folder


# -- one rank of NCCL ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def verbs(tmp_path_factory):
    folder = run_all("verbs", tmp_path_factory.mktemp("verbs"), "nccl", 1)
    return json.loads((folder / "said.json").read_text()), folder


def test_probe_under_nccl_has_the_numbers_of_torch_and_changes_nothing(verbs):
    said, _ = verbs
    for name in ("mean", "max"):
        expected, found = said[name]
        assert expected == pytest.approx(found, rel=1e-4, abs=1e-6)
    assert said["device"].startswith("cuda")
    assert said["output"]
    assert said["as before"]


def test_diagnose_under_nccl_runs_every_pass(verbs):
    whole, calls = verbs[0]["diagnosis"]
    assert whole
    assert calls >= 6


def test_monitor_under_nccl_has_the_losses_of_the_loop_and_its_weights_to_the_bit(verbs):
    said, folder = verbs
    expected, seen = said["losses"]
    assert expected == pytest.approx(seen, rel=1e-6)
    assert said["weights"]
    assert said["merged"]
    assert not [note for note in said["notes"] if "report this" in note]
    loaded = cnnprobe.load(folder / "run.jsonl").history
    assert seen == pytest.approx(loaded.curve("loss").values)


def test_measure_under_nccl_has_the_mean_of_torch_on_a_cpu(verbs):
    expected, found = verbs[0]["measured"]
    assert expected == pytest.approx(found, abs=1e-3)  # a GPU convolves in TF32


def test_monitor_of_a_sharded_model_under_nccl_has_its_losses(verbs):
    expected, seen = verbs[0]["sharded"]
    assert expected == pytest.approx(seen, rel=1e-6)
    assert 5 == len(seen)


# -- two ranks of gloo on one GPU ------------------------------------------------------------------


@pytest.fixture(scope="module")
def norms(tmp_path_factory):
    return run_all("norms", tmp_path_factory.mktemp("norms"), "gloo", 2)


def test_sync_batch_norm_is_silent_where_batch_norm_of_each_rank_is_found(norms):
    found = {
        name: [f.rule for f in cnnprobe.load(norms / name).findings]
        for name in ("alone", "synchronised")
    }
    assert "bn-not-synchronised" in found["alone"]
    assert "bn-not-synchronised" not in found["synchronised"]
    assert "ranks-diverged" not in found["synchronised"]


def test_the_running_means_are_those_that_the_rule_speaks_of(norms):
    one, other = (json.loads((norms / f"{rank}.json").read_text()) for rank in range(2))
    assert one["synchronised"] == other["synchronised"]
    assert one["alone"] != other["alone"]


def test_ranks_of_a_gpu_say_at_once_what_their_logs_say_later(norms):
    for name in ("alone", "synchronised"):
        later, at_once = cnnprobe.load(norms / name), cnnprobe.load(norms / f"{name}-1.json")
        assert later.findings == at_once.findings
        assert [4 * 2] * 5 == [
            count / (4 * 16) for count in later.history.of("module.0")["count"]
        ]  # 4 channels of 16 values, of the 4 samples of both


def test_hashes_of_a_device_name_the_step_that_was_not_reduced(tmp_path):
    folder = run_all("skipped", tmp_path, "gloo", 2)
    finding = next(f for f in cnnprobe.load(folder / "log").findings if f.rule == "ranks-diverged")
    assert "'module.0.weight' differs between rank 0 and rank 1 before step 2" in finding.message
