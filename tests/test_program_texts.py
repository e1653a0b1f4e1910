"""What the text of a program says of what runs: names that nothing reads, statements that differ
from those like them, checkpoints, loops.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4


def diagnose(model, name, **given):
    """The findings of one rule."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    given = {"targets": LABELS, "optimizer": optimizer, "trials": 0} | given
    if "train_step" not in given:
        given["loss_fn"] = nn.CrossEntropyLoss()
    report = cnnprobe.diagnose(model, IMAGES, steps=2, **given)
    return [finding for finding in report.findings if finding.rule == name]


def classifier(*extra):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4), *extra)


class Block(nn.Module):
    def __init__(self, dropout=0.4, norm="batch", bias=True, _spare=True):
        super().__init__()
        self.dropout = dropout
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


class Dropping(Block):
    def forward(self, x):
        made = self.conv(x).relu().mean((2, 3))
        return self.fc(F.dropout(made, self.dropout, self.training))


def test_option_that_nothing_reads_is_found_with_its_value():
    (found,) = [f for f in diagnose(Block(), "unread-name") if f.subject == "dropout"]
    assert found.message == (
        "Block.__init__ takes dropout, and nothing reads it: dropout=0.4 of model has no effect"
    )
    assert found.severity == "warning"
    assert found.source.startswith(__file__)


def test_option_that_a_subclass_reads_is_no_finding():
    assert "dropout" not in [f.subject for f in diagnose(Dropping(), "unread-name")]


def test_option_is_found_where_a_call_passes_another_value():
    model = Block(norm="instance")
    (found,) = [f for f in diagnose(model, "unread-name") if f.subject == "norm"]
    assert "norm='instance'" in found.message


def test_default_that_the_class_keeps_without_the_option_is_info():
    severities = {f.subject: f.severity for f in diagnose(Block(), "unread-name")}
    assert severities.get("bias") == "info"


def test_option_of_zero_is_no_finding():
    subjects = [f.subject for f in diagnose(Block(dropout=0.0), "unread-name")]
    assert "dropout" not in subjects
    assert "_spare" not in subjects


class Kept(nn.Module):
    def __init__(self, adds):
        super().__init__()
        self.conv, self.fc, self.adds = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(64, 4), adds

    def forward(self, x):
        residual = x  # noqa: F841
        made = self.conv(x).relu()
        return self.fc((made + x if self.adds else made).flatten(1))


def test_input_that_is_kept_for_a_skip_and_not_added_is_found():
    (found,) = diagnose(Kept(adds=False), "unread-name")
    assert found.message == (
        "Kept.forward keeps its input as residual, and nothing reads it: model has no skip "
        "connection"
    )
    assert not diagnose(Kept(adds=True), "unread-name")


class Masked(nn.Module):
    def __init__(self, reads):
        super().__init__()
        kind = Reading if reads else Deaf
        self.inner, self.fc = kind(), nn.Linear(64, 4)

    def forward(self, x):
        x = x.flatten(1)
        return self.fc(self.inner(x, x > 0))


class Deaf(nn.Module):
    def forward(self, x, mask):
        return x * 2


class Reading(nn.Module):
    def forward(self, x, mask):
        return x * mask


def test_argument_that_a_forward_is_given_and_does_not_read_is_found():
    (found,) = diagnose(Masked(reads=False), "unread-name")
    assert (found.module, found.kind, found.subject) == ("inner", "argument", "mask")
    assert not diagnose(Masked(reads=True), "unread-name")


class Normalising(nn.Module):
    def __init__(self, applies):
        super().__init__()
        self.register_buffer("mean", torch.full((1,), 0.5))
        self.register_buffer("std", torch.full((1,), 0.25))
        self.applies = applies
        self.fc = nn.Linear(64, 4)

    def forward(self, x):
        return self.fc(x.flatten(1)) + x.mean()


class Applying(Normalising):
    def forward(self, x):
        return self.fc(((x - self.mean) / self.std).flatten(1))


def test_buffer_that_nothing_reads_is_found_although_a_method_has_its_name():
    found = diagnose(Normalising(applies=False), "unread-name")
    assert ["mean", "std"] == [f.subject for f in found if f.kind == "buffer"]
    assert not [f for f in diagnose(Applying(applies=True), "unread-name") if f.kind == "buffer"]


