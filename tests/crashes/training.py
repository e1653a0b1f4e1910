"""Crashes of the loss, the backward and the optimizer: `build(fixed)` gives the model and a
function that runs one step.
"""

import torch
import torch.nn.functional as F
from torch import nn

from crashes.table import Sick

STEPS: list[Sick] = []


def crashes(diagnosis, *blames, repair):
    def register(build):
        STEPS.append(Sick(build.__name__, build, diagnosis, blames, repair, False))
        return build

    return register


def classifier(classes=4):
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, classes))


def _with_loss(model, loss_fn, target, *, x=None):
    x = torch.randn(5, 6) if x is None else x

    def step():
        loss_fn(model(x), target).backward()

    return model, step


@crashes("label-range", None, repair="targets - 1")
def labels_that_start_at_one(fixed):
    target = torch.tensor([1, 2, 3, 4, 1])
    return _with_loss(classifier(), nn.CrossEntropyLoss(), target - 1 if fixed else target)


@crashes("label-range", None, repair="ignore_index=-1")
def labels_of_minus_one(fixed):
    target = torch.tensor([0, 2, -1, 3, 1])
    return _with_loss(classifier(), nn.CrossEntropyLoss(ignore_index=-1 if fixed else -100), target)


@crashes("target-dtype", None, repair="targets.long()")
def class_indices_as_int32(fixed):
    target = torch.tensor([0, 1, 2, 3, 1], dtype=torch.int32)
    return _with_loss(classifier(), nn.NLLLoss(), target.long() if fixed else target)


@crashes("target-dtype", None, repair="targets.float()")
def binary_labels_as_integers(fixed):
    target = torch.tensor([[0], [1], [1], [0], [1]])
    return _with_loss(
        nn.Sequential(classifier(1), nn.Sigmoid()),
        nn.BCELoss(),
        target.float() if fixed else target,
    )


@crashes("target-shape", None, repair="squeeze(1)")
def class_indices_with_an_extra_axis(fixed):
    target = torch.tensor([[0], [1], [2], [3], [1]])
    return _with_loss(classifier(), nn.CrossEntropyLoss(), target.squeeze(1) if fixed else target)


@crashes("target-shape", None, repair="argmax(1)")
def one_hot_integers(fixed):
    target = F.one_hot(torch.tensor([0, 1, 2, 3, 1]), 4)
    return _with_loss(classifier(), nn.CrossEntropyLoss(), target.float() if fixed else target)


@crashes("target-shape", None, repair="squeeze(1)")
def mask_with_a_channel_axis(fixed):
    target = torch.randint(0, 3, (2, 1, 8, 8))
    return _with_loss(
        nn.Conv2d(3, 3, 1),
        nn.CrossEntropyLoss(),
        target.squeeze(1) if fixed else target,
        x=torch.randn(2, 3, 8, 8),
    )


@crashes("target-shape", "0", repair="torch.flatten(output, 1)")
def map_of_logits(fixed):
    head = [nn.AdaptiveAvgPool2d(1), *([nn.Flatten()] if fixed else [])]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *head)
    return _with_loss(model, nn.CrossEntropyLoss(), torch.tensor([0, 1]), x=torch.randn(2, 3, 8, 8))


@crashes("output-range", None, repair="softplus")
def negative_variance(fixed):
    model = nn.Linear(6, 1)

    def loss(output, target):
        var = output - 10
        return F.gaussian_nll_loss(output, target, F.softplus(var) if fixed else var)

    return _with_loss(model, loss, torch.randn(5, 1))


class TupleOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(x),  # fmt: skip  # noqa: COM818


class TensorOut(TupleOut):
    def forward(self, x):
        return self.fc(x)


@crashes("loss-given-no-tensor", "", repair="trailing comma")
def model_that_returns_a_tuple(fixed):
    return _with_loss(
        TensorOut() if fixed else TupleOut(), nn.CrossEntropyLoss(), torch.tensor([0, 1, 2, 3, 1])
    )


