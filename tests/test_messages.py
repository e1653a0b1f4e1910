"""Every message of the assertions as a person reads it: what, where, fix, and all that differs."""

import itertools
import os
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnprobe import testing
from cnnprobe.errors import UsageError
from cnnprobe.pytest_plugin.snapshots import FOLDER, Snapshots, write_whole
from cnnprobe.testing.live_checks import CalledModels, watch
from tests.support.models import Broken, Small, images

TARGETS = torch.tensor([0, 1])


class Altered(Small):
    """`Small` with its forward's result altered."""

    def __init__(self, alter):
        super().__init__()
        self.alter = alter

    def forward(self, x):
        return self.alter(super().forward(x))


class Counting(nn.Module):
    """Adds the number of its calls so far."""

    def __init__(self):
        super().__init__()
        self.calls = itertools.count()

    def forward(self, x):
        return x + next(self.calls)


class Drifting(nn.Module):
    """Counts in a buffer, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.steps.add_(1)
        return x * 2


class Branching(nn.Module):
    """Doubles what is large."""

    def forward(self, x):
        return x * 2 if x.mean() > 1 else x + 0


class Mixing(nn.Module):
    """Takes the sum of the batch from each sample."""

    def forward(self, x):
        return x.flatten(1) - x.flatten(1).sum(0)


def changed(**layers):
    model = Small()
    for name, layer in layers.items():
        setattr(model, name, layer)
    return model


def spoilt():
    model = Small()
    model.fc.weight.data[0, 0] = float("nan")
    return model


def leaking():
    model, kept = Small(), []
    return lambda: kept.append(model(images()).sum())


def elsewhere():
    return torch.optim.Adam(nn.Linear(2, 2).parameters())


def linear():
    return nn.Sequential(nn.Linear(4, 17), nn.Linear(17, 3))


class Loose(nn.Module):
    """Takes whatever it is given."""

    def forward(self, *args, **options):
        return args[0]


def watched(call, **checks):
    with watch(CalledModels(), **checks):
        call()


def snapshot(text, kept):
    """A test's snapshot, `kept` in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        options = {"cnnprobe_snapshot_dir": FOLDER}
        config = SimpleNamespace(rootpath=root, getini=options.get, getoption=lambda _: False)
        item = SimpleNamespace(
            path=root / "test_net.py", nodeid="test_net.py::test_width[4]", config=config
        )
        snapshots = Snapshots(config)
        if kept is not None:
            write_whole(snapshots.path_of(item, ""), kept)
        snapshots.check(item, text, "")


