"""The pytest plugin, each option and fixture, in runs of its own."""

import importlib.metadata
import os
import pkgutil
import subprocess
import sys

import pytest

import cnnprobe

pytest_plugins = ["pytester"]

# pytester forgets the modules that a run of its own imports first, and torch cannot be imported twice.
for module in pkgutil.walk_packages(cnnprobe.__path__, "cnnprobe."):
    if not module.name.endswith(("__main__", "_kernel")):  # the kernel is a plain library
        importlib.import_module(module.name)

INSTALLED = any(entry.value == "cnnprobe.pytest_plugin" for entry in importlib.metadata.entry_points(group="pytest11"))
PLUGIN = [] if INSTALLED else ["-p", "cnnprobe.pytest_plugin"]

NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3)
            self.fc = nn.Linear(width * 36, 2)

        def forward(self, x):
            return self.fc(torch.flatten(self.conv(x), 1))

    class Crash(Net):
        def forward(self, x):
            return self.fc(self.conv(x))

    class Odd(Net):
        def forward(self, x):
            return self.fc(torch.flatten(self.conv(x) * float("inf") * 0, 1))
"""


@pytest.fixture
def run(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    pytester.syspathinsert()
    pytester.makepyfile(net=NET)

    def run(*options, **files):
        if files:
            pytester.makepyfile(**files)
        return pytester.runpytest(*PLUGIN, "-p", "no:randomly", "-p", "no:cacheprovider", *options)

    return run


SNAPSHOT_TEST = """
    import torch
    from net import Net

    def test_net(architecture_snapshot):
        architecture_snapshot(Net(%s), torch.zeros(2, 3, 8, 8))
"""


def test_missing_snapshot_fails_and_says_how_to_make_one(run):
    result = run(test_net=SNAPSHOT_TEST % "")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*there is no snapshot of this architecture yet*", "*fix:   run pytest --cnnprobe-update*"])


def test_snapshot_is_written_once_and_then_passes(run, pytester):
    result = run("--cnnprobe-update", test_net=SNAPSHOT_TEST % "")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*architecture snapshots written*", "*test_net.txt"])
    text = (pytester.path / "__cnnprobe__" / "test_net" / "test_net.txt").read_text()
    assert "conv  Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))  112  -> (2, 4, 6, 6)" in text.splitlines()
    run().assert_outcomes(passed=1)


def test_changed_architecture_reads_as_a_difference(run, pytester):
    run("--cnnprobe-update", test_net=SNAPSHOT_TEST % "")
    result = run(test_net=SNAPSHOT_TEST % "5")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the architecture differs from its snapshot in 4 lines*", "*-conv  Conv2d(3, 4*", "*+conv  Conv2d(3, 5*"])


def test_snapshot_that_no_test_uses_is_reported(run, pytester):
    run("--cnnprobe-update", test_net=SNAPSHOT_TEST % "")
    old = pytester.path / "__cnnprobe__" / "test_net" / "test_removed.txt"
    old.write_text("")
    result = run()
    result.stdout.fnmatch_lines(["*architecture snapshots not used by any test*", f"*{old.name}"])


def test_snapshots_are_written_and_reported_under_xdist(run, pytester):
    result = run("-n", "2", "--cnnprobe-update", test_net=SNAPSHOT_TEST % "")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*architecture snapshots written*"])
    assert not list(pytester.path.rglob("*.part"))


def test_folder_of_snapshots_can_be_set(run, pytester):
    pytester.makeini("[pytest]\ncnnprobe_snapshot_dir = shapes")
    run("--cnnprobe-update", test_net=SNAPSHOT_TEST % "").assert_outcomes(passed=1)
    assert (pytester.path / "shapes" / "test_net" / "test_net.txt").exists()


def test_probe_fixture_gives_a_report_and_saves_it_when_the_test_fails(run, pytester):
    result = run(
        "--cnnprobe-report=pages",
        test_net="""
            import torch
            from net import Net

            def test_shapes(probe):
                report = probe(Net(), torch.zeros(2, 3, 8, 8))
                assert report.trace["conv"].outputs[0].shape == (2, 4, 9, 9)
        """,
    )
    result.assert_outcomes(failed=1)
    (page,) = (pytester.path / "pages").glob("*.html")
    assert "Conv2d" in page.read_text()


def test_crash_in_any_test_gains_its_explanation(run):
    result = run(
        test_net="""
            import torch
            from net import Crash

            def test_crash():
                Crash()(torch.zeros(2, 3, 8, 8))
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- cnnprobe -*", "*'fc'*"])


