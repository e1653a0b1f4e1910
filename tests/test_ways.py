"""What each verb does with each way in which PyTorch runs a model is what the table in the docs
says.
"""

import dataclasses
import pathlib

import pytest
import torch
from torch import nn
from torch.masked import masked_tensor
from torch.nn.utils import parametrizations, parametrize

import cnnprobe
from cnnprobe.errors import TargetError
from tests.support import ways
from tests.support.memory import measure_allocations

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "reference" / "ways.md"


@pytest.fixture(autouse=True)
def no_process_group_left():
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def skip_what_torch_lacks(name):
    if name == "FSDP2 (fully_shard)" and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip(f"torch {torch.__version__} has FSDP2 for GPUs only")


@pytest.mark.parametrize("name", ways.WAYS)
def test_every_verb_does_with_a_way_what_the_docs_say(name):
    skip_what_torch_lacks(name)
    assert ways.row(name) in PAGE.read_text().splitlines()
    assert 0 == torch._C._len_torch_function_stack()


def test_docs_list_every_way_once():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert ["way", *ways.WAYS] == [line.split(" | ")[0].removeprefix("| ") for line in rows]


# Other ways allocate besides what tensors need: a compiler, the saved state of a generator.
EXACT = [
    "eager", "torch.fx.symbolic_trace", "autocast", "DataParallel", "parametrized", "spectral_norm",
    "functional_call", "vmap over the model", "vmap in the forward", "a tensor subclass",
    "the model on a thread", "called in coroutines", "an output nested 3,000 deep",
    "an output computed on read", "a copy made in the forward", "lazy",
]  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_memory_of_a_way_is_to_the_byte_what_torchs_allocator_gave(name):
    way = ways.make(name)
    found = cnnprobe.memory(way.model, *way.args, loss_fn=way.loss).find_way()
    again = ways.make(name)
    (x,) = again.args
    real = measure_allocations(again.model, x, forward=lambda x: again.loss(again.model(x)))
    assert real == max(found.given.peak, found.step + len(x) * found.step_slope)


@dataclasses.dataclass
class Data(nn.Module):
    """A dataclass that compares by value, and so has no hash."""

    width: int = 3

    def __post_init__(self):
        super().__init__()
        self.fc = nn.Linear(4, self.width)

    def forward(self, x):
        return self.fc(x)


@dataclasses.dataclass(unsafe_hash=True)
class Hashed(Data):
    pass


def test_model_without_a_hash_is_seen_where_torch_does_not_list_its_parameters():
    model, x = Data(), torch.ones(2, 4)
    assert cnnprobe.probe(model, x).trace["fc"].completed
    with cnnprobe.record(model) as recording:
        output = model(x)
    assert recording.trace["fc"].completed
    assert "fc" in {node.module for node in cnnprobe.autograd_graph(output, model).nodes}
    cnnprobe.probed(model)(x)
    assert cnnprobe.last_report(model).trace["fc"].completed


REFUSING = {
    "compare": lambda m, x: cnnprobe.compare(m, m, x),
    "refactor": cnnprobe.refactor,
    "diagnose": cnnprobe.diagnose,
    "monitor": lambda m, x: cnnprobe.monitor(m).__enter__(),
    "memory": cnnprobe.memory,
    "measure": lambda m, x: cnnprobe.measure(m, [x]),
}


@pytest.mark.parametrize("verb", REFUSING)
def test_model_without_a_hash_is_refused_where_its_parameters_are_listed(verb):
    with pytest.raises(TargetError, match="no hash, so torch cannot list the param") as caught:
        REFUSING[verb](nn.Sequential(Data()), torch.ones(2, 4))
    assert "'0' (Data)" in caught.value.what
    assert "@dataclass(eq=False)" in caught.value.fix


def test_reports_of_equal_models_are_apart():
    first, second = Hashed(), Hashed()
    assert first == second
    cnnprobe.probed(first)(torch.ones(2, 4))
    cnnprobe.probed(second)(torch.ones(7, 4))
    assert (2, 3) == cnnprobe.last_report(first).trace["fc"].outputs[0].shape
    assert (7, 3) == cnnprobe.last_report(second).trace["fc"].outputs[0].shape


@pytest.mark.parametrize("verb", [cnnprobe.probe, cnnprobe.shapes, cnnprobe.memory])
def test_cached_parametrization_is_afterwards_the_same_tensor(verb):
    model = parametrizations.orthogonal(nn.Linear(4, 3))
    with parametrize.cached():
        weight = model.weight
        verb(model, torch.ones(2, 4))
        assert weight is model.weight


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        y = self.fc(x)
        return y, masked_tensor(y.detach(), y > 0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_memory_leaves_out_autocast_alone_where_that_alone_raises():
    found = cnnprobe.memory(Masked(), torch.ones(2, 4), loss_fn=lambda out: out[0].mean())
    assert ["", ""] == [way.autocast for way in found.data.ways]
    notes = [note for note in found.data.notes if "under bfloat16 autocast is left out" in note]
    assert ["training", "inference"] == [note.partition(" ")[0] for note in notes]


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_diagnose_leaves_masked_tensors_out_of_its_comparisons():
    report = cnnprobe.diagnose(
        Masked(), torch.randn(5, 4), torch.ones(5, 3), loss_fn=lambda out, y: (out[0] - y).mean()
    )
    assert report.trace["fc"].completed


class Fixed(nn.Linear):
    """Refuses to be changed."""

    def __setattr__(self, name, value):
        if name == "training" and "weight" in self._parameters:
            raise TypeError("it is fixed")
        super().__setattr__(name, value)


def test_model_that_refuses_another_mode_is_refused_in_one_sentence():
    with pytest.raises(TargetError, match=r"train\(False\) of the model raised TypeError: it is"):
        cnnprobe.refactor(Fixed(4, 3), torch.ones(2, 4))
    assert cnnprobe.probe(Fixed(4, 3), torch.ones(2, 4)).ok


OFFLOADED = {
    "diagnose": cnnprobe.diagnose,
    "monitor": lambda m, x: cnnprobe.monitor(m).__enter__(),
    "memory": cnnprobe.memory,
}


@pytest.mark.parametrize("verb", OFFLOADED)
def test_offloaded_weights_are_named_as_such(verb):
    """accelerate leaves `_hf_hook` at a module whose weights it has put elsewhere."""
    model = nn.Sequential(nn.Linear(4, 3, device="meta"))
    model[0]._hf_hook = object()
    with pytest.raises(TargetError, match="the weights of '0' are offloaded") as caught:
        OFFLOADED[verb](model, torch.ones(2, 4))
    assert "remove_hook_from_submodules" in caught.value.fix


class Unexplained(nn.Module):
    def forward(self, x):
        raise KeyError("odd")


def test_shapes_names_the_error_where_its_cause_is_unknown():
    with pytest.raises(TargetError, match="passes at no size: KeyError: 'odd'") as caught:
        cnnprobe.shapes(Unexplained(), torch.ones(2, 4))
    assert "cnnprobe.probe" in caught.value.fix


def test_shapes_only_probe_takes_a_packed_sequence():
    way = ways.make("a packed sequence")
    report = cnnprobe.probe(way.model, *way.args, shapes_only=True)
    assert (10, 3) == report.trace["rnn"].outputs[0].shape