def noising(model, optimizer, *, uses):
    def train_step(images, labels):
        noisy = images + 0.1 * torch.randn_like(images)  # noqa: F841
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    def using(images, labels):
        noisy = images + 0.1 * torch.randn_like(images)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(noisy), labels)
        loss.backward()
        optimizer.step()

    return using if uses else train_step


def test_variable_of_the_step_that_nothing_reads_is_found():
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    given = {"optimizer": optimizer}
    (found,) = diagnose(
        model, "dead-output", train_step=noising(model, optimizer, uses=False), **given
    )
    assert found.subject == "noisy"
    assert found.severity == "warning"
    assert found.fix == (
        "use noisy where it was meant, in place of what is read there, or remove it"
    )
    assert not diagnose(
        model, "dead-output", train_step=noising(model, optimizer, uses=True), **given
    )


def test_number_to_look_at_is_no_finding():
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(images, labels):
        output = model(images)
        accuracy = (output.argmax(1) == labels).float().mean()  # noqa: F841
        optimizer.zero_grad()
        F.cross_entropy(output, labels).backward()
        optimizer.step()

    assert not diagnose(model, "dead-output", train_step=train_step, optimizer=optimizer)


class Forgetful(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        scaled = (x - 0.5) / 0.25  # noqa: F841
        return self.fc(self.conv(x).relu().mean((2, 3)))


def test_variable_of_a_forward_that_nothing_reads_is_an_error():
    (found,) = diagnose(Forgetful(), "dead-output")
    assert found.severity == "error"
    assert found.message.startswith("Forgetful.forward computes scaled = (x - 0.5) / 0.25, of ")


def load_leniently(model, checkpoint):
    model.load_state_dict(checkpoint, strict=False)


def test_checkpoint_of_other_names_is_found_and_one_that_fits_is_not():
    torch.manual_seed(0)
    trained = {name: value + 0.05 for name, value in classifier().state_dict().items()}
    model = classifier()
    load_leniently(model, {f"module.{name}": value for name, value in trained.items()})
    (found,) = diagnose(model, "checkpoint-unused")
    assert found.message.startswith(
        "`model.load_state_dict(checkpoint, strict=False)` has left 2 of 2 layers at their random "
        "initialisation, the first is model[1]"
    )
    load_leniently(model, trained)
    assert not diagnose(model, "checkpoint-unused")


def test_step_that_takes_the_first_batch_each_time_is_found():
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loader = [(IMAGES, LABELS)]

    def train_step():
        images, labels = next(iter(loader))
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    (found,) = diagnose(
        model, "loop-cut-short", targets=None, train_step=train_step, optimizer=optimizer
    )
    assert found.kind == "first-batch"


class Plain(nn.Module):
    """A dropout between layers of another kind is no layer that lacks its activation."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.c1(x))
        x = self.drop(x)
        x = F.relu(self.c2(x))
        return self.fc(x.mean((2, 3)))


def test_layer_of_another_kind_is_no_sibling():
    assert not diagnose(Plain(), "sibling-differs")


def stack(*layers):
    return nn.Sequential(*layers, nn.ReLU())


class Narrowing(nn.Module):
    """The layers between two residual blocks change the shape, so that nothing can be added."""

    def __init__(self, widths=(8, 16)):
        super().__init__()
        a, b = widths
        self.stem = stack(nn.Conv2d(1, a, 3, padding=1))
        self.res1 = stack(nn.Conv2d(a, a, 3, padding=1))
        self.conv = stack(nn.Conv2d(a, b, 3, padding=1))
        self.res2 = stack(nn.Conv2d(b, b, 3, padding=1))
        self.fc = nn.Linear(b, 4)

    def forward(self, x):
        x = self.stem(x)
        x = self.res1(x) + x
        x = self.conv(x)
        x = self.res2(x) + x
        return self.fc(x.mean((2, 3)))


def test_addition_is_missed_only_where_the_shapes_allow_it():
    assert not diagnose(Narrowing(), "sibling-differs")
    (found,) = diagnose(Narrowing((8, 8)), "sibling-differs")
    assert "`x = self.conv(x)`" in found.message


class Mixing(Narrowing):
    """What stands between the blocks is made of other layers."""

    def __init__(self):
        super().__init__((8, 8))
        self.conv = stack(nn.Dropout2d(0.1), nn.Conv2d(8, 8, 1))


def test_stack_of_other_layers_is_no_sibling():
    assert not diagnose(Mixing(), "sibling-differs")


class Paired(Block):
    def __init__(self, width=8, attention=False):
        super().__init__(dropout=0.0)
        self.width, self.wanted = width, attention


def test_option_that_is_kept_in_a_pair_of_assignments_is_found():
    subjects = [f.subject for f in diagnose(Paired(attention=True), "unread-name")]
    assert "attention" in subjects
    assert "attention" not in [f.subject for f in diagnose(Paired(), "unread-name")]


def keep_best(model, results):
    best_acc, best_loss, best_state, best_net = 0.0, 0.0, None, None
    for acc, loss in results:
        if acc > best_acc:
            best_acc = acc
            best_state = {"epoch": 1, "state": model.state_dict()}
        if loss < best_loss:
            best_loss = loss
            best_net = None
        if acc < best_acc:
            best_acc = acc
            best_net = {k: v.detach().clone() for k, v in model.state_dict().items()}
    model.load_state_dict(best_state["state"])
    return best_net


def test_best_state_that_is_kept_by_reference_or_never_is_found():
    found = diagnose(classifier(), "best-not-kept")
    said = {finding.kind: finding for finding in found}
    assert len(found) == len(said) == 3
    assert said["reference"].message == (
        "`best_state = {'epoch': 1, 'state': model.state_dict()}` keeps model.state_dict() itself "
        "and no copy: the next step changes best_state, which ends as the last state and not as "
        "the best one"
    )
    assert said["reference"].fix == "best_state = copy.deepcopy(model.state_dict())"
    assert said["start"].message.startswith("`loss < best_loss` is never true: best_loss starts at")
    assert said["direction"].message.startswith(
        "`acc < best_acc` is true when the model gets worse"
    )


def save_best(model, results):
    best_loss, best_acc, state = float("inf"), 0.0, None
    for acc, loss in results:
        if loss >= best_loss - 0.01:
            continue
        best_loss = loss
        state = {name: value.clone() for name, value in model.state_dict().items()}
        if acc > best_acc:
            best_acc = acc
            saved = model.state_dict()
            torch.save(saved, "best.pt")
    return state


def reset_by_reference(model, optimizer):
    initial_state = model.state_dict()
    optimizer.step()
    model.load_state_dict(initial_state)


def reset(model, optimizer):
    initial_state = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.step()
    model.load_state_dict(initial_state)


def average(ema_model):
    averaged = list(ema_model.parameters())
    averaged[0].mul_(0.9)
    return averaged


def rename(model):
    old_state = model.state_dict()
    new_state = {name.removeprefix("net."): value for name, value in old_state.items()}
    model.load_state_dict(new_state)


def test_copy_of_the_weights_that_is_none_is_found_and_one_that_is_read_at_once_is_not():
    (found,) = diagnose(classifier(), "copy-by-reference")
    assert found.message == (
        "`initial_state = model.state_dict()` copies nothing: initial_state holds the weights of "
        "model themselves and changes with each step"
    )
    assert found.fix == "initial_state = copy.deepcopy(model.state_dict())"


@pytest.mark.parametrize(
    ("nest", "advice"),
    [
        (lambda saved: {f"module.{k}": v for k, v in saved.items()}, "strip the prefix 'module.' "),
        (lambda saved: {"state_dict": saved, "epoch": 3}, "load checkpoint['state_dict'], whose "),
        (
            lambda saved: {k.partition(".")[2]: v for k, v in saved.items() if k[0] == "1"},
            "its names lack the prefix '1.': load it into that part, model.get_submodule('1')",
        ),
        (lambda saved: {f"other{i}": v for i, v in enumerate(saved.values())}, "print what load_"),
    ],
)
def test_checkpoint_of_other_names_gets_the_advice_that_fits(nest, advice):
    torch.manual_seed(0)
    model = classifier()
    checkpoint = nest({name: value + 0.05 for name, value in model.state_dict().items()})
    load_leniently(model, checkpoint)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loss_fn = nn.CrossEntropyLoss()
    report = cnnprobe.diagnose(
        model, IMAGES, LABELS, loss_fn=loss_fn, optimizer=optimizer, steps=2, trials=0
    )
    (found,) = [each for each in report.findings if each.rule == "checkpoint-unused"]
    assert found.fix.startswith(advice)
