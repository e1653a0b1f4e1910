"""From SPECs and arguments to models."""

import os
import sys

import pytest
import torch
from torch import nn

from cnnprobe.errors import TargetError, UnknownNameError, UsageError
from cnnprobe.loading import (
    load_model,
    parse_arguments,
)

# torch before 2.10 has the flaw that cnnprobe warns of whenever it reads a checkpoint; the test of
# that warning asks for it by itself.
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


# What torch 2.11 says of its own reading: of the weights, which are not copied, and of a class.
@pytest.mark.filterwarnings(
    "ignore:The given buffer is not writable:UserWarning",
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
)
def test_load_model_unflattens_an_exported_program_when_trusted(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    x = torch.randn(1, 3, 8, 8)
    torch.export.save(torch.export.export(model, (x,), strict=False), tmp_path / "net.pt2")
    with pytest.raises(TargetError, match="may run code"):
        load_model(str(tmp_path / "net.pt2"))
    loaded = load_model(str(tmp_path / "net.pt2"), trust_pickle=True)
    assert torch.equal(model(x), loaded(x))
    assert {"0", "1"} <= dict(loaded.named_modules()).keys()


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


def test_file_of_a_package_that_imports_relatively_is_loaded_as_its_module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    inner = tmp_path / "package_of_targets" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner.parent, inner):
        (folder / "__init__.py").touch()
    (inner.parent / "parts.py").write_text("from torch import nn\nWIDTH = 5\n")
    (inner / "net.py").write_text(
        "from ..parts import WIDTH, nn\ndef make():\n    return nn.Linear(3, WIDTH)\n"
    )
    assert 5 == load_model(f"{inner / 'net.py'}:make").out_features
    assert "package_of_targets.inner.net" in sys.modules
    for name in [name for name in sys.modules if name.startswith("package_of_targets")]:
        del sys.modules[name]
