"""Healthy set-ups that look like the quiet faults of the bench."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped
from bench.design import design
from bench.faults.quiet import Reader, averaged, read_words, segment
from bench.faults.sequences import write_words
from bench.parts import Classifier, classifier

# -- attributes of one's own -----------------------------------------------------------------------


@design
def parameters_and_groups_with_marks_of_their_own():
    model = Classifier()
    model.name, model.requires_grad = "small", True
    for parameter in model.parameters():
        parameter.no_weight_decay, parameter.decay, parameter.grad_norm = True, 0.1, 1.0
    arguments = classifier(model)
    arguments["optimizer"].epoch = 3
    arguments["optimizer"].param_groups[0].update(name="all", lr_scale=0.5, initial_lr=1e-3)
    return arguments


@design
def mark_that_the_loop_reads():
    model = Classifier()
    model.trainable_head = model.is_training = False
    for parameter in model.backbone.parameters():
        parameter.trainable = False

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        for parameter in model.parameters():
            if not getattr(parameter, "trainable", True):
                parameter.grad.mul_(0.1)
        if not model.is_training:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return looped(model, step)


@design
def switch_of_a_class_of_its_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.training_mode, self.trainable = False, False
            self.body = Classifier()

        def forward(self, x):
            return self.body(x)

    return classifier(Net())


# -- frozen tables ---------------------------------------------------------------------------------


@design
def frozen_vectors_with_a_structure_as_of_words():
    generator = torch.Generator().manual_seed(3)
    topics = torch.randn(60, 3, generator=generator) @ torch.randn(3, 12, generator=generator)
    return read_words(topics + 0.5 * torch.randn(60, 12, generator=generator))


@design
def frozen_table_of_sines():
    angles = torch.arange(60)[:, None] / 100 ** (torch.arange(6) / 6)
    return read_words(torch.cat([angles.sin(), angles.cos()], dim=1))


@design
def teacher_with_a_frozen_table():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = Reader(torch.randn(60, 12))
            self.teacher.requires_grad_(False)
            self.student = Reader(torch.randn(60, 12), freeze=False)

        def forward(self, x):
            return self.student(x), self.teacher(x)

    def distil(outputs, targets):
        student, teacher = outputs
        return F.cross_entropy(student, targets) + F.mse_loss(student, teacher.detach())

    return read_words(torch.randn(60, 12)) | classifier_of(Pair(), distil)


def classifier_of(model, loss_fn):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    return {"model": model, "loss_fn": loss_fn, "optimizer": optimizer}


# -- derivatives and averages on purpose -----------------------------------------------------------


class Rounded(torch.autograd.Function):
    """Quantised to tenths of a learned range, with the gradients of LSQ."""

    @staticmethod
    def forward(ctx, x, width):
        ctx.save_for_backward(x, width)
        return torch.round(x / width) * width

    @staticmethod
    def backward(ctx, gradient):
        x, width = ctx.saved_tensors
        return gradient, (gradient * (torch.round(x / width) - x / width)).sum()


class Flipped(torch.autograd.Function):
    """The input as it is; backward turns the gradient round."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -0.1 * gradient


class Cube(torch.autograd.Function):
    """x ** 3 in single precision, with its derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class Passing(torch.autograd.Function):
    """Clamped to [-1, 1], with a gradient that passes outside of it too."""

    @staticmethod
    def forward(ctx, x):
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@design
def functions_of_ones_own_with_their_usual_gradients():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.width = Classifier(), nn.Parameter(torch.tensor(0.1))
            self.domain = nn.Linear(4, 4)

        def forward(self, x):
            x = Passing.apply(Cube.apply(self.body(x)))
            return Rounded.apply(x, self.width) + self.domain(Flipped.apply(x))

    return classifier(Net())


@design
def average_with_a_decay_that_warms_up():
    seen = {"steps": 0}

    def update(old, new):
        seen["steps"] += 1
        decay = min(0.999, (1 + seen["steps"] // 8) / (10 + seen["steps"] // 8))
        old.copy_(decay * old + (1 - decay) * new)

    return averaged(update)


@design
def target_that_is_copied_in_every_step():
    return averaged(lambda old, new: old.copy_(new))


@design
def average_of_pytorch_and_one_of_a_dict():
    model = Classifier()
    swa = torch.optim.swa_utils.AveragedModel(model)
    shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        swa.update_parameters(model)
        for name, parameter in model.named_parameters():
            shadow[name] = 0.99 * shadow[name] + 0.01 * parameter.detach()

    return looped(model, step)


# -- sequences that are read as a whole ------------------------------------------------------------


def see_all(self, h):
    return self.blocks(h + self.mix(h)[..., :16])


@design
def masked_words_that_are_guessed_from_both_sides():
    generator = torch.Generator().manual_seed(5)
    words = torch.randint(1, 15, (8, 10), generator=generator)
    masked = words.masked_fill(torch.rand(8, 10, generator=generator) < 0.2, 0)
    return write_words(see_all, inputs=masked, targets=words)


@design
def prefix_that_is_read_as_a_whole():
    words = torch.randint(15, (8, 11), generator=torch.Generator().manual_seed(4))
    targets = words[:, 1:].masked_fill(torch.arange(10) < 4, -100)
    hidden = torch.ones(10, 10).triu(1).bool()
    hidden[:5, :5] = False
    return write_words(
        lambda self, h: self.blocks(h + self.mix(h)[..., :16], mask=hidden), targets=targets
    )


@design
def tags_of_words_that_see_all_of_them():
    words = torch.randint(15, (8, 10), generator=torch.Generator().manual_seed(4))
    return write_words(see_all, inputs=words, targets=(words + words.roll(1, 1)) % 15)


# -- layers that are frozen at random numbers ------------------------------------------------------


@design
def random_features_before_a_trained_layer():
    features = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 64))
    features.requires_grad_(False)
    return classifier(nn.Sequential(features, nn.ReLU(), nn.Linear(64, 4)))


@design
def adapter_whose_first_matrix_is_frozen():
    class Adapter(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.base = nn.Linear(768, 24), nn.Linear(24, 4)
            self.down, self.up = nn.Linear(24, 8, bias=False), nn.Linear(8, 4, bias=False)
            for layer in (self.first, self.base):
                layer.weight.data.normal_(0, 0.05)
            nn.init.zeros_(self.up.weight)
            for layer in (self.first, self.base, self.down):
                layer.requires_grad_(False)

        def forward(self, x):
            h = self.first(x.flatten(1)).relu()
            return self.base(h) + self.up(self.down(h))

    return classifier(Adapter())


# -- flips that need no other ----------------------------------------------------------------------


@design
def channels_in_another_order_and_samples_too():
    return segment(lambda pictures, masks: (pictures.flip(1).flip(0), masks.flip(0)))


@design
def output_that_is_turned_back():
    arguments = segment(lambda pictures, masks: (pictures, masks))

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        scores = (model(inputs) + model(inputs.flip(-1)).flip(-1)) / 2
        F.cross_entropy(scores, targets).backward()
        optimizer.step()

    return looped(arguments["model"], step) | {
        name: arguments[name] for name in ("inputs", "targets", "optimizer")
    }


@design
def flipped_images_with_a_class_each():
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs.flip(-1)), targets).backward()
        optimizer.step()

    return looped(Classifier(), step)
