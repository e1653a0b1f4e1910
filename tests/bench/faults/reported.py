"""Faults that people have reported with code that runs: arguments, labels and scales of losses, weights put back."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped, net
from bench.parts import Backbone, Classifier, classifier, images, labels


def binary(model, loss_fn, **others):
    targets = (labels() % 2).float()[:, None]
    return classifier(model, targets=targets, loss_fn=loss_fn) | others


@case("swapped-arguments", None)
def labels_before_the_output(sick):
    one_hot = F.one_hot(labels(), 4).float()

    def loss_fn(output, targets):
        return F.cross_entropy(targets, output) if sick else F.cross_entropy(output, targets)

    return classifier(Classifier(), targets=one_hot, loss_fn=loss_fn)


@case("unsigned-labels", None)
def hinge_of_labels_that_are_0_and_1(sick):
    targets = (labels() % 2).float()[:, None] * (1 if sick else 2) - (0 if sick else 1)

    def loss_fn(output, targets):
        return (1 - output * targets).clamp(min=0).mean()

    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 1))
    return classifier(model, targets=targets, loss_fn=loss_fn)


@case("unsigned-labels", None)
def pairs_that_are_0_and_1(sick):
    other = images().flip(0)
    same = (labels() % 2).float() * (1 if sick else 2) - (0 if sick else 1)
    model = nn.Sequential(Backbone(), nn.Linear(16, 8))

    def loss_fn(output, same):
        return F.cosine_embedding_loss(output, model(other), same, margin=0.2)

    return classifier(model, targets=same, loss_fn=loss_fn)


@case("loss-activation-mismatch", "1")
def logarithms_of_a_teacher_taken_for_probabilities(sick):
    taught = F.log_softmax(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), 1)
    model = nn.Sequential(Classifier(), nn.LogSoftmax(1))
    loss_fn = nn.KLDivLoss(reduction="batchmean", log_target=not sick)
    return classifier(model, targets=taught, loss_fn=loss_fn)


@case("activation-on-logits", "1")
def relu_before_the_last_sigmoid(sick):
    body = nn.Sequential(Backbone(), nn.Linear(16, 1))
    between = nn.ReLU() if sick else nn.Identity()
    return binary(nn.Sequential(body, between, nn.Sigmoid()), nn.BCELoss())


@case("activation-on-logits", "")
def cosines_without_a_scale(sick):
    def forward(self, x):
        cosines = F.linear(F.normalize(self.body(x)), F.normalize(self.weight))
        return cosines if sick else 16 * cosines

    model = net(forward, body=Backbone())
    model.weight = nn.Parameter(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)))
    return classifier(model)


@case("update-undone", None)
def best_weights_loaded_in_each_step(sick):
    model = Classifier()
    best = {name: value.clone() for name, value in model.state_dict().items()}

    def step(model, inputs, targets, optimizer):
        if sick:
            model.load_state_dict(best)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return looped(model, step)


@case("update-undone", None)
def student_that_follows_its_average(sick):
    student, average = Classifier(), Classifier()

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        pairs = zip(model.parameters(), average.parameters(), strict=True)
        with torch.no_grad():
            for mine, other in pairs:
                follower, leader = (mine, other) if sick else (other, mine)
                follower.mul_(0.001).add_(leader, alpha=0.999)

    return looped(student, step)


@case("unchanged-weights", "backbone", "backbone.conv1", "fc")
def clip_to_nothing(sick):
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.0 if sick else 1.0)
        optimizer.step()

    return looped(Classifier(), step)


@case("negative-loss", None)
def labels_of_minus_1_and_1_for_a_cross_entropy(sick):
    targets = (labels() % 2).float()[:, None] * (2 if sick else 1) - (1 if sick else 0)
    model = nn.Sequential(Backbone(), nn.Linear(16, 1))
    return classifier(model, targets=targets, loss_fn=nn.BCEWithLogitsLoss())


@case("loss-detached", None)
def model_called_without_gradients(sick):
    def step(model, inputs, targets, optimizer):
        with torch.set_grad_enabled(not sick):
            output = model(inputs)
        loss = F.cross_entropy(output, targets)
        optimizer.zero_grad()
        (loss.requires_grad_() if sick else loss).backward()
        optimizer.step()

    return looped(Classifier(), step)
