"""Snapshots of architectures, as the pytest plugin writes and compares them."""

import pytest

from tests.support.plugin_runs import prepare_run
from tests.support.python import fork_workers, start_server

SNAPSHOT_TEST = """
    import torch
    from net import Net

    def test_net(architecture_snapshot):
        architecture_snapshot(Net(%s), torch.zeros(2, 3, 8, 8))
"""

pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester, monkeypatch):
    return prepare_run(pytester, monkeypatch)


def test_missing_snapshot_fails_and_says_how_to_make_one(run):
    result = run(test_net=SNAPSHOT_TEST % "")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*there is no snapshot of this architecture yet*", "*fix:   run pytest --cnnprobe-update*"]
    )


def test_snapshot_is_written_once_and_then_passes(run, pytester):
    result = run("--cnnprobe-update", test_net=SNAPSHOT_TEST % "")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*architecture snapshots written*", "*test_net.txt"])
    text = (pytester.path / "__cnnprobe__" / "test_net" / "test_net.txt").read_text()
    assert (
        "conv  Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))  112  -> (2, 4, 6, 6)"
        in text.splitlines()
    )
    run().assert_outcomes(passed=1)


def test_changed_architecture_reads_as_a_difference(run, pytester):
    run("--cnnprobe-update", test_net=SNAPSHOT_TEST % "")
    result = run(test_net=SNAPSHOT_TEST % "5")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*the architecture differs from its snapshot in 4 lines*",
            "*-conv  Conv2d(3, 4*",
            "*+conv  Conv2d(3, 5*",
        ]
    )


def test_snapshots_that_no_test_uses_are_reported(run, pytester):
    run("--cnnprobe-update", test_net=SNAPSHOT_TEST % "")
    folder = pytester.path / "__cnnprobe__"
    (folder / "test_gone").mkdir()
    for old in ("test_net/test_removed.txt", "test_gone/test_it.txt"):
        (folder / old).write_text("")
    result = run()
    result.stdout.fnmatch_lines(
        [
            "*snapshots not used by any test*",
            "__cnnprobe__/test_gone/test_it.txt",
            "*test_net/test_removed.txt",
        ]
    )
    run("test_net.py::test_net").stdout.no_fnmatch_line("*not used by any test*")


SEVERAL = """
    import unittest
    import pytest, torch
    from net import Net

    class TestWide:
        @pytest.mark.parametrize("width", [5, 6])
        def test_width(self, width, architecture_snapshot):
            architecture_snapshot(Net(width))

    class TestNarrow:
        def test_width(self, architecture_snapshot):
            architecture_snapshot(Net(2))
            architecture_snapshot(Net(3))
            architecture_snapshot(Net(4), name="wider")

    @pytest.mark.parametrize("case", ["a/b", "a:b"])
    def test_odd(case, architecture_snapshot):
        architecture_snapshot(Net(len(case) if "/" in case else 9))

    @pytest.fixture(scope="class")
    def shared():
        return Net()

    @pytest.mark.usefixtures("shared")
    class TestShared:
        def test_one(self, shared, architecture_snapshot):
            architecture_snapshot(shared)

    class Case(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def take(self, architecture_snapshot):
            self.snapshot = architecture_snapshot

        @pytest.mark.cnnprobe
        def test_it(self):
            self.snapshot(Net(), torch.zeros(2, 3, 8, 8))
"""


def test_snapshots_of_classes_parameters_unittest_and_several_models_keep_apart_under_xdist(
    run, pytester, monkeypatch
):
    monkeypatch.setenv("FORK_SERVER", start_server())
    monkeypatch.setenv("FORK_WITHOUT", "cnnprobe")
    result = run(*fork_workers(2), "--cnnprobe-update", test_net=SEVERAL)
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(
        ["*architecture snapshots written*", "__cnnprobe__/test_net/Case.test_it.txt"]
    )
    found = {path.name for path in (pytester.path / "__cnnprobe__" / "test_net").iterdir()}
    wide, narrow = (
        {"TestWide.test_width-5.txt", "TestWide.test_width-6.txt"},
        {"TestNarrow.test_width.txt", "TestNarrow.test_width.2.txt"},
    )
    assert found > wide | narrow | {
        "TestNarrow.test_width.wider.txt",
        "TestShared.test_one.txt",
        "Case.test_it.txt",
    }
    assert 9 == len(found) and 2 == sum(name.startswith("test_odd-a_b-") for name in found)
    result = run()
    result.assert_outcomes(passed=7)
    result.stdout.no_fnmatch_line("*architecture snapshots*")


def test_folder_of_snapshots_can_be_set(run, pytester):
    pytester.makeini("[pytest]\ncnnprobe_snapshot_dir = shapes")
    run("--cnnprobe-update", test_net=SNAPSHOT_TEST % "").assert_outcomes(passed=1)
    assert (pytester.path / "shapes" / "test_net" / "test_net.txt").exists()