CASES = {
    "parameters": lambda: testing.assert_parameters(Small(), total=446, trainable=440, at_most=400),
    "macs": lambda: testing.assert_macs(Small(), images(), total=14_000, at_most=10_000),
    "memory": lambda: testing.assert_memory(Small(), images(), at_most="1 KiB"),
    "shapes": lambda: testing.assert_shapes(Small(), images(), {"conv": "N 4 H/2 W", "": ("N", 7)}),
    "one shape": lambda: testing.assert_shapes(Small(), images(), {"fc": "N h/2"}),
    "crash": lambda: testing.assert_shapes(Broken(), images(), {"": ("N",)}),
    "architecture": lambda: testing.assert_same_architecture(
        changed(pool=nn.AvgPool2d(2)), Small()
    ),
    "finite": lambda: testing.assert_finite(Altered(lambda y: (y - y.max()).log() * 2), images()),
    "finite parameter": lambda: testing.assert_finite(spoilt(), images()),
    "finite gradient": lambda: testing.assert_finite(Altered(lambda y: (y * 0).sqrt()), images()),
    "gradients": lambda: testing.assert_gradients_reach(changed(extra=nn.Linear(2, 2)), images()),
    "frozen": lambda: testing.assert_gradients_reach(
        Small().requires_grad_(requires_grad=False), images()
    ),
    "change": lambda: testing.assert_parameters_change(
        nn.Linear(2, 2), torch.ones(1, 2), optimizer=elsewhere()
    ),
    "batch": lambda: testing.assert_batch_independent(Mixing(), torch.ones(3, 2)),
    "batch of one": lambda: testing.assert_batch_independent(Small(), images(1)),
    "batch axis": lambda: testing.assert_batch_independent(Altered(lambda y: y.mean(0)), images()),
    "no tensor": lambda: testing.assert_batch_independent(Altered(lambda y: "text"), images()),
    "deterministic": lambda: testing.assert_deterministic(Counting(), torch.ones(2, 3)),
    "eval": lambda: testing.assert_eval_is_stable(Counting(), torch.ones(2, 3)),
    "eval buffers": lambda: testing.assert_eval_is_stable(Drifting(), torch.ones(2, 3)),
    "overfits": lambda: testing.assert_overfits_batch(
        Altered(lambda y: y * 0 + 1.0), images(), TARGETS, loss_fn=F.cross_entropy, steps=3
    ),
    "healthy": lambda: testing.assert_healthy(linear(), torch.randn(8, 4)),
    "graph leak": lambda: testing.assert_no_graph_leak(leaking()),
    "same graph": lambda: testing.assert_same_graph(
        Branching(), torch.zeros(1, 2), torch.full((1, 2), 5.0)
    ),
    "memory unit": lambda: testing.assert_memory(Small(), images(), at_most="1 potato"),
    "pattern": lambda: testing.assert_shapes(Small(), images(), {"convolution": "N"}),
    "dimension": lambda: testing.assert_shapes(Small(), images(), {"conv": "N 4 H/ W"}),
    "two gaps": lambda: testing.assert_shapes(Small(), images(), {"conv": "... 4 ..."}),
    "renaming": lambda: testing.assert_same_architecture(Small(), Small(), rename={"con": "conv"}),
    "nothing to compare": lambda: testing.assert_parameters(Small()),
    "severity": lambda: testing.assert_healthy(Small(), images(), at_least="warn"),
    "marked": lambda: watched(lambda: spoilt()(images()), finite=True),
    "marked check": lambda: watched(images, finit=True),
    "marked keywords": lambda: watched(lambda: Loose()(images(), scale=2), healthy=True),
    "snapshot": lambda: snapshot("conv  (2, 4)\nfc  (2, 3)\n", "conv  (2, 4)\nfc  (2, 5)\n"),
    "snapshot missing": lambda: snapshot("conv  (2, 4)\n", None),
}
MESSAGES = {
    "parameters": """\
Small has 445 parameters, expected 446 (-1); 445 trainable parameters, expected 440 (+5); 445 parameters, at most 400 allowed
  where: most are in 'fc.weight' (5, 64) = 320, 'conv.weight' (4, 3, 3, 3) = 108, 'fc.bias' (5,) = 5
  fix:   compare the layers' sizes with what you meant, or update the number""",
    "macs": """\
Small takes 14,464 multiply-accumulates, expected 14,000 (+464); at most 10,000 allowed
  where: most are in 'conv' 13,824, 'fc' 640
  fix:   compare channels, kernels and strides with what you meant""",
    "memory": """\
Small takes 9,540 bytes, at most 1,024 allowed
  where: 1,820 in parameters and buffers, 7,720 in the outputs of all operations
  fix:   use a smaller batch, fewer channels or an earlier pooling""",
    "shapes": """\
2 shapes differ
  'conv' (Conv2d) gives (2, 4, 8, 8), expected (N, 4, H/2, W) by 'conv': H/2 = 4, not 8
  the model (Small) gives (2, 5), expected (N, 7) by '': 7, not 5
  where: Small, N = 2, H = 8, W = 8
  fix:   fix the first one first: differences in later layers often follow from it""",
    "one shape": """\
1 shape differs
  'fc' (Linear) gives (2, 5), expected (N, h/2) by 'fc': no value is known yet for h
  where: Small, N = 2
  fix:   fix the first one first: differences in later layers often follow from it""",
    "crash": """\
the forward pass raised RuntimeError: Given groups=1, weight of size [6, 5, 3, 3], expected input[2, 4, 6, 6] to have 5 channels, but got 4 channels instead
  channel-mismatch: 'block.2' (Conv2d) expects 5 input channels but got 4 (from 'block.1' (BatchNorm2d)): expected 5 channels, got (2, 4, 6, 6)
  where: module 'block.2' (Conv2d), models.py:LINE
  fix:   set in_channels=4 in 'block.2' (now 5) (tried: the forward passes and gives (2, 6, 4, 4); 342 parameters instead of 396)""",
    "architecture": """\
the architectures differ in 2 lines (- expected, + actual)
   relu  ReLU(inplace=True)  0
  -pool  MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)  0
  +pool  AvgPool2d(kernel_size=2, stride=2, padding=0)  0
   drop  Dropout(p=0.5, inplace=False)  0
  where: Small against Small
  fix:   correct the layer of the first difference, or name it in ignore= or rename=""",
    "finite": """\
9 NaN and 1 Inf among the 10 values of torch.Tensor.log in the forward of Altered, test_messages.py:LINE
  where: the first of 2 operations with such values; its inputs were finite
  fix:   look at what this operation computes from its inputs: a division, a logarithm, an overflow in half precision""",
    "finite parameter": """\
2 NaN and 0 Inf among the 10 values of module 'fc' (Linear)
  where: the only operation with such values; its weight is not finite
  fix:   look at what this operation computes from its inputs: a division, a logarithm, an overflow in half precision""",
    "finite gradient": """\
6 gradients are not finite
  'conv.weight': 108 of 108 values
  'conv.bias': 4 of 4 values
  'bn.weight': 4 of 4 values
  'bn.bias': 4 of 4 values
  'fc.weight': 320 of 320 values
  'fc.bias': 5 of 5 values
  where: Altered
  fix:   start with the last one: the backward pass runs from the end""",
    "gradients": """\
2 of 8 trainable parameters without a gradient
  'extra.weight': no gradient
  'extra.bias': no gradient
  where: Small
  fix:   look for detach(), no_grad(), .data, argmax, or a layer whose result is not used; list parameters that need no gradient in ignore=""",
    "frozen": """\
no parameter is trainable
  where: Small
  fix:   call requires_grad_(True) on the parameters that should learn""",
    "change": """\
2 of 2 trainable parameters did not change in a step
  'weight': is not in the optimizer
  'bias': is not in the optimizer
  where: Linear
  fix:   give the optimizer model.parameters(), and make sure that a gradient reaches each""",
    "batch": """\
changing sample 0 changes the output of sample 1 by up to SO MUCH
  2 of 2 other samples moved
  where: Mixing
  fix:   look for a view or reshape that mixes the batch dim, softmax or a mean over dim 0, or statistics of the batch in eval""",
    "batch of one": """\
a batch of 1 cannot show whether samples are independent
  where: inputs
  fix:   give at least two samples""",
    "batch axis": """\
the output has shape (5,), without a batch dim of 2
  where: Altered
  fix:   keep the batch dim: no squeeze(), view(-1) or mean over dim 0""",
    "no tensor": """\
the output is str, not a tensor
  where: the model
  fix:   return a tensor, or a container with one""",
    "deterministic": """\
two runs from the same random state differ
  output 0: 6 of 6 values, by up to 1
  where: Counting
  fix:   look for a random generator that the model owns, or call torch.use_deterministic_algorithms(True) to find the operation""",
    "eval": """\
two runs in eval mode differ
  output 0: 6 of 6 values, by up to 1
  where: Counting
  fix:   look for F.dropout without training=self.training, or for random numbers in forward""",
    "eval buffers": """\
1 buffer changes in eval mode
  'steps'
  where: Drifting
  fix:   update statistics only while self.training""",
    "overfits": """\
after 3 steps on one batch the loss is 1.609, still 100% of 1.609 (at most 10% allowed)
  where: Altered
  fix:   check that the gradient reaches all layers, the loss fits the output, and the learning rate""",
    "healthy": """\
1 finding
  warning missing-nonlinearity (CP312) in '0': '0' (Linear) feeds '1' (Linear) with no activation between them: 4 to 17 to 3 is one linear map
    fix: nn.ReLU() after model[0] (tried: the two layers are no longer one linear map)
  where: Sequential
  fix:   start with the first, or say why it is intended: ignore={"missing-nonlinearity": "the reason"}""",
    "graph leak": """\
the autograd graph that is kept alive grows by 9 nodes per step
  nodes after each step: ...
  where: what the step keeps
  fix:   keep numbers, not tensors: total += loss.item(), outputs.append(y.detach())""",
    "same graph": """\
the two inputs take different paths: 4 calls and 4
  first: torch.Tensor.add in the forward of Branching, test_messages.py:LINE
  second: torch.Tensor.mul in the forward of Branching, test_messages.py:LINE
  where: call 3 of Branching
  fix:   look for a branch or a loop in forward that depends on values or sizes""",
    "memory unit": """\
'1 potato' is not an amount of memory
  where: at_most
  fix:   give bytes, or a number and a unit: B, KiB, MiB, GiB, kB, MB, GB""",
    "pattern": """\
the pattern 'convolution' matches no called module
  where: 7 called modules
  fix:   known are '', 'conv', 'bn', 'relu', 'pool', 'drop', 'fc' (patterns are fnmatch's: * and ?)""",
    "dimension": """\
'H/' is not a dim
  where: a shape
  fix:   use a number, a name such as "N", arithmetic such as "H/4", None for any size, or "..." for any number of dims""",
    "two gaps": """\
'... 4 ...' has more than one open place
  where: a shape
  fix:   use "..." or "*name" once""",
    "renaming": """\
no module named 'con' to rename
  where: Small
  fix:   did you mean 'conv'?""",
    "nothing to compare": """\
nothing to compare with
  where: assert_parameters(model)
  fix:   give total=, trainable= or at_most=""",
    "severity": """\
no severity 'warn'
  where: assert_healthy(at_least=...)
  fix:   did you mean 'warning'?""",
    "marked": """\
NaN or Inf in the output of module 'fc' (Linear)
  where: Small, given (2, 64)
  fix:   its inputs are finite: check its parameters, and look for a division, a logarithm, or an overflow in half precision""",
    "marked check": """\
no check named 'finit'
  where: @pytest.mark.cnnprobe
  fix:   did you mean 'finite'?""",
    "marked keywords": """\
the health of Loose cannot be judged: its forward takes *args and was called with keywords too
  where: @pytest.mark.cnnprobe(healthy=True)
  fix:   call cnnprobe.testing.assert_healthy on a module that calls it and takes tensors only""",
    "snapshot": """\
the architecture differs from its snapshot in 2 lines (- snapshot, + now)
   conv  (2, 4)
  -fc  (2, 5)
  +fc  (2, 3)
  where: __cnnprobe__/test_net/test_width-4.txt
  fix:   correct the model, or accept the change with pytest --cnnprobe-update""",
    "snapshot missing": """\
there is no snapshot of this architecture yet
  where: __cnnprobe__/test_net/test_width-4.txt
  fix:   run pytest --cnnprobe-update, read the file, and commit it""",
}


def read(failure):
    """The message without paths, without numbers that depend on random weights or on what else is
    alive, and without the diff.
    """
    text = str(failure).replace(
        f"{Path(__file__).parent.parent}{os.sep}", ""
    )  # a path may have spaces
    text = re.sub(r"[^\s,]*/(\w+\.py):\d+", r"\1:LINE", text)
    text = re.sub(r"  the fixes as a diff(.*\n)+?(?=  where)", "", text)
    text = re.sub(r"(nodes after each step: )[\d, ]+", r"\1...", text)
    return re.sub(r"(changes the output of sample 1 by up to )\S+", r"\1SO MUCH", text)


@pytest.mark.parametrize("case", CASES)
def test_message_reads(case):
    with pytest.raises((AssertionError, UsageError)) as failure:
        CASES[case]()
    assert MESSAGES[case] == read(failure.value)


def test_every_assertion_has_its_message():
    said = " ".join(name for check in CASES.values() for name in check.__code__.co_names)
    tested_elsewhere = {
        "assert_equivalent",
        "architecture_text",
    }  # its text is that of the comparison; raises nothing
    assert (
        set() == {name for name in testing.__all__ if name not in said.split()} - tested_elsewhere
    )
