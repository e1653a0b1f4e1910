"""The pytest plugin beside others and in every kind of test: subprocesses that load what is named
and nothing else.
"""

import os
import sys
import textwrap

import pytest

from tests.support.python import fork_workers, run_python, start_server

OPTIONS = {  # by the names of their entry points, as pytest would load them: pytest-randomly looks for xdist by it  # noqa: E501
    "pytest-torch": ["-p", "pytest_torch"],
    "syrupy": ["-p", "syrupy"],
    "xdist": ["-p", "xdist", *fork_workers(2)],
    "randomly": ["-p", "randomly"],
}
SUITE = """
    import unittest

    import pytest
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, width, 3), nn.Linear(width * 36, 2)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x)).flatten(1))

    class TestNet:
        @pytest.fixture(scope="class")
        @classmethod
        def net(cls):
            return Net()

        @pytest.mark.parametrize("batch", [1, 2])
        def test_output(self, net, batch, probe, architecture_snapshot):
            images = torch.zeros(batch, 3, 8, 8)
            assert (batch, 2) == probe(net, images).trace["fc"].outputs[0].shape
            architecture_snapshot(net, images)

    @pytest.mark.parametrize("width", [2, 3])
    @pytest.mark.cnnprobe(finite=True, healthy=True)
    def test_width(width):
        nn.CrossEntropyLoss()(Net(width)(torch.randn(2, 3, 8, 8)), torch.tensor([0, 1]))

    class Case(unittest.TestCase):
        def setUp(self):
            self.net = Net()

        @pytest.mark.cnnprobe(finite=True)
        def test_spoilt(self):
            nn.init.constant_(self.net.conv.bias, float("nan"))
            self.net(torch.zeros(2, 3, 8, 8))

        @pytest.mark.cnnprobe(finite=True)
        def test_crash(self):
            self.net(torch.zeros(2, 5, 8, 8))

    def test_monitored(cnnprobe_monitor):
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        watched = cnnprobe_monitor(net, optimizer)
        for _ in range(2):
            optimizer.zero_grad()
            net(torch.ones(2, 3, 8, 8)).square().mean().backward()
            optimizer.step()
        assert (0, 1) == watched.history.steps
"""
OF_OTHERS = {
    "pytest-torch": """
    @pytest.mark.torch_default_dtype("float64")
    def test_of_pytest_torch(make_tensor, torch_seed, architecture_snapshot):
        assert torch.float64 == torch.get_default_dtype()
        architecture_snapshot(Net(), make_tensor(2, 3, 8, 8).double())
""",
    "syrupy": """
    def test_of_syrupy(snapshot, architecture_snapshot):
        assert [str(p.shape) for p in Net().parameters()] == snapshot
        architecture_snapshot(Net())
""",
}


def run(tmp_path, others, *options):
    command = [
        "-m",
        "pytest",
        "-p",
        "cnnprobe.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "-W",
        "error::UserWarning",
    ]
    for other in others:
        command += OPTIONS[other]
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
    }  # it is no worker of the run that it is in
    done = run_python(
        *command,
        *options,
        cwd=tmp_path,
        env={
            **own,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "COLUMNS": "120",
            "FORK_SERVER": start_server(),
            "FORK_WITHOUT": "cnnprobe",
        },
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "others", [["pytest-torch"], ["syrupy", "xdist", "randomly"]], ids=" ".join
)
def test_every_kind_of_test_does_the_same_beside_other_plugins(tmp_path, others):
    (tmp_path / "test_net.py").write_text(
        textwrap.dedent(SUITE + "".join(OF_OTHERS.get(other, "") for other in others))
    )
    of_others = sum(other in OF_OTHERS for other in others)
    update = ["--snapshot-update"] if "syrupy" in others else []
    run(tmp_path, others, "--cnnprobe-update", *update)
    folder = tmp_path / "__cnnprobe__" / "test_net"
    written = {path.name for path in folder.iterdir()}
    assert (
        2 + of_others == len(written)
        and {"TestNet.test_output-1.txt", "TestNet.test_output-2.txt"} < written
    )
    said = run(tmp_path, others)
    assert f"2 failed, {5 + of_others} passed" in said, said
    assert "NaN or Inf in the output of module 'conv' (Conv2d)" in said, said
    assert "cnnprobe: channel-mismatch" in said and "set in_channels=5 in 'conv'" in said, said
    assert "not used by any test" not in said, said


def test_update_of_one_plugin_leaves_the_snapshots_of_the_other(tmp_path):
    (tmp_path / "test_net.py").write_text(
        textwrap.dedent(SUITE.partition("    class TestNet")[0] + OF_OTHERS["syrupy"])
    )
    said = run(tmp_path, ["syrupy"], "--snapshot-update")
    assert (
        "there is no snapshot of this architecture yet" in said and "1 snapshot generated" in said
    ), said
    assert not (tmp_path / "__cnnprobe__").exists()
