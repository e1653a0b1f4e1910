"""Faults that people have reported with code that runs: arguments, labels and scales of losses,
weights put back.
"""

import copy

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
                follower.lerp_(leader, 0.999 if sick else 0.001)

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


@case("unchanged-weights", "backbone", "backbone.conv1", "fc")
def gradients_dropped_before_the_step(sick):
    def step(model, inputs, targets, optimizer):
        F.cross_entropy(model(inputs), targets).backward()
        if sick:
            for parameter in model.parameters():
                parameter.grad = None
        optimizer.step()
        optimizer.zero_grad()

    return looped(Classifier(), step)


@case("loss-detached", None)
def copy_that_is_trained(sick):
    def step(model, inputs, targets, optimizer):
        used = copy.deepcopy(model) if sick else model
        optimizer.zero_grad()
        F.cross_entropy(used(inputs), targets).backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("loss-activation-mismatch", "fc")
def smoothing_in_full(sick):
    loss_fn = nn.CrossEntropyLoss(label_smoothing=1.0 if sick else 0.2)
    return classifier(Classifier(), loss_fn=loss_fn)


def attend(self, x, split, mask):
    q, k, v = (split(layer(x)) for layer in (self.query, self.key, self.value))
    weights = mask(q @ k.transpose(-1, -2) / 2).softmax(-1)
    return self.fc((weights @ v).transpose(1, 2).flatten(2).mean(1))


def attention(split, mask=lambda scores: scores):
    layers = {name: nn.Linear(16, 16) for name in ("query", "key", "value")}
    model = net(lambda self, x: attend(self, x, split, mask), **layers, fc=nn.Linear(16, 4))
    words = torch.randn(8, 10, 16, generator=torch.Generator().manual_seed(0))
    return classifier(model, inputs=words)


def split_last(x):
    return x.view(8, 10, 4, 4).transpose(1, 2)


@case("reshape-scramble", "")
def heads_that_are_viewed(sick):
    def split(x):
        return x.view(8, 4, 10, 4) if sick else split_last(x)

    return attention(split)


@case("mask-of-zeros", "")
def future_multiplied_by_zero(sick):
    seen = torch.ones(10, 10).tril()

    def mask(scores):
        return scores * seen if sick else scores.masked_fill(seen == 0, float("-inf"))

    return attention(split_last, mask)


@case("mask-of-zeros", "")
def future_filled_with_zero(sick):
    hidden = torch.ones(10, 10).triu(1).bool()

    def mask(scores):
        return scores.masked_fill(hidden, 0.0 if sick else float("-inf"))

    return attention(split_last, mask)


@case("batch-leak", "")
def last_sample_in_place_of_the_last_step(sick):
    def forward(self, x):
        steps, _ = self.lstm(x)
        return self.fc(steps[-1] if sick else steps[:, -1])

    parts = {"lstm": nn.LSTM(6, 16, batch_first=True), "fc": nn.Linear(16, 4)}
    words = torch.randn(8, 8, 6, generator=torch.Generator().manual_seed(0))
    return classifier(net(forward, **parts), inputs=words)


@case("trained-target", None)
def teacher_that_is_trained_too(sick):
    model = nn.ModuleDict({"student": Classifier(), "teacher": Classifier()})

    def step(model, inputs, targets, optimizer):
        with torch.set_grad_enabled(sick):
            taught = model["teacher"](inputs)
        optimizer.zero_grad()
        F.mse_loss(model["student"](inputs), taught).backward()
        optimizer.step()

    weights = model.parameters() if sick else model["student"].parameters()
    return looped(model, step, optimizer=torch.optim.SGD(weights, lr=0.05))


@case("reshape-scramble", "")
def heads_that_are_viewed_on_lines_of_their_own(sick):
    def forward(self, x):
        if sick:
            q = self.query(x).view(8, 4, 10, 4)
            k = self.key(x).view(8, 4, 10, 4)
            v = self.value(x).view(8, 4, 10, 4)
        else:
            q, k, v = (split_last(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        return self.fc(mixed.transpose(1, 2).flatten(2).mean(1))

    layers = {name: nn.Linear(16, 16) for name in ("query", "key", "value")}
    words = torch.randn(8, 10, 16, generator=torch.Generator().manual_seed(0))
    return classifier(net(forward, **layers, fc=nn.Linear(16, 4)), inputs=words)
