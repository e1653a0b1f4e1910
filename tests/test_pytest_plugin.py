"""The pytest plugin, each option and fixture, in runs of its own."""

import os
import subprocess
import sys

import pytest

from tests.support.plugin_runs import prepare_run

pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester, monkeypatch):
    return prepare_run(pytester, monkeypatch)


def test_pages_are_written_of_the_models_that_failing_tests_used(run, pytester):
    result = run(
        "--cnnprobe-report=pages",
        test_net="""
            import pytest, torch
            from net import Crash, Linear, Net
            from cnnprobe.testing import assert_healthy, assert_shapes

            def test_probed(probe):
                report = probe(Net(), torch.zeros(2, 3, 8, 8))
                assert report.trace["conv"].outputs[0].shape == (2, 4, 9, 9)

            def test_called():
                assert Net()(torch.zeros(2, 3, 8, 8)) is None

            def test_asserted():
                assert_shapes(Net(), torch.zeros(2, 3, 8, 8), {"conv": "N 5 H W"})

            def test_sick():
                assert_healthy(Linear(), torch.randn(2, 3, 8, 8))

            @pytest.fixture
            def features():
                return Crash()(torch.zeros(2, 3, 8, 8))

            def test_set_up(features):
                pass

            def test_passes(probe):
                probe(Net(), torch.zeros(2, 3, 8, 8))

            def test_without_model():
                assert 1 == 2
        """,
    )
    result.assert_outcomes(failed=5, errors=1, passed=1)
    pages = {
        path.stem.removeprefix("test_net.py_"): path.read_text()
        for path in (pytester.path / "pages").iterdir()
    }
    assert {"test_probed", "test_called", "test_asserted", "test_sick", "test_set_up"} == set(pages)
    assert all("Conv2d" in page for page in pages.values())
    assert "missing-nonlinearity" in pages["test_sick"]
    result.stdout.fnmatch_lines(["*- cnnprobe report -*", "pages/test_net.py_test_set_up.html"])


def test_folder_of_pages_can_be_set_from_the_root_of_the_project(run, pytester):
    pytester.makeini("[pytest]\ncnnprobe_report_dir = pages")
    run(
        test_net=(
            "import torch, net\n\ndef test_called():\n    assert net.Net()(torch.zeros(2, 3, 8, "
            "8)) is None"
        )
    ).assert_outcomes(failed=1)
    (page,) = (pytester.path / "pages").iterdir()
    assert "test_called" in page.name and "Conv2d" in page.read_text()


TRAINING = """
    import torch
    from torch import nn
    from net import Net

    def train(model, watch):
        loss_fn, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1)
        watched = watch(model, optimizer, loss_fn=loss_fn)
        for _ in range(3):
            optimizer.zero_grad()
            loss_fn(model(torch.ones(2, 3, 8, 8)), torch.tensor([0, 1])).backward()
            optimizer.step()
        return watched

    def test_steps(cnnprobe_monitor):
        model = Net()
        test_steps.watched = train(model, cnnprobe_monitor), model
        assert 3 == len(test_steps.watched[0].history.curve("loss").values)

    def test_is_over_with_the_test():
        watched, model = test_steps.watched
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert (0, 1, 2) == watched.history.steps

    def test_fails(cnnprobe_monitor):
        assert train(Net(), cnnprobe_monitor) is None
"""  # noqa: E501


def test_monitor_fixture_watches_a_training_until_the_test_ends(run, pytester):
    run("--cnnprobe-report=pages", test_net=TRAINING).assert_outcomes(passed=2, failed=1)
    (page,) = (pytester.path / "pages").iterdir()
    assert "test_fails" in page.name and "loss" in page.read_text()


CRASHES = """
    import torch, torch.nn.functional as F
    from torch import nn
    from net import Crash, Net

    def test_forward():
        Crash()(torch.zeros(2, 3, 8, 8))

    def test_loss():
        nn.CrossEntropyLoss()(Net()(torch.zeros(2, 3, 8, 8)), torch.tensor([0, 2]))

    def test_backward():
        Net()(torch.zeros(2, 3, 8, 8)).backward()
"""