def test_failure_without_a_model_gains_nothing(run):
    result = run(test_plain="def test_plain():\n    import torch\n    assert torch.ones(1) == 0")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*- cnnprobe -*")


def test_marked_test_fails_at_the_first_module_that_is_not_finite(run):
    result = run(
        test_net="""
            import pytest, torch
            from net import Net, Odd

            @pytest.mark.cnnprobe(finite=True)
            def test_sound():
                Net()(torch.zeros(2, 3, 8, 8))

            @pytest.mark.cnnprobe(finite=True)
            def test_odd():
                net = Net()
                torch.nn.init.constant_(net.conv.bias, float("nan"))
                net(torch.zeros(2, 3, 8, 8))

            def test_unmarked():
                test_odd()
        """
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*NaN or Inf in the output of module 'conv' (Conv2d)*"])


def test_unknown_check_in_the_marker_is_an_error(run):
    result = run(test_net="import pytest\n\n@pytest.mark.cnnprobe(tidy=True)\ndef test_it():\n    pass")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no check named 'tidy'*"])


def test_model_is_tested_without_a_test_file(run):
    result = run("--cnnprobe", "net.py:Net", "--cnnprobe-input", "2,3,8,8", "-v")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*batch-independent PASSED*"])


def test_model_that_does_not_run_fails_each_check_with_the_module(run):
    result = run("--cnnprobe", "net.py:Crash", "--cnnprobe-input", "2,3,8,8")
    assert 0 != result.ret
    result.stdout.fnmatch_lines(["*module 'fc' (Linear)*"])


def test_traces_compared_by_a_test_show_the_rows_that_differ(run):
    result = run(
        "-o",
        "verbosity_assertions=0",
        test_net="""
            import torch
            from net import Net

            def test_equal(probe):
                x = torch.zeros(2, 3, 8, 8)
                assert probe(Net(4), x).trace == probe(Net(5), x).trace
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the traces differ*", "*-conv  Conv2d  (2, 3, 8, 8) -> (2, 5, 6, 6)*"])


def test_fixtures_work_in_classes_and_with_parametrisation_and_unittest(run):
    result = run(
        "--cnnprobe-update",
        test_net="""
            import unittest
            import pytest, torch
            from net import Net

            class TestNet:
                @pytest.mark.parametrize("width", [2, 3])
                def test_width(self, width, architecture_snapshot):
                    architecture_snapshot(Net(width))

            class Case(unittest.TestCase):
                @pytest.mark.cnnprobe(finite=True)
                def test_it(self):
                    Net()(torch.zeros(2, 3, 8, 8))
        """,
    )
    result.assert_outcomes(passed=3)


def test_options_stand_in_the_help(run):
    result = run("--help")
    result.stdout.fnmatch_lines(
        ["*--cnnprobe-update*", "*--cnnprobe-report=DIR*", "*--cnnprobe=SPEC*", "*--cnnprobe-input=SHAPE*", "*cnnprobe_snapshot_dir*"]
    )


def test_plugin_imports_neither_torch_nor_rich(tmp_path):
    (tmp_path / "test_plain.py").write_text("import sys\n\ndef test_it():\n    assert not {'torch', 'rich', 'numpy'} & set(sys.modules)\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "cnnprobe.pytest_plugin", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # other plugins may import numpy
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
