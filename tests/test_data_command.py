"""The command that judges data: loaders, functions, folders of images."""

import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.utils.data import DataLoader

import cnnprobe
from cnnprobe.cli import main

CODE = """
import torch
from torch.utils.data import DataLoader, TensorDataset
labels = torch.arange(32) % 4
images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
loader = DataLoader(TensorDataset(images, labels), 8, shuffle=True)
ordered = DataLoader(TensorDataset(images, labels.sort().values), 8)
def make_loaders():
    return loader, ordered
def make_more(root):
    return loader
"""
RULE = '''
from cnnprobe.data import data_rule
from cnnprobe.diagnosis import Finding

@data_rule(code="CP900", name="too-few-samples")
def too_few(data):
    """There are fewer than a hundred samples."""
    if data.training.samples < 100:
        yield Finding(message="only a few samples", fix="collect more")
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "own.py").write_text(RULE, encoding="utf-8")
    return tmp_path


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert code == result.exit_code, result.output
    return result.output


def test_data_shows_a_loader_and_exits_0_where_nothing_is_wrong(folder):
    assert "nothing was found" in run("data", "train.py:loader")


def test_data_exits_1_on_a_warning(folder):
    assert "CP817: single-class-batches" in run("data", "train.py:ordered", code=1)
    run("data", "train.py:ordered", "--fail-on", "error")


def test_data_takes_a_function_that_returns_both(folder):
    assert "validation: read all 32 samples" in run(
        "data", "train.py:make_loaders", "--fail-on", "error"
    )


def test_data_refuses_a_function_that_needs_arguments(folder):
    assert "cannot be called without arguments" in run("data", "train.py:make_more", code=2)


def test_data_says_that_there_is_no_such_folder(folder):
    assert "there is no folder 'nowhere'" in run("data", "nowhere", code=2)


def test_data_takes_rules_of_the_users_own(folder):
    assert "too-few-samples: only a few samples" in run(
        "data", "train.py:loader", "--rules", "own.py", code=1
    )


def test_data_reads_a_folder_of_images(folder):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / "photos" / part / name).mkdir(parents=True)
            for i in range(3):
                noise = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8).numpy()
                Image.fromarray(noise).save(folder / "photos" / part / name / f"{i}.png")
    output = run("data", "photos", "--png", "sheet.png")
    assert "dog" in output and "validation: read all 6 samples" in output
    assert (folder / "sheet.png").exists()


def test_copy_of_a_training_file_in_the_validation_is_a_leak(folder):
    test_data_reads_a_folder_of_images(folder)
    source = folder / "photos" / "train" / "cat" / "1.png"
    (folder / "photos" / "val" / "dog" / "copy.png").write_bytes(source.read_bytes())
    said = run("data", "photos", "--width", 300)
    assert "1 of 7 validation samples is a file with the same content" in said
    (folder / "photos" / "val" / "dog" / "copy2.png").write_bytes(source.read_bytes())
    assert "2 of 8 validation samples are files with the same content" in run(
        "data", "photos", "--width", 300, code=1
    )


def test_samplers_that_split_one_folder_are_no_leak_and_one_folder_for_both_is(folder):
    from torch.utils.data import SubsetRandomSampler
    from torchvision import datasets, transforms

    test_data_reads_a_folder_of_images(folder)
    training, validation = (
        datasets.ImageFolder(folder / "photos" / "train", transform=transforms.ToTensor())
        for _ in range(2)
    )
    split = [
        DataLoader(data, 3, sampler=SubsetRandomSampler(indices))
        for data, indices in ((training, [0, 1, 3, 4]), (validation, [2, 5]))
    ]
    report = cnnprobe.inspect_data(*split, pictures=False)
    assert [] == [f.message for f in report.findings if f.severity != "info"]
    report = cnnprobe.inspect_data(training, validation, pictures=False)
    assert "train-validation-leak" in [f.rule for f in report.findings]


def test_command_says_on_a_terminal_how_many_samples_it_has_read(folder):
    pty = pytest.importorskip("pty")
    slow = (
        CODE
        + """
class Slow(TensorDataset):
    def __getitem__(self, index):
        import time
        time.sleep(0.05)
        return super().__getitem__(index)
slow = DataLoader(Slow(images, labels), 4, shuffle=True)
"""
    )
    (folder / "slow.py").write_text(slow, encoding="utf-8")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cnnprobe", "data", "slow.py:slow", "-o", "data.json"]
    done = subprocess.run(command, check=False, stderr=theirs, stdout=subprocess.PIPE)
    said = os.read(ours, 100_000).decode()
    assert (0, b"") == (done.returncode, done.stdout), said
    assert "reading the training data, " in said and " samples ... " in said


def test_data_says_what_a_folder_should_hold(folder):
    (folder / "empty").mkdir()
    assert "it should hold one folder of images per class" in run("data", "empty", code=3)


def test_rules_and_explain_know_the_rules_of_the_data(folder):
    assert "CP827" in run("rules")
    assert "worker_init_fn" in run("explain", "repeated-random-numbers")


def test_cifar_whose_files_are_cut_off_says_so(folder):
    (folder / "cifar-10-batches-py").mkdir()
    (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cut")
    said = run("data", folder, code=3)
    assert "a file of CIFAR10 is missing, or has another checksum than the published one" in said
    assert "download=True" in said
