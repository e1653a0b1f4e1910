"""Every kind of bad input to the command: one message with what, where and fix, the designed exit
code, no traceback.
"""

import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import cnnprobe
from cnnprobe.cli import main
from cnnprobe.errors import TargetError
from tests.support.bad_inputs import BAD, BAD_DIAGNOSIS, MODELS, NET


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("was_run",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    files = {
        "bad_models.py": MODELS,
        "bad_syntax.py": "from torch import nn\nclass Net(nn.Module)\n    pass\n",
        "bad_bytes.py": "",
        "bad_import.py": "import torch\nimport not_installed_anywhere\n",
        "bad_name.py": "from torch import no_such_thing\n",
        "bad_relative.py": "from .blocks import Block\n",
        "bad_empty.py": "",
        "bad_raises.py": "x = 1 / 0\n",
        "bad_exits.py": "import sys\nsys.exit(2)\n",
        "text.pt": "this is not a checkpoint",
        "lfs.pt": "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
        "empty.pt": "",
        "text.npy": "no array",
        "text.png": "no picture",
        "text.csv": "1,2",
        "file": "",
    }
    for name, content in files.items():
        Path(name).write_text(content)
    Path("bad_bytes.py").write_bytes(b"x = '\xff\xfe'\0\n")
    Path("sub").mkdir()
    torch.save({"other.weight": torch.zeros(1)}, "other.pt")
    torch.save([1, 2], "list.pt")
    torch.save(Bomb(), "bomb.pt")
    Path("bomb.pkl.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save(nn.Linear(2, 2).state_dict(), "good.pt")
    Path("cut.pt").write_bytes(Path("good.pt").read_bytes()[:-200])
    Path("cut.safetensors").write_bytes((10_000).to_bytes(8, "little") + b'{"a":')
    Path("huge.safetensors").write_bytes((2**62).to_bytes(8, "little") + b'{"a":')
    Path("cut.pt2").write_bytes(b"PK\x03\x04 and no more")
    Path("cut.npy").write_bytes(b"\x93NUMPY\x01\x00v")
    return tmp_path


# (arguments, exit code, a part of "what", a part of "where" or "fix")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_message(case, folder):
    check_message("probe", *BAD[case], folder)


@pytest.mark.parametrize("case", BAD_DIAGNOSIS)
def test_bad_input_of_a_diagnosis_is_told_in_one_message(case, folder):
    check_message("diagnose", *BAD_DIAGNOSIS[case], folder)


def check_message(command, arguments, code, what, clue, folder):
    result = CliRunner().invoke(main, [command, *arguments])
    assert (code, "") == (result.exit_code, result.stdout), result.stderr
    message = result.stderr[result.stderr.index("error: ") :]
    first, *rest = message.splitlines()
    assert any(part in first for part in what.split("|")), message
    assert any(part in message for part in clue.split("|")), message
    assert ["  where:", "  fix:  "] == [line[:8] for line in rest], message
    assert 1 == result.stderr.count("error: ")
    assert "Traceback" not in result.stderr and "\x1b" not in result.stderr
    assert not (folder / "was_run").exists()


def test_debug_shows_the_traceback_of_the_users_code(folder):
    result = CliRunner().invoke(main, ["probe", "bad_models.py:Raises", "--debug"])
    assert 3 == result.exit_code
    assert 'raise ValueError("no such width")' in result.stderr


def test_a_full_disk_is_told_in_one_message(folder):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    result = CliRunner().invoke(main, ["probe", NET, "-o", "/dev/full", "--format", "json"])
    assert 2 == result.exit_code
    assert "No space left on device" in result.stderr and "Traceback" not in result.stderr


def test_running_out_of_memory_is_told_in_one_message(folder, monkeypatch):
    import cnnprobe.api

    def probe(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(cnnprobe.api, "probe", probe)
    result = CliRunner().invoke(main, ["probe", NET])
    assert 3 == result.exit_code
    assert "out of memory" in result.stderr and "Traceback" not in result.stderr


def test_a_fault_of_our_own_is_told_in_one_message(folder, monkeypatch):
    import cnnprobe.api

    def probe(*args, **kwargs):
        raise KeyError("lost")

    monkeypatch.setattr(cnnprobe.api, "probe", probe)
    result = CliRunner().invoke(main, ["probe", NET])
    assert 3 == result.exit_code
    assert "inside cnnprobe" in result.stderr and "Traceback" not in result.stderr


class Unfinished(torch.nn.Module):
    """Its __init__ forgets super().__init__()."""

    def __init__(self):
        self.scale = 3

    def forward(self, x):
        return x * self.scale


VERBS = {
    "probe": lambda model: cnnprobe.probe(model, torch.ones(2)),
    "record": cnnprobe.record,
    "diagnose": lambda model: cnnprobe.diagnose(model, torch.ones(2, 2)),
    "compare": lambda model: cnnprobe.compare(model, model, torch.ones(2)),
    "refactor": lambda model: cnnprobe.refactor(model, torch.ones(2)),
    "monitor": cnnprobe.monitor,
    "probed": cnnprobe.probed,
    "autograd_graph": lambda model: cnnprobe.autograd_graph(torch.ones(2), model),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("inside", [False, True])
def test_model_without_super_init_is_refused_in_one_sentence(verb, inside):
    model = torch.nn.Sequential()
    model._modules["0"] = Unfinished()
    with pytest.raises(TargetError, match=r"Unfinished.__init__ does not call super"):
        VERBS[verb](model if inside else Unfinished())