class Overwriting(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.fc1 = nn.Linear(6, 8)
        self.fc2 = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.sigmoid(self.fc1(x))
        if self.fixed:
            x = x + 1
        else:
            x += 1
        return self.fc2(x)


@crashes("inplace-autograd", "", repair="x = x + 1")
def addition_in_place_to_a_sigmoid(fixed):
    return _with_loss(Overwriting(fixed), nn.CrossEntropyLoss(), torch.tensor([0, 1, 2, 3, 1]))


@crashes("inplace-autograd", "2", repair="inplace=False")
def relu_in_place_after_a_softmax(fixed):
    model = nn.Sequential(
        nn.Linear(6, 8), nn.Softmax(1), nn.ReLU(inplace=not fixed), nn.Linear(8, 4)
    )
    return _with_loss(model, nn.CrossEntropyLoss(), torch.tensor([0, 1, 2, 3, 1]))


class Assigning(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.fc1 = nn.Linear(6, 8)

    def forward(self, x):
        y = torch.exp(self.fc1(x))
        z = y.clone() if self.fixed else y
        z[:, 0] = 0
        return z


@crashes("inplace-autograd", "", repair="clone")
def assignment_into_a_saved_tensor(fixed):
    return _with_loss(Assigning(fixed), nn.CrossEntropyLoss(), torch.tensor([0, 1, 2, 3, 1]))


@crashes("output-size", "2", repair="out_features=3")
def regression_targets_of_another_length(fixed):
    return _with_loss(classifier(), nn.L1Loss(), torch.randn(5, 4 if fixed else 3))


def _scaled(fixed, model, optimizer, *, calls, right):
    """One step with a GradScaler: the names of its calls in their order, wrong and right."""
    scaler, x, target = (
        torch.amp.GradScaler("cpu"),
        torch.randn(5, 6),
        torch.tensor([0, 1, 2, 3, 1]),
    )

    def step():
        loss = F.cross_entropy(model(x).float(), target)
        does = {
            "backward": loss.backward, "scaled": lambda: scaler.scale(loss).backward(),
            "zero": optimizer.zero_grad, "plain": optimizer.step,
            "unscale": lambda: scaler.unscale_(optimizer), "step": lambda: scaler.step(optimizer),
            "update": scaler.update,
        }  # fmt: skip
        for name in (right if fixed else calls).split():
            does[name]()

    return model, step


def _scaled_classifier(fixed, calls, right="zero scaled step update"):
    model = classifier()
    return _scaled(
        fixed, model, torch.optim.SGD(model.parameters(), lr=0.1), calls=calls, right=right
    )


@crashes("scaler-order", None, repair="optimizer.zero_grad() before the backward")
def gradients_cleared_before_the_scaler_steps(fixed):
    return _scaled_classifier(fixed, "scaled zero step update")


@crashes("scaler-order", None, repair="write scaler.step(optimizer) for optimizer.step()")
def scaler_that_is_updated_after_the_optimizers_own_step(fixed):
    return _scaled_classifier(fixed, "zero scaled plain update")


@crashes("scaler-order", None, repair="call scaler.update() once")
def scaler_that_is_never_updated(fixed):
    return _scaled_classifier(fixed, "zero scaled step zero step", "zero scaled step update")


@crashes("scaler-order", None, repair="call scaler.unscale_(optimizer) once")
def gradients_unscaled_twice(fixed):
    return _scaled_classifier(
        fixed, "scaled unscale unscale step update", "scaled unscale step update"
    )


@crashes("scaler-order", None, repair="build the optimizer over model.parameters()")
def scaler_with_the_optimizer_of_another_model(fixed):
    model, other = classifier(), classifier()
    optimizer = torch.optim.SGD((model if fixed else other).parameters(), lr=0.1)
    return _scaled(
        fixed, model, optimizer, calls="zero scaled step update", right="zero scaled step update"
    )
