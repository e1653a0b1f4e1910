"""From SPECs, checkpoints and input descriptions to models and tensors."""

import os
import pickle
import sys
import zipfile

import pytest
import torch
from torch import nn

from cnnprobe.errors import TargetError, UnknownNameError, UsageError
from cnnprobe.loading import (
    TargetWarning,
    default_inputs,
    load_inputs,
    load_model,
    load_weights,
    parse_arguments,
)
from cnnprobe.loading.meta import meta_copy

# torch before 2.10 has the flaw that cnnprobe warns of whenever it reads a checkpoint; the test of that warning asks for it by itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch .* lets a crafted checkpoint past weights_only"
)

NET = """
from dataclasses import dataclass
from torch import nn

@dataclass
class Options:
    width: int = 4

class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, Options().width, 3)
        self.fc = nn.Linear(4, classes)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

class Zoo:
    small = Net

def factory(classes=3):
    return Net(classes)

def needs(width, depth, kernel=3):
    return Net(width)

instance = Net(7)
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "a folder" / "net_of_targets.py"
    path.parent.mkdir()
    path.write_text(NET)
    before = list(sys.path)
    yield path
    sys.path[:] = before
    sys.modules.pop("net_of_targets", None)


@pytest.mark.parametrize(
    ("attribute", "classes"), [("Net", 10), ("Zoo.small", 10), ("factory", 3), ("instance", 7)]
)
def test_load_model_takes_a_class_a_factory_or_an_instance_of_a_file(net, attribute, classes):
    assert classes == load_model(f"{net}:{attribute}").fc.out_features


def test_load_model_takes_a_module_of_the_current_folder(net, monkeypatch):
    monkeypatch.chdir(net.parent)
    assert 5 == load_model("net_of_targets:Net", arguments={"classes": 5}).fc.out_features


def test_load_model_lets_a_file_import_its_neighbours(net):
    (net.parent / "uses_net.py").write_text(
        "from net_of_targets import Net\nclass Other(Net): pass\n"
    )
    assert "Other" == type(load_model(f"{net.parent}/uses_net.py:Other")).__name__


def test_load_model_does_not_replace_a_module_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "json.py").write_text(NET)
    import json

    assert isinstance(load_model(f"{tmp_path}/json.py:Net"), nn.Module)
    assert sys.modules["json"] is json


def test_load_model_reads_an_edited_file_again(net):
    load_model(f"{net}:Net")
    net.write_text(NET.replace("classes=10", "classes=1234"))
    os.utime(net, (1, 1))
    assert 1234 == load_model(f"{net}:Net").fc.out_features


def test_load_model_names_the_arguments_that_are_missing(net):
    with pytest.raises(UsageError) as raised:
        load_model(f"{net}:needs")
    assert "width, depth" in raised.value.what
    assert "add --arg width=... --arg depth=..." == raised.value.fix


def test_load_model_suggests_the_near_name_of_an_unknown_argument(net):
    with pytest.raises(UnknownNameError) as raised:
        load_model(f"{net}:Net", arguments={"clases": 3})
    assert "did you mean 'classes'?" == raised.value.fix


def test_load_model_suggests_the_near_name_of_an_attribute(net):
    with pytest.raises(UnknownNameError) as raised:
        load_model(f"{net}:Nett")
    assert "did you mean 'Net'?" == raised.value.fix


def test_load_model_names_the_classes_of_a_file_without_running_it(tmp_path):
    path = tmp_path / "never_run.py"
    path.write_text("class Model: pass\nraise SystemExit('was run')\n")
    with pytest.raises(UsageError) as raised:
        load_model(str(path))
    assert f"write {path}:Model" == raised.value.fix


def test_load_model_builds_torchvision_models_without_a_download(monkeypatch):
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("downloads")
    )
    assert 11_689_512 == sum(
        p.numel() for p in load_model("torchvision:resnet18").parameters()
    )  # the published number
    assert 3_221_538 == sum(
        p.numel() for p in load_model("torchvision:lraspp_mobilenet_v3_large").parameters()
    )


def test_load_model_builds_googlenet_without_a_warning():
    with torch.device("meta"):
        assert isinstance(
            load_model("torchvision:googlenet", arguments={"init_weights": False}), nn.Module
        )


def test_load_model_builds_timm_models():
    pytest.importorskip("timm")
    assert 7 == load_model("timm:resnet10t", arguments={"num_classes": 7}).fc.out_features


@pytest.mark.parametrize(
    "spec", ["torchvision:resnet19", "timm:resnet18x", "timm:hf-hub:someone/some_model"]
)
def test_load_model_refuses_unknown_zoo_names(spec):
    with pytest.raises(UnknownNameError):
        load_model(spec)


def test_load_model_unflattens_an_exported_program_when_trusted(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    x = torch.randn(1, 3, 8, 8)
    torch.export.save(torch.export.export(model, (x,), strict=False), tmp_path / "net.pt2")
    with pytest.raises(TargetError, match="may run code"):
        load_model(str(tmp_path / "net.pt2"))
    loaded = load_model(str(tmp_path / "net.pt2"), trust_pickle=True)
    assert torch.equal(model(x), loaded(x))
    assert {"0", "1"} <= dict(loaded.named_modules()).keys()


# --- weights


class Small(nn.Module):
    def __init__(self, out=2):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.fc = nn.Linear(2, out)


def filled(model, value):
    return {name: torch.full_like(tensor, value) for name, tensor in model.state_dict().items()}


WRAPPINGS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {}}},
    "nested": lambda state: {"model": {"state_dict": state}},
    "ddp": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "ddp of compiled": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    "compiled part": lambda state: {
        k.replace("conv.", "conv._orig_mod."): v for k, v in state.items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_load_weights_finds_the_state_dict_under_its_wrappings(tmp_path, wrapping):
    model = Small()
    torch.save(WRAPPINGS[wrapping](filled(model, 0.5)), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(p, torch.full_like(p, 0.5)) for p in model.parameters())


def test_load_weights_keeps_a_prefix_that_is_the_models_own(tmp_path):
    model = nn.Sequential()
    model.add_module("module", nn.Linear(2, 2))
    torch.save(filled(model, 0.5), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert torch.equal(torch.full((2, 2), 0.5), model.module.weight)


def test_load_weights_fills_a_compiled_model(tmp_path):
    model = torch.compile(Small())
    torch.save(filled(Small(), 0.5), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert 0.5 == model.fc.bias[0].item()


@pytest.mark.parametrize("legacy", [False, True])
def test_load_weights_reads_both_formats_of_torch_save(tmp_path, legacy):
    model = Small()
    torch.save(filled(model, 0.5), tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    load_weights(model, tmp_path / "w.pt")
    assert 0.5 == model.fc.bias[0].item()


def test_load_weights_reads_safetensors_under_any_suffix(tmp_path):
    from safetensors.torch import save_file

    model = Small()
    save_file(filled(model, 0.5), tmp_path / "w.bin")
    load_weights(model, tmp_path / "w.bin")
    assert 0.5 == model.fc.bias[0].item()


def test_load_weights_names_what_is_missing_unexpected_and_of_another_shape(tmp_path):
    state = filled(Small(out=5), 0.5)
    state["head.weight"] = state.pop("conv.bias")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(TargetError) as raised:
        load_weights(Small(), tmp_path / "w.pt")
    assert raised.value.what.endswith("1 missing, 1 unexpected, 2 of another shape")
    for part in (
        "missing 'conv.bias'",
        "unexpected 'head.weight'",
        "'fc.weight' is (5, 2) in the file and (2, 2) in the model",
    ):
        assert part in raised.value.where


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["whole", "entry"])
def test_load_weights_runs_no_code_of_a_malicious_file(tmp_path, place, legacy):
    bomb = Bomb(tmp_path / "was_run")
    saved = bomb if place == "whole" else {**filled(Small(), 1.0), "extra": bomb}
    torch.save(saved, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(TargetError) as raised:
        load_weights(Small(), tmp_path / "w.pt")
    assert not (tmp_path / "was_run").exists()
    assert "posix.mkdir" in raised.value.what
    assert "--trust-pickle" in raised.value.fix


def test_load_weights_runs_no_code_of_a_bare_pickle(tmp_path):
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "was_run")))
    with pytest.raises(TargetError, match=r"mkdir"):
        load_weights(Small(), tmp_path / "w.pt")
    assert not (tmp_path / "was_run").exists()


def test_load_inputs_and_load_model_run_no_code_of_a_malicious_file(tmp_path):
    torch.save(Bomb(tmp_path / "was_run"), tmp_path / "x.pt")
    with pytest.raises(TargetError):
        load_inputs([str(tmp_path / "x.pt")])
    with pytest.raises(UsageError):
        load_model(str(tmp_path / "x.pt"))
    assert not (tmp_path / "was_run").exists()


def test_load_model_does_not_unpickle_an_exported_program_that_is_not_trusted(tmp_path):
    torch.save(Bomb(tmp_path / "was_run"), tmp_path / "inner.pt")
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("x/archive_format", "pt2")
        archive.write(tmp_path / "inner.pt", "x/data/sample_inputs/model.pt")
    with pytest.raises(TargetError, match=r"posix\.mkdir"):
        load_model(str(tmp_path / "x.pt2"))
    assert not (tmp_path / "was_run").exists()


def test_load_weights_names_the_globals_before_it_trusts_a_pickle(tmp_path):
    torch.save(Small(), tmp_path / "w.pt")
    with pytest.warns(TargetWarning, match=r"Small.*|torch\.nn"):
        load_weights(Small(), tmp_path / "w.pt", trust_pickle=True)


def test_load_weights_warns_of_torch_versions_that_a_crafted_file_gets_past(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    torch.save(filled(Small(), 0.5), tmp_path / "w.pt")
    with pytest.warns(TargetWarning, match="CVE-2026-24747"):
        load_weights(Small(), tmp_path / "w.pt")


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
    with pytest.raises(TargetError, match="needs Pillow"):
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
    (x,), _, note = default_inputs(Cifar(size), device=torch.device("cpu"))
    assert (1, 3, size, size) == tuple(x.shape)
    assert f"1,3,{size},{size}" in note


def test_default_inputs_take_an_imagenet_picture_for_a_strided_stem():
    model = nn.Sequential(nn.Conv2d(3, 2, 7, stride=2), nn.AdaptiveAvgPool2d(1))
    assert (1, 3, 224, 224) == tuple(default_inputs(model, device=torch.device("cpu"))[0][0].shape)


def test_default_inputs_take_the_features_and_the_dtype_of_a_linear_layer():
    (x,), _, _ = default_inputs(nn.Linear(12, 2, dtype=torch.float64), device=torch.device("cpu"))
    assert ((1, 12), torch.float64) == (tuple(x.shape), x.dtype)


def test_default_inputs_leave_the_model_and_the_generator_alone():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).train()
    before = torch.get_rng_state()
    default_inputs(model, device=torch.device("cpu"))
    assert 0 == model[1].num_batches_tracked
    assert torch.equal(before, torch.get_rng_state())


def test_default_inputs_ask_for_the_inputs_of_a_forward_that_takes_several():
    class Two(Cifar):
        def forward(self, image, mask):
            return image

    with pytest.raises(UsageError, match="image, mask"):
        default_inputs(Two(32), device=torch.device("cpu"))


def test_meta_copy_has_no_data_and_leaves_the_model_its_own():
    model = Cifar(32)
    assert {"meta"} == {p.device.type for p in meta_copy(model).parameters()}
    assert {"cpu"} == {p.device.type for p in model.parameters()}


# --- arguments


def test_parse_arguments_reads_literals_words_and_text():
    items = ["a=1", "b=[1, 2]", "c=False", "d=false", "e=None", "f=relu", "g=a=b", "h="]
    assert {
        "a": 1,
        "b": [1, 2],
        "c": False,
        "d": False,
        "e": None,
        "f": "relu",
        "g": "a=b",
        "h": "",
    } == parse_arguments(items)


@pytest.mark.parametrize("items", [["a"], ["=1"], ["a-b=1"], ["a=1", "a=2"]])
def test_parse_arguments_refuses_what_is_no_argument(items):
    with pytest.raises(UsageError):
        parse_arguments(items)
