"""What each verb does with each way in which PyTorch runs a model is what the table in the docs says."""

import pathlib

import pytest
import torch

from tests.support import ways

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "reference" / "ways.md"


@pytest.fixture(autouse=True)
def no_process_group_left():
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ways.WAYS)
def test_every_verb_does_with_a_way_what_the_docs_say(name):
    assert ways.row(name) in PAGE.read_text().splitlines()
    assert 0 == torch._C._len_torch_function_stack()


def test_docs_list_every_way_once():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert ["way", *ways.WAYS] == [line.split(" | ")[0].removeprefix("| ") for line in rows]
