"""From input descriptions to tensors, and the input when none is given."""

import sys

import pytest
import torch
from torch import nn

from cnnprobe.errors import TargetError, UsageError
from cnnprobe.loading import (
    load_inputs,
    make_default_inputs,
)
from cnnprobe.loading.meta import copy_to_meta

# torch before 2.10 has the flaw that cnnprobe warns of whenever it reads a checkpoint; the test of
# that warning asks for it by itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch .* lets a crafted checkpoint past weights_only"
)


# --- inputs


@pytest.mark.parametrize("text", ["1,3,32,32", "1x3x32x32", "1, 3, 32, 32"])
def test_load_inputs_reads_a_shape(text):
    (x,), kwargs = load_inputs([text])
    assert ((1, 3, 32, 32), torch.float32, {}) == (tuple(x.shape), x.dtype, kwargs)


def test_load_inputs_draws_the_same_numbers_from_a_seed_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (load_inputs(["2,3"], seed=seed)[0][0] for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.randn(2, 3, generator=torch.Generator().manual_seed(1)), a)


def test_load_inputs_gives_keyword_arguments():
    args, kwargs = load_inputs(["2,3", "mask=2x5"])
    assert (1, ["mask"], (2, 5)) == (len(args), list(kwargs), tuple(kwargs["mask"].shape))


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float64", "complex64", "int64", "uint8", "bool"]
)
def test_load_inputs_makes_every_dtype(dtype):
    (x,), _ = load_inputs(["4,8"], dtype=dtype)
    assert getattr(torch, dtype) == x.dtype


def test_load_inputs_draws_integers_that_fit_a_small_vocabulary():
    (x,), _ = load_inputs(["100,100"], dtype="int64")
    assert (0, 7) == (int(x.min()), int(x.max()))


def test_load_inputs_makes_no_data_on_the_meta_device():
    (x,), _ = load_inputs(["1000000,1000000,1000000"], device="meta")
    assert "meta" == x.device.type


def test_load_inputs_reads_saved_tensors_and_arrays_as_they_are(tmp_path):
    import numpy as np

    x = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    torch.save({"ids": x}, tmp_path / "x.pt")
    np.save(tmp_path / "y.npy", x.numpy().astype(">f8"))
    (saved,), kwargs = load_inputs([str(tmp_path / "x.pt"), f"y={tmp_path / 'y.npy'}"])
    assert torch.equal(x, saved["ids"]) and torch.equal(x, kwargs["y"])


def test_load_inputs_reads_a_picture_as_one_sample_between_0_and_1(tmp_path):
    from PIL import Image

    Image.new("RGBA", (5, 4), (255, 0, 51, 255)).save(tmp_path / "p.png")
    (x,), _ = load_inputs([str(tmp_path / "p.png")])
    assert (1, 3, 4, 5) == tuple(x.shape)
    assert torch.equal(torch.tensor([1.0, 0.0, 0.2]), x[0, :, 0, 0])


def test_load_inputs_says_that_a_picture_needs_pillow(tmp_path, monkeypatch):
    (tmp_path / "p.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(TargetError, match="requires Pillow"):
        load_inputs([str(tmp_path / "p.png")])


# --- the input when none is given


class Cifar(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(2 * (size // 2) ** 2, 2)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.conv(x)), 1))


@pytest.mark.parametrize("size", [28, 32, 64, 96, 224])
def test_default_inputs_find_the_size_that_the_model_takes(size):
    (x,), _, note = make_default_inputs(Cifar(size), device=torch.device("cpu"))
    assert (1, 3, size, size) == tuple(x.shape)
    assert f"1,3,{size},{size}" in note


def test_default_inputs_take_an_imagenet_picture_for_a_strided_stem():
    model = nn.Sequential(nn.Conv2d(3, 2, 7, stride=2), nn.AdaptiveAvgPool2d(1))
    assert (1, 3, 224, 224) == tuple(
        make_default_inputs(model, device=torch.device("cpu"))[0][0].shape
    )


def test_default_inputs_take_the_features_and_the_dtype_of_a_linear_layer():
    (x,), _, _ = make_default_inputs(
        nn.Linear(12, 2, dtype=torch.float64), device=torch.device("cpu")
    )
    assert ((1, 12), torch.float64) == (tuple(x.shape), x.dtype)


def test_default_inputs_leave_the_model_and_the_generator_alone():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).train()
    before = torch.get_rng_state()
    make_default_inputs(model, device=torch.device("cpu"))
    assert 0 == model[1].num_batches_tracked
    assert torch.equal(before, torch.get_rng_state())


def test_default_inputs_ask_for_the_inputs_of_a_forward_that_takes_several():
    class Two(Cifar):
        def forward(self, image, mask):
            return image

    with pytest.raises(UsageError, match="image, mask"):
        make_default_inputs(Two(32), device=torch.device("cpu"))


def test_meta_copy_has_no_data_and_leaves_the_model_its_own():
    model = Cifar(32)
    assert {"meta"} == {p.device.type for p in copy_to_meta(model).parameters()}
    assert {"cpu"} == {p.device.type for p in model.parameters()}
