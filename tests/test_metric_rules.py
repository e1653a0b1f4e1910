"""What a program computes of the output beside the loss: predictions, thresholds and metrics, in
the steps that run, and in functions that only the text shows.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SIGNS = (IMAGES[:, 0, 0, 0] > 0).float()
CLASSES = torch.arange(8) % 4


def perceptron(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))


def binary_loss(output, targets):
    return F.binary_cross_entropy_with_logits(output, targets.reshape(output.shape))


def find(name, model, targets, loss_fn, metric=None):
    """The findings of a rule, where each step ends with a metric of output and targets."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(inputs, targets):
        optimizer.zero_grad()
        output = model(inputs)
        loss_fn(output, targets).backward()
        optimizer.step()
        return metric(output, targets) if metric is not None else None

    report = cnnprobe.diagnose(
        model, IMAGES, targets, optimizer=optimizer, train_step=train_step, trials=0, steps=2
    )
    return [finding for finding in report.findings if finding.rule == name]


class Pairs(nn.Module):
    """A similarity of each image with each text."""

    def __init__(self):
        super().__init__()
        self.image, self.text = perceptron(8), nn.Linear(8, 8)

    def forward(self, images):
        return self.image(images) @ self.text(images[:, 0, 0]).T


def test_argmax_over_either_side_of_pairs_is_no_finding_and_over_samples_is_found():
    def metric(output, targets):
        return (output.argmax(0) == targets).float().mean()

    pairs = torch.arange(8)
    assert not find("metric-across-samples", Pairs(), pairs, F.cross_entropy, metric)
    assert find("metric-across-samples", perceptron(8), pairs, F.cross_entropy, metric)


# -- each sample with the labels of all ------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "is_found"),
    [
        (lambda out, y: ((out > 0) == y).float().mean(), True),
        (lambda out, y: torch.eq(y, out.sigmoid().round()).sum(), True),
        (lambda out, y: (out.detach() - y).abs().mean(), True),
        (lambda out, y: ((out > 0) == y.unsqueeze(1)).float().mean(), False),
        (lambda out, y: ((out > 0).squeeze(1) == y).float().mean(), False),
        (lambda _out, y: (y[:, None] == y).float().mean(), False),  # pairs of labels
        (lambda out, _y: (out.detach() - out.detach().squeeze(1)).abs().mean(), False),  # distances
    ],
)
def test_metric_of_n_1_against_n_is_found(metric, is_found):
    found = find("metric-across-samples", perceptron(1), SIGNS, binary_loss, metric)
    assert is_found == bool(found)
    for finding in found:
        assert "64 pairs" in finding.message
        assert finding.source.startswith(__file__)


def test_metric_of_n_1_against_n_is_no_fault_of_the_loss():
    def error(out, y):
        return (out.detach() - y).abs().mean()

    assert not find("loss-broadcast", perceptron(1), SIGNS, binary_loss, error)


@pytest.mark.parametrize("dim", [0, 1])
def test_argmax_over_the_batch_that_meets_labels_is_found(dim):
    def accuracy(out, y):
        return (out.argmax(dim) == y).float().mean()

    found = find("metric-across-samples", perceptron(8), CLASSES, F.cross_entropy, accuracy)
    assert (dim == 0) == bool(found)
    for finding in found:
        assert finding.message.startswith("Tensor.argmax runs over dim 0 of an output of shape")


# -- thresholds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (lambda out, _y: (out > 0.5).sum(), "Tensor.gt compares logits"),
        (lambda out, _y: torch.round(out).sum(), "torch.round rounds logits"),
        (lambda out, _y: (F.logsigmoid(out) > 0.5).sum(), "never true"),
        (lambda out, _y: (out.sigmoid() > 0).sum(), "always true"),
        (lambda out, _y: (out.sigmoid() > 0.5).sum(), ""),
        (lambda out, _y: (out > 0).sum(), ""),
        (lambda out, _y: (out.exp() > 0.5).sum(), ""),
        (lambda out, _y: (F.logsigmoid(out) > -0.5).sum(), ""),
    ],
)
def test_threshold_on_another_scale_is_found(metric, said):
    found = find("threshold-misplaced", perceptron(1), SIGNS, binary_loss, metric)
    assert bool(said) == bool(found)
    assert all(said in finding.message for finding in found)