def test_crash_in_any_test_gains_its_explanation_unless_switched_off(run):
    result = run(test_net=CRASHES)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*- cnnprobe -*",
            "cnnprobe: missing-flatten in *",
            "  fix: *flatten*tried: the forward passes and gives (2, 2)*",
            "cnnprobe: label-range*",
            "cnnprobe: non-scalar-loss*",
        ]
    )
    run("-o", "cnnprobe_explain=false").stdout.no_fnmatch_line("*- cnnprobe -*")


def test_failure_without_a_model_gains_nothing(run):
    result = run(test_plain="def test_plain():\n    import torch\n    assert torch.ones(1) == 0")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*- cnnprobe -*")


def test_marked_test_fails_at_the_first_module_that_is_not_finite(run):
    result = run(
        test_net="""
            import pytest, torch
            from net import Net

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


HEALTH = """
    import pytest, torch
    from net import Linear, Net

    @pytest.mark.cnnprobe(healthy=True)
    def test_sound():
        torch.nn.CrossEntropyLoss()(Net()(x=torch.randn(2, 3, 8, 8)), torch.tensor([0, 1]))

    @pytest.mark.cnnprobe(healthy=True)
    def test_sick():
        Linear()(torch.randn(2, 3, 8, 8))

    @pytest.mark.cnnprobe(tidy=True)
    def test_unknown():
        pass

    def test_unmarked():
        net = Linear()
        torch.nn.init.ones_(net.conv.weight)
        net(torch.full((2, 3, 8, 8), 3e38))
"""


def test_marked_test_is_held_to_every_rule(run):
    result = run(test_net=HEALTH)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "E*AssertionError: 1 finding",
            "E*missing-nonlinearity (CP312) in 'conv'*",
            "E*no check named 'tidy'*",
        ]
    )


def test_every_test_is_held_to_what_the_ini_file_asks_for(run, pytester):
    pytester.makeini("[pytest]\ncnnprobe_checks = finite")
    result = run("-k", "unmarked", test_net=HEALTH)
    result.assert_outcomes(failed=1, deselected=3)
    result.stdout.fnmatch_lines(["E*NaN or Inf in the output of module 'conv' (Conv2d)"])


def test_model_is_tested_without_a_test_file(run):
    result = run(
        "--cnnprobe", "net.py:Net", "--cnnprobe-arg", "width=3", "--cnnprobe-input", "1,3,8,8", "-v"
    )
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(["*collected 7 items*", "net.py:Net::batch-independent PASSED*"])


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
    result.stdout.fnmatch_lines(
        ["*Trace of Net == Trace of Net*", "*-conv  Conv2d  (2, 3, 8, 8) -> (2, 5, 6, 6)*"]
    )


def test_options_stand_in_the_help(run):
    result = run("--help")
    result.stdout.fnmatch_lines(
        [
            "*--cnnprobe-update*",
            "*--cnnprobe-report=DIR*",
            "*--cnnprobe=SPEC*",
            "*--cnnprobe-input=SHAPE*",
            "*--cnnprobe-arg=*",
            *(f"*cnnprobe_{key}*" for key in ("snapshot_dir", "report_dir", "checks", "explain")),
        ]
    )


def test_plugin_imports_neither_torch_nor_rich(tmp_path):
    (tmp_path / "test_plain.py").write_text(
        "import sys\n\ndef test_it():\n    assert not {'torch', 'rich', 'numpy'} & "
        "set(sys.modules)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "cnnprobe.pytest_plugin",
            "-p",
            "no:cacheprovider",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # other plugins may import numpy
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


SICK_LOOP = """import torch
import torch.nn.functional as F
from torch import nn

from cnnprobe.testing import assert_healthy

model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 3)).eval()
images, labels = torch.randn(12, 6), torch.arange(12) % 3
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(images, labels):
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def test_training():
    assert_healthy(model, images, labels, optimizer=optimizer, train_step=step)
"""


def test_failure_shows_all_proven_fixes_as_one_diff_of_the_test_file(run):
    text = run(test_loop=SICK_LOOP).stdout.str()
    assert "all fixes together: 2 of 2 kinds of findings are gone" in text
    for line in ("+    model.train()", "+    optimizer.zero_grad()"):
        assert line in text
    # In continuous integration pytest repeats the whole message in its summary.
    shown = [line for line in text.splitlines() if line.startswith("E ")]
    assert 1 == sum("--- a/" in line for line in shown)
