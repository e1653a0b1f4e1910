"""The command `cnnprobe graph`: what it prints, what it writes, how it exits."""

import json
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner

from cnnprobe.cli import main

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.spare = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        x = torch.relu(self.first(x))
        return self.second(x) if self.runs % 2 == 0 else x

class Stores(Net):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(self.first(x))
        return torch.relu(self.seen[-1])

class Carries(Net):
    state = 0

    def forward(self, x):
        self.state = torch.tanh(self.first(x) + self.state)
        return self.state

class Crashes(Net):
    def forward(self, x):
        return self.first(x.reshape(-1, 2))
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    (tmp_path / "graphed_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return "graphed_net.py:Net"


def run(*arguments):
    return CliRunner().invoke(main, ["graph", *arguments, "--input", "1,3"])


def test_graph_prints_a_table_of_the_modules(spec):
    result = run(spec)
    assert 0 == result.exit_code
    assert ["input", "first", "relu"] == [
        line.split()[1] for line in result.stdout.splitlines() if line[:1].isdigit()
    ]


def test_graph_writes_a_picture_and_says_so(spec, tmp_path):
    result = run(spec, "-o", "graph.svg")
    assert (0, "", "wrote graph.svg") == (
        result.exit_code,
        result.stdout,
        result.stderr.strip().splitlines()[-1],
    )
    assert ET.parse(tmp_path / "graph.svg").getroot().tag.endswith("svg")


def test_graph_shows_autograds_own_view(spec):
    result = run(spec, "--view", "autograd", "--format", "json")
    names = [node["name"] for node in json.loads(result.stdout)["nodes"]]
    assert [
        "AccumulateGrad",
        "TBackward0",
        "AccumulateGrad",
        "AddmmBackward0",
        "ReluBackward0",
    ] == names


def test_graph_runs_twice_and_tells_the_branch_that_was_taken(spec):
    result = run(spec, "--runs", "2")
    assert "'second' (Linear) ran once instead of not at all" in result.stdout


def test_graph_lists_the_parameters_without_a_gradient(spec):
    names = {line.partition(":")[0] for line in run(spec, "--unreached").stdout.splitlines()}
    assert {"second.weight", "second.bias", "spare.weight", "spare.bias"} == names


def test_graph_says_that_nothing_keeps_the_graph_of_a_sound_model(spec):
    assert "run 1: its graph was freed after backward\n" == run(spec, "--kept").stdout


def test_graph_tells_the_list_that_keeps_what_each_run_has_put_out(spec):
    lines = run("graphed_net.py:Stores", "--kept", "--runs", "2").stdout.splitlines()
    life = "its graph is kept alive by an item of the list 'seen' of a Stores: 12 B of tensors"
    assert [f"run 1: {life}", f"run 2: {life}"] == lines[-2:]


def test_graph_tells_the_state_through_which_a_second_backward_fails(spec):
    lines = run("graphed_net.py:Carries", "--kept", "--runs", "2").stdout.splitlines()
    assert any(
        "run 2: backward raised: Trying to backward through the graph a second time" in line
        for line in lines
    )
    assert "run 1: its graph is kept alive by the graph behind 'state' of a Carries" == lines[-3]


def test_graph_of_a_model_that_crashes_exits_with_3_and_says_where_to_look(spec):
    result = run("graphed_net.py:Crashes")
    assert 3 == result.exit_code
    assert (
        "the forward pass raised RuntimeError" in result.stderr
        and "cnnprobe probe" in result.stderr
    )


@pytest.mark.parametrize("arguments", [("-o", "graph.xyz"), ("--around", "frist")])
def test_graph_exits_with_2_on_a_name_that_is_not_there(spec, arguments):
    assert 2 == run(spec, *arguments).exit_code
