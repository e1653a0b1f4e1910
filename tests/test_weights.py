"""From checkpoints to the weights of a model, without running what is in them."""

import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from cnnprobe.errors import TargetError, UsageError
from cnnprobe.loading import (
    TargetWarning,
    load_inputs,
    load_model,
    load_weights,
)

# torch before 2.10 has the flaw that cnnprobe warns of whenever it reads a checkpoint; the test of
# that warning asks for it by itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch .* lets a crafted checkpoint past weights_only"
)


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
    assert raised.value.what.endswith("1 missing, 1 unexpected, 2 with a different shape")
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
