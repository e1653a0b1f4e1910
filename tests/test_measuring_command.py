"""The command that measures a folder or a data set."""

import os
import sys

import click
import numpy as np
import pytest
from PIL import Image
from torch.distributed.run import parse_args

from cnnprobe.cli.measuring import stats_command
from cnnprobe.errors import TargetError
from cnnprobe.measuring import load_measurements
from reference_models.cifar_pickles import UncheckedCIFAR10, write_cifar10
from tests.support.command import run
from tests.support.measured import is_same
from tests.support.python import ROOT, run_python

MODEL = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(MODEL)
    for k in range(10):
        place = tmp_path / "images" / "ab"[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 255, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{k}.png")
    return tmp_path


def test_the_command_measures_a_folder_of_images(folder):
    images = folder / "images"
    done = run(
        "stats",
        f"{folder}/net.py:net",
        "--data",
        images,
        "--size",
        8,
        "--mean",
        "0.5,0.5,0.5",
        "--std",
        "0.25,0.25,0.25",
        "--format",
        "json",
    )
    (folder / "found.json").write_text(done.stdout)
    found = load_measurements(folder / "found.json")
    assert (10, 10 * 3 * 64) == (found.samples, found.of("", "input").statistics.count)
    assert -2 <= found.of("", "input").statistics.min < -1
    assert "10 of 10 samples (100%)" in done.stderr
    assert f"ImageFolder in {images}, size 8" in found.data


def test_the_command_reads_cifar10_with_torchvisions_class(tmp_path, monkeypatch):
    from torchvision import datasets

    images = np.random.default_rng(0).integers(0, 255, (30, 32, 32, 3), dtype=np.uint8)
    write_cifar10(tmp_path, images, [0] * 30, ["a"] * 10)
    monkeypatch.setattr(datasets, "CIFAR10", UncheckedCIFAR10)
    (tmp_path / "net.py").write_text(MODEL)
    done = run(
        "stats", f"{tmp_path}/net.py:net", "--data", tmp_path, "--dataset", "cifar10", "--batch", 7
    )
    assert "25 samples of UncheckedCIFAR10 (training)" in " ".join(done.stdout.split())


def test_torchrun_measures_what_one_process_does(folder):
    spec = [
        "stats",
        f"{folder}/net.py:net",
        "--data",
        f"{folder}/images",
        "--batch",
        "4",
        "--format",
        "json",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    alone = run_python("-m", "cnnprobe", *spec, env=env)
    several = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cnnprobe",
        *spec, env=env
    )  # fmt: skip
    assert (0, 0) == (alone.returncode, several.returncode), several.stderr
    for name, ended in (("alone", alone), ("several", several)):
        (folder / f"{name}.json").write_text(ended.stdout)
    assert is_same(*(load_measurements(folder / f"{name}.json") for name in ("alone", "several")))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--data", "missing"], 2, "there is no folder 'missing'"),
        (["--data", ".", "--dataset", "cifar10"], 3,
            "name the folder that holds cifar-10-batches-py"),
        (["--data", "images", "--mean", "a,b"], 2, "'a,b' are no numbers"),
        (["--data", "images", "--train"], 2, "statistics of a data set are those of eval mode"),
        ([], 2, "--data"),
    ],
)  # fmt: skip
def test_the_command_says_what_is_wrong(folder, monkeypatch, options, code, message):
    monkeypatch.chdir(folder)
    assert message in run("stats", "net.py:net", *options, code=code).stderr


def test_without_torchvision_the_command_says_what_to_install(folder, monkeypatch):
    from cnnprobe.measuring.datasets import open_dataset

    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(TargetError) as raised:
        open_dataset("folder", folder / "images")
    assert "pip install cnnprobe[vision]" == raised.value.fix


def test_torchrun_hands_every_option_on(capsys):
    options = [each for each in stats_command.params if isinstance(each, click.Option)]
    refused = set()
    for name in (name for each in options for name in (*each.opts, *each.secondary_opts)):
        try:
            given = parse_args(["-m", "cnnprobe", "stats", "net.py:net", name, "value"])
        except SystemExit:
            refused.add(name)
        else:
            assert [name, "value"] == given.training_script_args[-2:]
    capsys.readouterr()
    assert [] == [each.opts for each in options if refused.issuperset(each.opts)]
