"""The memory of a model as a function of the batch, held against what torch itself allocates."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import cnnprobe
from cnnprobe.records import reading, schema
from cnnprobe.records.memory import MemoryNeed
from cnnprobe.sizing.memory import parse_size
from reference_models import SimpleCNN
from tests.support.memory import Blocks, UNet, measure_allocations


def count_saved(make_loss):
    """Bytes that autograd keeps: each storage once, by torch's own hooks."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = make_loss()
    return kept, loss


def test_saved_bytes_are_those_that_autograd_keeps():
    model, x = Blocks().train(), torch.randn(4, 3, 16, 16)
    kept, loss = count_saved(lambda: model(x).mean())
    for tensor in (x, *model.parameters(), *model.buffers()):
        kept.pop(tensor.data_ptr(), None)
    found = cnnprobe.memory(model, x).find_way().given
    # besides, the loss itself is alive
    assert sum(kept.values()) + loss.nbytes == found.saved


def test_state_is_what_an_optimizer_keeps_after_a_step():
    x = torch.zeros(4, 3, 8, 8)
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    for name, make in makers.items():
        model = Blocks()
        optimizer = make(model.parameters())
        model(x).mean().backward()
        optimizer.step()
        state = sum(
            value.nbytes
            for values in optimizer.state.values()
            for value in values.values()
            if isinstance(value, torch.Tensor)
        )
        assert state == cnnprobe.memory(Blocks(), x, optimizer=name).data.state, name


def test_optimizer_of_the_user_lends_its_settings():
    model, x = Blocks(), torch.zeros(4, 3, 8, 8)
    amsgrad = torch.optim.Adam(model.parameters(), amsgrad=True)
    plain = cnnprobe.memory(model, x).data
    found = cnnprobe.memory(model, x, optimizer=amsgrad).data
    # three moments in place of two
    assert plain.parameters == sum(p.nbytes for p in model.parameters())
    assert plain.parameters == found.state - plain.state
    assert {} == dict(amsgrad.state) and model.head.weight.grad is None
    own = cnnprobe.memory(model, x, optimizer=torch.optim.Adagrad).data
    assert own.parameters < own.state < plain.state


@pytest.mark.parametrize(
    ("make", "shape", "dtype"),
    [
        (lambda: SimpleCNN(10), (64, 3, 32, 32), None),
        (lambda: SimpleCNN(10), (64, 3, 32, 32), torch.bfloat16),
        (lambda: UNet(32, 3), (2, 3, 64, 64), None),
    ],
)
def test_peak_of_training_is_that_of_torchs_allocator(make, shape, dtype):
    model = make().train()
    found = cnnprobe.memory(model, torch.empty(shape))
    name = "" if dtype is None else "bfloat16"
    real = measure_allocations(model, torch.randn(shape), dtype=dtype)
    way = found.find_way(autocast=name)
    peak = max(way.given.peak, way.step + way.step_slope * shape[0])
    assert pytest.approx(real, rel=0.05) == peak


def test_peak_of_inference_is_that_of_torchs_allocator():
    model, x = SimpleCNN(10).eval(), torch.randn(64, 3, 32, 32)
    found = cnnprobe.memory(model, x).find_way("inference")
    real = measure_allocations(model, x, training=False)
    assert pytest.approx(real, rel=0.05) == found.given.peak


def test_line_holds_at_batches_that_it_was_not_made_from():
    model = Blocks()
    found = cnnprobe.memory(model, torch.empty(8, 3, 16, 16))
    for name in ("training", "inference"):
        way = found.find_way(name)
        assert way.checked
        for batch, peak in way.checked:
            assert peak == way.base + way.slope * batch
        # a larger input of its own
        other = cnnprobe.memory(model, torch.empty(700, 3, 16, 16)).find_way(name)
        assert other.given.peak == way.base + way.slope * 700


@pytest.mark.parametrize("limit", ["8MiB", "1GiB"])
def test_largest_batch_fits_and_one_more_does_not(limit):
    model = Blocks()
    found = cnnprobe.memory(model, torch.empty(8, 3, 16, 16), fits=limit)
    for name in ("training", "inference"):
        most = found.fits(name)
        peaks = []
        for batch in (most, most + 1):
            way = cnnprobe.memory(model, torch.empty(batch, 3, 16, 16)).find_way(name)
            peaks.append(max(way.given.peak, way.step + way.step_slope * batch))
        assert peaks[0] <= parse_size(limit) < peaks[1]


def test_model_that_does_not_fit_says_so():
    found = cnnprobe.memory(SimpleCNN(10), torch.empty(1, 3, 32, 32), fits="1MiB")
    assert 0 == found.fits()
    assert "does not fit 1.00 MiB" in str(found)


@pytest.mark.parametrize("name", ["stem", "body", "body.1"])
def test_checkpointing_saves_and_costs_what_real_checkpointing_does(name):
    model, x = Blocks().train(), torch.randn(4, 3, 16, 16)
    (effect,) = cnnprobe.memory(model, x, checkpoint=name).data.checkpoints
    part = model.get_submodule(name)
    plain = part.forward

    def with_checkpoint(x):
        part.forward = lambda *args: checkpoint(plain, *args, use_reentrant=False)
        try:
            return model(x)
        finally:
            del part.__dict__["forward"]

    def run(forward):
        kept, loss = count_saved(lambda: forward(x).mean())
        with FlopCounterMode(display=False) as flops:
            loss.backward()
        for tensor in (x, *model.parameters(), *model.buffers()):
            kept.pop(tensor.data_ptr(), None)
        peak = measure_allocations(model, x, forward=forward)
        return sum(kept.values()), flops.get_total_flops() // 2, peak

    before, after = run(model), run(with_checkpoint)
    assert before[0] - after[0] == effect.saved > 0
    assert after[1] - before[1] == effect.macs > 0
    # a real one also keeps the state of the generator
    assert before[2] - after[2] == effect.peak - torch.get_rng_state().nbytes