@pytest.mark.parametrize("is_softmax", [False, True])
def test_confidence_that_is_a_logit_is_found(is_softmax):
    def choose(out, _y):
        return ((out.softmax(1) if is_softmax else out).max(1).values > 0.9).sum()

    found = find("threshold-misplaced", perceptron(4), CLASSES, F.cross_entropy, choose)
    logits = "Tensor.gt compares logits, which the loss takes before the softmax"
    said = [] if is_softmax else [f"{logits}, with 0.9, a probability"]
    assert said == [finding.message for finding in found]


# -- what no step runs -----------------------------------------------------------------------------

binary, classes = perceptron(1), perceptron(4)


def validate_binary(loader):
    right = 0
    for images, labels in loader:
        output = binary(images)
        right += (output > 0.5).sum()
        right += ((output > 0) == labels).sum()
        right += ((output.squeeze(1) > 0) == labels).sum()
        right += (torch.sigmoid(output) > 0.5).sum()
    return right


def validate_classes(net, images):
    logits = net(images)
    best, places = logits.softmax(1).max(0)
    return torch.argmax(logits, dim=0), logits.argmax(1), best, places, logits.max(0)[0]


def run_validation(loader):
    return [validate_classes(classes, images) for images, _ in loader]


def find_lines(rule, model, targets, loss_fn):
    """The texts that a rule names."""
    return [f.message.split("`")[1] for f in find(rule, model, targets, loss_fn)]


def test_metrics_that_no_step_runs_are_read():
    given = (binary, SIGNS, binary_loss)
    assert find_lines("threshold-misplaced", *given) == ["output > 0.5"]
    assert find_lines("metric-across-samples", *given) == ["(output > 0) == labels"]


def test_argmax_over_the_batch_is_read_where_the_model_is_an_argument():
    found = find_lines("metric-across-samples", classes, CLASSES, F.cross_entropy)
    assert sorted(found) == [
        "best, places = logits.softmax(1).max(0)", "torch.argmax(logits, dim=0)",
    ]  # fmt: skip


# -- the mode of a validation ----------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.drop, self.out = nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x):
        return self.out(self.drop(self.fc(x.flatten(1)).relu()))


class Trainer:
    def __init__(self, net, loader):
        self.net, self.loader = net, loader
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.05)

    def step(self, inputs, targets):
        self.net.train()
        self.optimizer.zero_grad()
        F.cross_entropy(self.net(inputs), targets).backward()
        self.optimizer.step()

    @torch.no_grad()
    def validate_in_train_mode(self):
        return [F.cross_entropy(self.net(x), y).item() for x, y in self.loader]

    @torch.no_grad()
    def validate_in_eval_mode(self):
        self.net.eval()
        return [F.cross_entropy(self.net(x), y).item() for x, y in self.loader]

    @torch.no_grad()
    def validate_in_the_mode_of_the_caller(self):
        return [F.cross_entropy(self.net(x), y).item() for x, y in self.loader]

    @torch.no_grad()
    def sample(self):
        return [self.net(x).argmax(1) for x, _ in self.loader]

    def fit(self):
        for inputs, targets in self.loader:
            self.step(inputs, targets)
        self.validate_in_train_mode()
        self.validate_in_eval_mode()
        self.sample()
        self.net.eval()
        self.validate_in_the_mode_of_the_caller()


def find_measured(net):
    trainer = Trainer(net, [(IMAGES, CLASSES)])
    report = cnnprobe.diagnose(
        net, IMAGES, CLASSES, optimizer=trainer.optimizer, train_step=trainer.step, trials=0,
        steps=2,
    )  # fmt: skip
    found = [f for f in report.findings if f.rule == "measured-in-train-mode"]
    return [f for f in found if f.severity == "warning"]


def test_validation_that_nothing_puts_into_eval_mode_is_found_alone():
    (found,) = find_measured(Net())
    assert "`self.net(x)` in validate_in_train_mode is compared with labels" in found.message
    assert found.message.endswith("dropout is on")


def test_validation_of_a_model_without_dropout_and_norms_is_no_finding():
    assert not find_measured(perceptron(4))


def test_batch_that_is_measured_in_passing_is_info():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)

    def train_step(inputs, targets):
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        optimizer.step()

    def learn():
        train_step(IMAGES, CLASSES)
        with torch.no_grad():
            return F.cross_entropy(net(IMAGES), CLASSES)

    report = cnnprobe.diagnose(
        net, IMAGES, CLASSES, optimizer=optimizer, train_step=train_step, trials=0, steps=2
    )
    severities = [f.severity for f in report.findings if f.subject == learn.__name__]
    assert severities == ["info"]
