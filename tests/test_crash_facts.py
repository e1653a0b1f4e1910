"""The facts that causes share: found once for a crash, and the same as by looking further."""

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.crash.crash import Crash, find_once
from cnnprobe.crash.facts.features import USUAL_SIZES
from cnnprobe.crash.facts.trees import parse_text
from tests.support.examples import make_folder, open_program

BODIES = {
    "plain": lambda: (nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)),
    "padded": lambda: (nn.Conv2d(1, 2, 5, stride=3, padding=2), nn.AvgPool2d(3, ceil_mode=True)),
    "dilated": lambda: (nn.Conv2d(1, 2, 3, dilation=4, stride=4),),
    "widening": lambda: (nn.Conv2d(1, 2, 7, stride=5), nn.ConvTranspose2d(2, 2, 3, stride=2)),
}


def test_fact_is_found_once_for_each_crash():
    asked = []

    @find_once
    def find_error(crash):
        """What was raised."""
        asked.append(crash)
        return crash.error

    first, second = Crash(error=ValueError("a")), Crash(error=ValueError("b"))
    assert [first.error, first.error] == [find_error(first), find_error(first)]
    assert second.error is find_error(second)
    assert [first, second] == asked
    assert "What was raised." == find_error.__doc__


def test_file_is_parsed_once_for_all_causes_and_patches():
    text = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(4, 8)
        self.fc2 = nn.Linear(9, 2)

    def forward(self, x):
        return self.fc2(self.fc1(x))


model, args = Net(), (torch.ones(3, 4),)
"""
    module = open_program(text, make_folder())
    before = parse_text.cache_info().misses
    explanation = cnnprobe.probe(module.model, *module.args).explanation
    assert "nn.Linear(8, 2)" in explanation.repairs[0].patch
    assert 1 == parse_text.cache_info().misses - before


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("size", [16, 28, 96, 227, 512])
def test_usual_size_that_is_proposed_is_the_smallest_for_which_torch_counts_the_features(
    name, size
):
    counts = {n: _count_features(name, n) for n in USUAL_SIZES}
    wanted = counts[size]
    smallest = min(n for n, count in counts.items() if count == wanted)
    given = max(n for n, count in counts.items() if count != wanted and n < 400)
    model = nn.Sequential(*BODIES[name](), nn.Flatten(), nn.Linear(wanted, 2))
    explanation = cnnprobe.probe(model, torch.zeros(2, 1, given, given)).explanation
    titles = [repair.title for repair in explanation.repairs]
    assert any("input" in t and f"{smallest} x {smallest}" in t for t in titles), titles


def _count_features(name, size):
    with torch.device("meta"):
        body = nn.Sequential(*BODIES[name](), nn.Flatten())
        return body(torch.zeros(1, 1, size, size)).shape[1]
