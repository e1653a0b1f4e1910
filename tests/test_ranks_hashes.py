"""The hashes by which ranks are compared: equal where the bits are equal, by hand arithmetic, and
taken of what the parameters and buffers are in each step.
"""

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.monitoring import fingerprints
from cnnprobe.monitoring.fingerprints import Fingerprints, hash_batch, sum_on_device
from cnnprobe.stats.native import load_kernel
from tests.support.loops import small

GOLDEN = 0x9E3779B97F4A7C15


def read(tensor):
    return Fingerprints().take([tensor]).read()


def compute(tensor):
    """The hash, word by word: the weight of word i is that of its column and that of its row."""
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    total = 0
    for i in range(0, len(data), 8):
        row, column = divmod(i // 8, 1024)
        weight = ((GOLDEN * column) % 2**64 | 1) + 2 * GOLDEN * row
        total += int.from_bytes(data[i : i + 8], "little") * weight
    total %= 2**64
    return f"{(total ^ total >> 32) & 0xFFFFFFFF:08x}"


@pytest.fixture(params=["kernel", "NumPy"])
def way(request, monkeypatch):
    if request.param == "NumPy":
        monkeypatch.setattr(fingerprints, "load_kernel", lambda: None)
    elif load_kernel() is None:
        pytest.skip("NO C KERNEL HERE: it was not tested")


SIZES = [1, 1023, 2048, 2049, 2**15, 2**16 + 3, 2**18 + 1]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_the_hash_is_the_sum_of_the_words_times_the_weights_of_their_places(size, dtype):
    tensor = (torch.randn(size, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    assert compute(tensor) == read(tensor)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_one_changed_element_changes_the_hash_and_a_copy_does_not(size, dtype):
    tensor = (torch.arange(size) % 7).to(dtype)
    prints = Fingerprints()
    before = prints.take([tensor]).read()
    assert before == prints.take([tensor]).read() == read(tensor.clone())
    for place in {0, size // 2, size - 1}:
        kept = tensor[place].clone()
        tensor[place] = not kept if dtype is torch.bool else kept + 1
        assert before != prints.take([tensor]).read()
        tensor[place] = kept
    assert before == prints.take([tensor]).read()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("others", [(0, 1), (5, 70_001), (0, 2048), (7, 2**17 + 7), (0, 2**18 - 1)])
def test_two_exchanged_elements_change_the_hash(others):
    tensor = torch.arange(2**18, dtype=torch.float32)
    before, (a, b) = read(tensor), others
    tensor[[a, b]] = tensor[[b, a]]
    assert before != read(tensor)


@pytest.mark.usefixtures("way")
def test_exchanged_parts_as_of_shards_in_the_wrong_order_change_the_hash():
    weight = torch.randn(64, 2048, generator=torch.Generator().manual_seed(0))
    assert read(weight) != read(weight.roll(32, 0))
    assert read(weight) != read(weight[torch.tensor([1, 0, *range(2, 64)])])


def test_a_tensor_that_lies_elsewhere_or_has_another_size_is_read_anew():
    prints = Fingerprints()
    for tensor in (torch.ones(5), torch.ones(5), torch.ones(7), torch.ones(4, 3, 2, 2)):
        whole = torch.cat([torch.zeros(1), tensor.reshape(-1)])
        assert read(tensor) == prints.take([tensor]).read()
        assert read(tensor) == prints.take([whole[1:]]).read(), "four bytes from a word"


def test_channels_last_is_hashed_as_it_lies():
    image = torch.randn(2, 3, 5, 7)
    last = image.to(memory_format=torch.channels_last)
    assert read(last) == compute(image.permute(0, 2, 3, 1))


def test_the_hash_of_a_device_is_the_sum_of_its_words_times_odd_numbers():
    words = torch.tensor([3.5, -1.0]).view(torch.int32).tolist()
    assert words[0] + 3 * words[1] == int(sum_on_device(torch.tensor([3.5, -1.0])))


@pytest.mark.parametrize("shape", [(4, 3, 6, 6), (64, 3, 32, 32), (7,), (2, 5000)])
def test_two_batches_have_two_hashes_and_a_copy_has_the_same(shape):
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    same = hash_batch([batch]).read()
    assert same == hash_batch([batch.clone()]).read()
    other = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert same != hash_batch([other]).read()
    if len(batch) > 1:
        assert same != hash_batch([batch.roll(1, 0)]).read()


# -- in a loop: this process is one of two, by what torchrun says ----------------------------------


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")


class Loop:
    """A plain loop under a monitor; keeps what the parameters were when each forward began."""

    def __init__(self, model, **options):
        self.model, self.expected = model, []
        self.optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        self.watched = cnnprobe.monitor(model, self.optimizer, **options)

    def step(self, update=True):
        self.expected.append("".join(compute(p) for p in self.model.parameters()))
        self.optimizer.zero_grad()
        self.model(torch.randn(4, 3, 8, 8)).sum().backward()
        if update:
            self.optimizer.step()

    def run(self, before=lambda step: None):
        with self.watched:
            for step in range(4):
                before(step)
                self.step()
        self.expected.append("".join(compute(p) for p in self.model.parameters()))
        return self.list_hashes()

    def list_hashes(self, what="parameters"):
        return [getattr(step, what) for step in self.watched.history.rank.steps]


def freeze(model):
    model[0].weight.requires_grad_(False)
    return model


def write_past_autograd(model, step):
    model[0].weight.data[0, 0, 0, 0] = step + 5.0  # no counter of versions sees it


def put_in_place(model, step):
    model[3].bias.data = torch.full((5,), float(step))


@pytest.mark.usefixtures("two", "way")
@pytest.mark.parametrize("make", [small, lambda: freeze(small())])
@pytest.mark.parametrize("before", [lambda model, step: None, write_past_autograd, put_in_place])
@pytest.mark.parametrize("what", [("parameter", "update"), ("activation",)])
def test_each_step_has_the_hashes_of_what_its_forward_began_with(make, before, what):
    model = make()
    loop = Loop(model, what=what)
    assert loop.run(lambda step: before(model, step)) == loop.expected


@pytest.mark.usefixtures("two")
def test_a_closure_that_runs_the_model_within_the_step_is_hashed_before_it():
    model = small()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=2)
    x, expected = torch.randn(4, 3, 8, 8), []

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    with cnnprobe.monitor(model, optimizer) as watched:
        for _ in range(3):
            expected.append("".join(compute(p) for p in model.parameters()))
            optimizer.step(closure)
    assert expected == [step.parameters for step in watched.history.rank.steps][:3]


@pytest.mark.usefixtures("two")
def test_a_buffer_that_is_put_anew_in_each_pass_is_the_one_that_is_hashed():
    class Counting(nn.Sequential):
        def forward(self, x):
            self.count = self.count + 1
            return super().forward(x)

    model = Counting(*small())
    model.register_buffer("count", torch.zeros(()))
    loop = Loop(model)
    loop.run()
    counts = [compute(torch.tensor(float(step))) for step in range(4)]
    assert counts == loop.list_hashes("buffers")[:4]
