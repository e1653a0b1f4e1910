"""Silent faults that each single layer hides: dead channels, unread parts, scores and means over
nothing.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped, net
from bench.parts import Classifier, classifier, images, labels, trained


@case("dead-channels", "conv2", "bn2")
def shift_that_shuts_most_channels(sick):
    def forward(self, x):
        x = F.relu(self.conv1(x))
        return self.fc(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))

    parts = {
        "conv1": nn.Conv2d(3, 8, 3),
        "conv2": nn.Conv2d(8, 20, 3, bias=False),
        "bn2": nn.BatchNorm2d(20),
        "fc": nn.Linear(20, 4),
    }
    model = net(forward, **parts)
    with torch.no_grad():
        model.bn2.bias[: 17 if sick else 12] = -8.0
    return classifier(model)


@case("unread-part", "")
def second_half_of_a_table_that_is_never_sliced(sick):
    def forward(self, x):
        first = torch.relu(self.first(x[:, :6]))
        second = torch.relu(self.second(x[:, :6] if sick else x[:, 6:]))
        return self.fc(torch.cat([first, second], 1))

    parts = {"first": nn.Linear(6, 8), "second": nn.Linear(6, 8), "fc": nn.Linear(16, 4)}
    table = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    return classifier(net(forward, **parts), inputs=table)


def segmenting(**others):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    masks = (F.avg_pool2d(images(), 5, 1, 2).mean(1, keepdim=True) > 0).float()
    return classifier(model, targets=masks) | others


def intersection_over_union(p, target):
    shared = (p * target).sum((1, 2, 3))
    return ((shared + 1) / (p.sum((1, 2, 3)) + target.sum((1, 2, 3)) - shared + 1)).mean()


@case("loss-out-of-range", None)
def intersection_over_union_of_logits(sick):
    def loss_fn(logits, target):
        return 1 - intersection_over_union(logits if sick else logits.sigmoid(), target)

    return segmenting(loss_fn=loss_fn)


@case("loss-out-of-range", None)
def score_that_is_returned_as_loss(sick):
    def loss_fn(logits, target):
        score = intersection_over_union(logits.sigmoid(), target)
        return score if sick else -score

    return segmenting(loss_fn=loss_fn)


@case("loss-out-of-range", None)
def focal_weight_of_logits(sick):
    def loss_fn(logits, target):
        error = F.cross_entropy(logits, target, reduction="none")
        p = logits.gather(1, target[:, None]).squeeze(1) if sick else torch.exp(-error)
        return ((1 - p) ** 2 * error).mean()

    return classifier(Classifier(), loss_fn=loss_fn)


@case("loss-out-of-range", None)
def minus_the_logit_of_the_label(sick):
    def loss_fn(logits, target):
        own = logits.gather(1, target[:, None]).squeeze(1)
        return -own.mean() if sick else (logits.logsumexp(1) - own).mean()

    return classifier(Classifier(), loss_fn=loss_fn)


@case("empty-reduction", None)
def labels_that_are_all_ignored(sick):
    targets = torch.where(labels() < (4 if sick else 3), -100, labels())
    return classifier(Classifier(), targets=targets, loss_fn=nn.CrossEntropyLoss())


@case("empty-reduction", None)
def weights_of_classes_that_do_not_occur(sick):
    weight = torch.tensor([0.0 if sick else 0.5, 0.0 if sick else 0.5, 1.0, 1.0])
    return classifier(
        Classifier(), targets=labels(classes=2), loss_fn=nn.CrossEntropyLoss(weight=weight)
    )


@case("empty-reduction", None)
def error_over_an_empty_mask(sick):
    def loss_fn(output, target):
        mask = (target.abs() > (10.0 if sick else 1.0)).float()
        return ((output - target) ** 2 * mask).sum() / mask.sum()

    targets = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    return classifier(Classifier(), targets=targets, loss_fn=loss_fn)


@case("loss-always-zero", None)
def student_that_is_its_own_teacher(sick):
    model, other = Classifier(), trained(Classifier())

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        with torch.no_grad():
            soft = F.softmax((model if sick else other)(inputs), 1)
        F.kl_div(F.log_softmax(model(inputs), 1), soft, reduction="batchmean").backward()
        optimizer.step()

    return looped(model, step)


@case("loss-always-zero", None)
def target_that_is_made_of_the_output(sick):
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        output = model(inputs)
        wanted = output.view(8, 4) if sick else targets.view(8, 4)
        F.smooth_l1_loss(output, wanted).backward()
        optimizer.step()

    targets = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    return looped(Classifier(), step, targets=targets)


@case("loss-always-zero", None)
def branches_that_are_equal(sick):
    def forward(self, x):
        x = F.relu(self.stem(x)).mean((2, 3))
        return self.left(x), self.right(x)

    left, right = nn.Linear(8, 4), nn.Linear(8, 4)
    if sick:
        right = copy.deepcopy(left)
    right.requires_grad_(False)  # a teacher: trained together both would collapse
    parts = {"stem": nn.Conv2d(3, 8, 3), "left": left, "right": right}

    def loss_fn(output, _):
        student, teacher = output
        return F.mse_loss(student, teacher.detach())

    return classifier(net(forward, **parts), loss_fn=loss_fn)


@case("stacked-sigmoids", "layers.0", "layers.1")
def sigmoids_in_a_row_that_each_look_sane(sick):
    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers:
            x = torch.sigmoid(layer(x)) if sick else torch.tanh(layer(x))
        return self.fc(x)

    layers = [nn.Linear(768, 32), *(nn.Linear(32, 32) for _ in range(5))]
    return classifier(net(forward, layers=nn.ModuleList(layers), fc=nn.Linear(32, 4)))
