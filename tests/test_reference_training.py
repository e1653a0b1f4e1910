"""Training: that it learns, repeats, grows, and that the command says in one message what is
wrong.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reference_models import CNNModel, SimpleCNN, data
from reference_models import train as training
from reference_models.train import (
    Epoch,
    Plan,
    accuracy_per_class,
    adam,
    count_hits,
    describe,
    train,
    train_epoch,
)
from tests.support.python import run_python

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp("training")
    data.offline_photos(root / "data")
    return root


@pytest.fixture(scope="module")
def splits(cache):
    return data.photos(cache / "data")


def command(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return run_python("-m", "reference_models.train", *arguments, cwd=cwd, env=environment)


class Scores(nn.Module):
    """Gives its input back as scores, so that the right answer is known; one parameter, to have a
    device.
    """

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.inner = nn.Dropout()

    def forward(self, x):
        return x + 0 * self.unused


def loader_of(predictions, labels, classes=3):
    return DataLoader(
        TensorDataset(
            nn.functional.one_hot(torch.tensor(predictions), classes).float(), torch.tensor(labels)
        ),
        batch_size=2,
    )


def test_accuracy_per_class_counts_the_hits_of_each_class():
    loader = loader_of([0, 0, 1, 2, 1], labels=[0, 1, 1, 2, 1])
    assert {"a": 1.0, "b": pytest.approx(2 / 3), "c": 1.0} == accuracy_per_class(
        Scores(), loader, ["a", "b", "c"]
    )


def test_accuracy_of_a_class_without_images_is_nan():
    accuracy = accuracy_per_class(Scores(), loader_of([0, 1], labels=[0, 0]), ["a", "b", "c"])
    assert 0.5 == accuracy["a"] and accuracy["b"] != accuracy["b"]


def test_counting_hits_runs_in_eval_mode_and_gives_each_mode_back():
    model = Scores().train()
    model.inner.eval()
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    count_hits(model, loader_of([0], labels=[0]), 3)
    assert [False] == seen
    assert (True, False) == (model.training, model.inner.training)


def test_train_epoch_gives_the_mean_loss_and_accuracy_over_images_not_batches():
    # Batches of 2 and 1; scores are one-hot, so cross entropy is -log(e / (e + 2)) on a hit, -log(1
    # / (e + 2)) on a miss.
    loader = loader_of([0, 1, 2], labels=[0, 1, 0])
    model = Scores()
    loss, accuracy = train_epoch(
        model, loader, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.0)
    )
    e = torch.e
    expected = (2 * torch.tensor((e + 2) / e).log() + torch.tensor(e + 2).log()) / 3
    assert expected.item() == pytest.approx(loss)
    assert 2 / 3 == pytest.approx(accuracy)


def test_train_epoch_does_what_the_loop_written_by_hand_does(splits):
    torch.manual_seed(0)
    ours = CNNModel(num_of_output_classes=2)
    theirs = CNNModel(num_of_output_classes=2)
    theirs.load_state_dict(ours.state_dict())
    batches = [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])) for _ in range(2)]
    torch.manual_seed(1)
    train_epoch(ours, batches, nn.CrossEntropyLoss(), adam(ours))
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.001)
    theirs.train()
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(x), y).backward()
        optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "build", [SimpleCNN, lambda n: CNNModel(num_of_output_classes=n)], ids=["SimpleCNN", "CNNModel"]
)
def test_training_learns_two_digits(build):
    torch.manual_seed(0)
    *_, last = train(build(2), data.digits(), Plan(classes=("0", "1"), start=2, epochs=3))
    assert last.validation >= 0.95


def test_training_grows_and_keeps_what_it_learnt(splits):
    torch.manual_seed(0)
    model = SimpleCNN(2)
    plan = Plan(classes=("brick", "galaxies", "grass"), start=2, step=1, epochs=12)
    epochs = list(train(model, splits, plan))
    sizes = [len(epoch.per_class) for epoch in epochs]
    assert [2, 3] == sorted(set(sizes)) and sizes == sorted(sizes)
    assert 3 == model.fc2.out_features
    # It grew right after the epoch that had learnt two, and ended with the one that had learnt
    # three.
    assert [2 in sizes and sizes.count(2), len(epochs)] == [
        k + 1 for k, epoch in enumerate(epochs) if epoch.learnt
    ]
    assert epochs[-1].validation >= 0.95


def test_training_does_not_grow_below_the_threshold_of_each_class(splits):
    torch.manual_seed(0)
    plan = Plan(
        classes=("brick", "galaxies", "grass"),
        start=2,
        step=1,
        epochs=2,
        threshold=0.0,
        class_threshold=1.1,
    )
    assert [2, 2] == [len(epoch.per_class) for epoch in train(SimpleCNN(2), splits, plan)]


def test_training_without_growth_runs_all_its_epochs(splits):
    plan = Plan(
        classes=("brick", "galaxies"), start=2, epochs=2, threshold=0.0, class_threshold=0.0
    )
    assert [1, 2] == [epoch.number for epoch in train(SimpleCNN(2), splits, plan)]


def test_training_repeats_with_its_seed(splits):
    def weights(seed):
        torch.manual_seed(seed)
        model = SimpleCNN(2)
        list(train(model, splits, Plan(classes=("brick", "cat"), start=2, epochs=1, seed=seed)))
        return nn.utils.parameters_to_vector(model.parameters())

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_description_of_an_epoch_fits_80_columns():
    names = [f"class number {k}" for k in range(12)]
    epoch = Epoch(
        number=7,
        loss=0.12345,
        accuracy=0.9,
        validation=1.0,
        per_class=dict.fromkeys(names, 0.5),
        learnt=False,
    )
    lines = describe(epoch).splitlines()
    assert max(map(len, lines)) <= 80
    assert "epoch   7   12 classes  loss 0.1235  training  90.0%  validation 100.0%" == lines[0]
    assert all(f"{name} 50%" in " ".join(lines) for name in names)


def test_description_of_an_epoch_shows_control_characters_as_text():
    epoch = Epoch(
        number=1,
        loss=0.0,
        accuracy=0.0,
        validation=0.0,
        per_class={"a\x1b[31mb": 0.5},
        learnt=False,
    )
    assert "\x1b" not in describe(epoch)
    assert r"a\x1b[31mb 50%" in describe(epoch)


def test_command_trains_prints_each_epoch_and_saves_the_weights(cache, tmp_path):
    saved = tmp_path / "weights.pt"
    done = command(
        "--classes",
        "brick,galaxies",
        "--epochs",
        "1",
        "--model",
        "CNNModel",
        "--save",
        str(saved),
        cwd=cache,
    )
    assert (0, "") == (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert "CNNModel (1,143,362 parameters) on photos: 2 of 8 classes, seed 0" == lines[0]
    assert "data: looked at 352 images, nothing was found" == lines[1]
    assert lines[2].startswith("epoch   1    2 classes  loss ")
    assert lines[3].split()[::2] == ["brick", "galaxies"]
    assert lines[4].startswith("2 classes after 1 epochs and ")
    CNNModel(num_of_output_classes=2).load_state_dict(torch.load(saved, weights_only=True))


@pytest.fixture
def run(monkeypatch, capsys, cache):
    """Exit code, stdout and stderr of the command in this process."""

    def run_main(*arguments):
        monkeypatch.chdir(cache)
        try:
            code = training.main(arguments)
        except SystemExit as exit_:
            code = exit_.code
        return code, *capsys.readouterr()

    return run_main


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--classes", "0"], 2, "name a number from 1 to 8"),
        (["--classes", "9"], 2, "name a number from 1 to 8"),
        (["--classes", "1"], 2, "one class alone can only be guessed"),
        (["--classes", "cat,rokcet"], 2, "did you mean 'rocket'?"),
        (["--classes", "cat,cat"], 2, "class 'cat' is chosen twice"),
        (["--classes", ","], 2, "no class was chosen"),
        (["--classes", "4", "--grow-to", "2"], 2, "name a number from 4 to 8"),
        (["--classes", "4", "--grow-to", "9"], 2, "name a number from 4 to 8"),
        (["--epochs", "0"], 2, "'0' is not a whole number above 0"),
        (["--batch-size", "many"], 2, "'many' is not a whole number above 0"),
        (["--threshold", "95"], 2, "'95' is not a number from 0 to 1"),
        (["--threshold", "nan"], 2, "'nan' is not a number from 0 to 1"),
        (["--model", "ResNet"], 2, "invalid choice: 'ResNet'"),
        (["--download", "cifar10"], 2, "add --data DIR"),
        (["--data", ".", "--dataset", "digits"], 2, "not allowed with argument"),
        (["--save", "nowhere/weights.pt"], 2, "make the folder first"),
        (["--save", "data"], 2, "name a file in it"),
        (["--data", "nowhere"], 3, "no such folder"),
        (["--device", "nonsense"], 3, "device 'nonsense' cannot be used"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_message_with_its_exit_code(run, arguments, code, says):
    actual, out, err = run(*arguments)
    assert (code, "") == (actual, out)
    assert says in err and 1 == err.count("error: ")


def test_command_says_missing_data_in_one_message_without_a_traceback(tmp_path):
    done = command("--data", "nowhere", cwd=tmp_path)
    expected = (
        f"error: no such folder\n  where: {tmp_path / 'nowhere'}\n  fix:   check the path given "
        "with --data\n"
    )
    assert (3, "", expected) == (done.returncode, done.stdout, done.stderr)


def test_growth_that_is_not_reached_is_said_and_exits_with_1(run):
    arguments = ["--dataset", "digits", "--classes", "2", "--grow-to", "10", "--epochs", "1"]
    code, _, err = run(*arguments)
    assert 1 == code
    assert "error: 10 classes at 95%, each at 80%, were not reached in 1 epochs" in err


def test_seed_and_model_options_reach_the_training(run):
    arguments = ["--dataset", "digits", "--classes", "2", "--epochs", "1", "--batch-size", "200"]
    first = run(*arguments)[1].splitlines()[2]
    assert first == run(*arguments)[1].splitlines()[2]
    assert first != run(*arguments, "--seed", "7")[1].splitlines()[2]


def test_closed_pipe_ends_the_command_quietly(cache):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, "-m", "reference_models.train", "--classes", "2", "--epochs", "2"],
        cwd=cache,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running.stdout.readline()
    running.stdout.close()
    err = running.stderr.read()
    running.stderr.close()
    assert (0, "") == (running.wait(timeout=300), err)


def test_interrupt_ends_the_command_in_one_line(cache):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # A shell that started us in the background may have told us to ignore the interrupt, which
    # children inherit.
    run = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from "
        "reference_models.train import main; sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", run, "--classes", "2", "--epochs", "1000"],
        cwd=cache,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        running.stdout.readline()
        running.stdout.readline()
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=300)
    assert (130, "interrupted\n") == (running.returncode, err)


@pytest.mark.slow
def test_command_learns_eight_photos_class_by_class(run):
    # Processor time of one thread, so that a busy machine cannot fail it: less than two minutes of
    # it is less on two cores.
    before = time.process_time()
    code, out, err = run("--classes", "2", "--grow-to", "8")
    assert (0, "") == (code, err), out
    assert out.splitlines()[-1].startswith("8 classes after ")
    assert float(out.split()[-1].rstrip("%")) >= 95
    assert time.process_time() - before < 120