def test_loss_of_the_user_is_part_of_the_step():
    model = nn.Conv2d(3, 8, 1)
    x, y = torch.zeros(4, 3, 32, 32), torch.zeros(4, 32, 32, dtype=torch.long)
    plain = cnnprobe.memory(model, x).find_way()
    found = cnnprobe.memory(model, x, loss_fn=F.cross_entropy, targets=y).find_way()
    # log_softmax keeps its output, and the labels are there
    assert 8 * 32 * 32 * 4 + 32 * 32 * 8 <= found.slope - plain.slope


def test_frozen_model_has_inference_alone():
    model = SimpleCNN(10).requires_grad_(False)
    found = cnnprobe.memory(model, torch.empty(2, 3, 32, 32))
    assert {"inference"} == {way.name for way in found.data.ways}
    assert "no parameter requires grad" in found.data.notes[0]


def test_model_on_meta_of_any_size_is_measured():
    with torch.device("meta"):
        layer = nn.TransformerEncoderLayer(4096, 32, 16384, batch_first=True)
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    found = cnnprobe.memory(model, torch.empty(1, 128, 4096, device="meta"), optimizer="adamw")
    parameters = sum(p.numel() * 4 for p in model.parameters())
    assert 2 * parameters <= found.data.state < 2 * parameters + 4 * 1000
    assert 4 * parameters <= found.at(1)


def test_memory_leaves_the_model_as_it_was():
    model = Blocks().eval()
    before = {name: (id(t), t._version) for name, t in model.state_dict(keep_vars=True).items()}
    state, x = torch.get_rng_state(), torch.zeros(4, 3, 8, 8)
    cnnprobe.memory(model, x, checkpoint=["stem", "body.1"])
    after = {name: (id(t), t._version) for name, t in model.state_dict(keep_vars=True).items()}
    assert before == after and torch.equal(state, torch.get_rng_state())
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert "forward" not in model.stem.__dict__
    assert not model.head.weight._backward_hooks
    assert 0 == model(x).isnan().sum()


def test_compiled_model_is_measured_by_its_eager_code():
    x, plain = torch.zeros(4, 3, 8, 8), Blocks()
    found = cnnprobe.memory(torch.compile(plain), x).find_way()
    assert cnnprobe.memory(plain, x).find_way() == found


def test_memory_is_the_same_under_autocast_of_the_caller():
    model, x = Blocks(), torch.zeros(4, 3, 8, 8)
    plain = cnnprobe.memory(model, x).data.ways
    with torch.autocast("cpu", torch.bfloat16):
        assert plain == cnnprobe.memory(model, x).data.ways


def test_buckets_of_ddp_are_named():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        for views in (False, True):
            wrapped = nn.parallel.DistributedDataParallel(
                nn.Linear(4, 4), gradient_as_bucket_view=views
            )
            notes = " ".join(cnnprobe.memory(wrapped, torch.zeros(2, 4)).data.notes)
            # (16 + 4) gradients of 4 bytes
            assert ("a copy of all gradients of 80 B" in notes) is not views
    finally:
        torch.distributed.destroy_process_group()


def test_memory_is_saved_and_shown(tmp_path):
    found = cnnprobe.memory(Blocks(), torch.empty(4, 3, 8, 8), fits="1GiB", checkpoint="body")
    found.save(tmp_path / "memory.json")
    data = schema.parse((tmp_path / "memory.json").read_text(), expected="Memory", where="")
    assert found.data == reading.read_plain(MemoryNeed, data)
    found.save(tmp_path / "memory.html")
    assert "optimizer state" in (tmp_path / "memory.html").read_text()
    assert {"text/plain", "text/html"} == set(found._repr_mimebundle_())
    text = found.to("text", width=120)
    assert f"training with adam up to N = {found.fits():,}" in text
    assert all(len(line) <= 120 for line in text.splitlines())
    assert json.loads(found.to("json"))["limit"] == 2**30


def test_memory_from_the_command_line(tmp_path):
    line = ["memory", "reference_models:CNNModel", "--input", "8,3,32,32", "--fits", "1GiB"]
    done = subprocess.run(
        [sys.executable, "-m", "cnnprobe", *line, "--optimizer", "sgd", "--width", "100"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    assert "fits 1.00 GiB: training with sgd up to N = " in done.stdout


@pytest.mark.skipif(
    "AVX" not in torch.backends.cpu.get_cpu_capability()
    or not torch.backends.mkldnn.is_available(),
    reason="oneDNN copies to blocked layouts where there is AVX",
)
def test_peak_on_a_cpu_has_the_copies_of_onednn():
    model, x = nn.Conv2d(16, 16, 3, padding=1).eval(), torch.randn(8, 16, 64, 64)
    found = cnnprobe.memory(model, x).find_way("inference").given
    real = measure_allocations(model, x, training=False)
    # the input, its copy, and the output in oneDNN's layout: 6 MiB
    assert pytest.approx(real, rel=0.01) == found.on_cpu
    assert found.peak < 0.75 * real
