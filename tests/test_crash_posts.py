"""What is said of crashes that users post, each from a file as they have it: cause, module, repair,
the patch, and nothing of the corrected twin.
"""

import functools
import itertools
import pathlib
import re
import subprocess
import sys
import tempfile
import types

import pytest
import torch
from crashes import (
    posts_code,
    posts_joins,
    posts_lines,
    posts_maps,
    posts_misuse,
    posts_slips,
    posts_steps,
)
from crashes.posts import POSTS
from torch import nn

import cnnprobe
from cnnprobe.crash import Crash, explained
from cnnprobe.recorder import observe

ROOMS = (posts_code, posts_joins, posts_lines, posts_maps, posts_misuse, posts_slips, posts_steps)
CASES = [pytest.param(post, id=post.name) for post in POSTS]
_NUMBERS = itertools.count()


def explain_file(path):
    """What is said of the program in a file."""
    module = types.ModuleType(f"post_{next(_NUMBERS)}")
    module.__file__ = str(path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, module)
        exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
        return explain(module)


@functools.cache
def explain_post(post):
    """What is said of a post as it was written; asked by several tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "net.py"
        path.write_text(post.source)
        return explain_file(path)


def explain(module):
    torch.manual_seed(0)
    model = module.make() if hasattr(module, "make") else module.Net()
    if not hasattr(module, "run"):
        return cnnprobe.probe(model, *module.inputs()).explanation
    try:
        with cnnprobe.record(model) as recording:
            module.run(model)
    except Exception:
        assert recording.explanation is not None
    return recording.explanation


@pytest.mark.parametrize("post", CASES)
def test_fault_module_and_repair_of_a_posted_crash_are_named_and_its_patch_mends_it(post, tmp_path):
    explanation = explain_post(post)
    assert (post.diagnosis, post.blames) == (explanation.diagnosis, explanation.module), (
        explanation.message
    )
    shown = [explanation.message, *(repair.title for repair in explanation.repairs)]
    assert post.repair in " ".join(shown)
    best = explanation.repairs[0]
    if best.patch:
        path = tmp_path / "net.py"
        path.write_text(post.source)
        subprocess.run(
            ["patch", "-s", str(path)],
            input=re.sub(r"(?m)^(---|\+\+\+) .*$", r"\1 net.py", best.patch),
            text=True,
            check=True,
        )
        assert explain_file(path) is None


class Unflattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 36, 2)

    def forward(self, x):
        return self.fc(self.conv(x))


def test_crash_of_a_decorated_class_is_explained_once_though_its_shadows_are_decorated_too():
    kind = cnnprobe.probed(type("Decorated", (Unflattened,), {}))
    with pytest.raises(RuntimeError) as caught:
        kind()(torch.randn(2, 3, 8, 8))
    assert 1 == len(caught.value.__notes__)
    assert caught.value.__notes__[0].startswith("cnnprobe: missing-flatten in 'fc'")


def test_shadow_of_a_distributed_model_does_not_talk_to_other_ranks(monkeypatch):
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(Unflattened())
        seen = observe(model, (torch.randn(2, 3, 8, 8),), {})
        monkeypatch.setattr(nn.parallel.DistributedDataParallel, "forward", None)
        explanation = explained(
            Crash(error=seen.error, model=model, trace=seen.trace, args=(torch.randn(2, 3, 8, 8),))
        )
    finally:
        torch.distributed.destroy_process_group()
    assert ("missing-flatten", "module.fc", ((2, 2),)) == (
        explanation.diagnosis,
        explanation.module,
        explanation.repairs[0].outputs,
    )


@pytest.mark.parametrize("post", CASES)
def test_corrected_twin_of_a_posted_crash_gives_no_explanation(post, tmp_path):
    path = tmp_path / "net.py"
    path.write_text(post.corrected)
    assert explain_file(path) is None


def test_two_fifths_of_the_posted_crashes_have_a_patch():
    found = [any(repair.patch for repair in explain_post(post).repairs) for post in POSTS]
    assert sum(found) >= 0.4 * len(found)


class Halting(torch.autograd.Function):
    """Raises in its backward."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad.view(-1, 3, 7)


def test_backward_that_broke_off_is_not_taken_for_a_second_one():
    model = nn.Linear(8, 4)
    with pytest.raises(RuntimeError), cnnprobe.record(model) as recording:
        Halting.apply(model(torch.randn(2, 8))).pow(2).sum().backward()
    assert "broken-backward" == recording.explanation.diagnosis
