"""Faults of the loss and the head."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped, net
from bench.parts import Backbone, Classifier, classifier, images


@case("softmax-before-ce", "")
def functional_softmax_in_the_root(sick):
    def forward(self, x):
        x = self.fc(self.backbone(x))
        return F.softmax(x, dim=1) if sick else x

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("softmax-before-ce", "")
def softmax_by_hand(sick):
    def forward(self, x):
        x = self.fc(self.backbone(x))
        e = torch.exp(x - x.max(dim=1, keepdim=True)[0])
        return e / e.sum(dim=1, keepdim=True) if sick else x

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("softmax-before-ce", None, "head.1", "head")
def softmax_in_the_loop(sick):
    model = Classifier()

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        output = model(x)
        probabilities = torch.softmax(output, 1) if sick else output
        nn.CrossEntropyLoss()(probabilities, y).backward()
        optimizer.step()

    return looped(model, step)


@case("sigmoid-before-bcewl", "")
def segmentation_with_two_sigmoids(sick):
    def forward(self, x):
        x = self.out(F.relu(self.conv(x)))
        return torch.sigmoid(x) if sick else x

    model = net(forward, conv=nn.Conv2d(3, 8, 3, padding=1), out=nn.Conv2d(8, 1, 1))
    return classifier(
        model, targets=(images()[:, :1] > 0).float(), loss_fn=F.binary_cross_entropy_with_logits
    )


@case("probs-into-nll", "")
def softmax_into_nll(sick):
    def forward(self, x):
        x = self.fc(self.backbone(x))
        return F.softmax(x, 1) if sick else F.log_softmax(x, 1)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)), loss_fn=F.nll_loss)


@case("activation-on-logits", "")
def relu_on_every_layer(sick):
    def forward(self, x):
        x = F.relu(self.fc1(x.flatten(1)))
        x = self.fc2(x)
        return F.relu(x) if sick else x

    return classifier(net(forward, fc1=nn.Linear(768, 32), fc2=nn.Linear(32, 4)))


@case("softmax-dim", "")
def softmax_over_the_batch(sick):
    def forward(self, x):
        return F.log_softmax(self.fc(self.backbone(x)), dim=0 if sick else 1)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)), loss_fn=nn.NLLLoss())


@case("loss-activation-mismatch", "")
def relu_for_targets_of_both_signs(sick):
    def forward(self, x):
        x = self.fc2(F.relu(self.fc1(x.flatten(1)))).squeeze(1)
        return F.relu(x) if sick else x

    return classifier(
        net(forward, fc1=nn.Linear(768, 32), fc2=nn.Linear(32, 1)),
        targets=torch.linspace(-2, 2, 8),
        loss_fn=nn.MSELoss(),
    )


@case("loss-activation-mismatch", "fc", "")
def logits_into_nll(sick):
    def forward(self, x):
        x = self.fc(self.backbone(x))
        return x if sick else F.log_softmax(x, 1)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)), loss_fn=nn.NLLLoss())


@case("loss-broadcast", None)
def column_against_row(sick):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 1))

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        output = model(x)
        ((output if sick else output.squeeze(1)) - y).pow(2).mean().backward()
        optimizer.step()

    return looped(model, step, targets=torch.linspace(-1, 1, 8))


@case("loss-sign", None)
def negative_criterion(sick):
    criterion = nn.CrossEntropyLoss()
    return classifier(
        Classifier(),
        loss_fn=lambda output, y: -criterion(output, y) if sick else criterion(output, y),
    )


@case("minimised-likelihood", None)
def log_likelihood_without_minus(sick):
    def loss_fn(output, y):
        likelihood = F.log_softmax(output, dim=1)[torch.arange(8), y].mean()
        return likelihood if sick else -likelihood

    return classifier(Classifier(), loss_fn=loss_fn)


@case("loss-detached", None)
def loss_through_numpy(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if sick:
            loss = torch.tensor(loss.detach().numpy(), requires_grad=True)
        loss.backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("negative-loss", None)
def masks_of_255(sick):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    return classifier(
        model,
        targets=(images()[:, :1] > 0).float() * (255 if sick else 1),
        loss_fn=nn.BCEWithLogitsLoss(),
    )


@case("total-per-sample", None, "")
def size_of_each_sample_added_up_over_the_batch(sick):
    def step(model, inputs, targets, optimizer):
        scores = model(inputs)
        size = scores.square().sum(1)
        likely = F.cross_entropy(scores, targets, reduction="none")
        optimizer.zero_grad()
        (likely + 0.01 * (sum(size) if sick else size)).mean().backward()
        optimizer.step()

    return looped(Classifier(), step)


def step_with_values(detach):
    """Values of states in a row, each to be the reward and nine tenths of the next one."""

    def step(model, inputs, targets, optimizer):
        values = model(inputs).mean(1)
        following = values[1:].detach() if detach else values[1:]
        errors = targets[:-1] + 0.9 * following - values[:-1]
        optimizer.zero_grad()
        errors.pow(2).mean().backward()
        optimizer.step()

    return step


@case("trained-target", None)
def next_value_with_a_gradient(sick):
    return looped(Classifier(), step_with_values(detach=not sick), targets=torch.rand(8))


@case("trained-target", None)
def both_views_without_a_detach(sick):
    def step(model, inputs, targets, optimizer):
        near, far = model(inputs), model(inputs.flip(-1))
        loss = sum(
            -F.cosine_similarity(a, b if sick else b.detach(), dim=1).mean() / 2
            for a, b in ((near, far), (far, near))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("trained-target", None)
def uncertainty_that_trains_the_error(sick):
    def step(model, inputs, targets, optimizer):
        scores = model(inputs)
        missed = (scores[:, 0] - targets).square()
        error = 1 - torch.exp(-(missed if sick else missed.detach()))
        doubt = F.binary_cross_entropy(torch.sigmoid(scores[:, 1]), error)
        optimizer.zero_grad()
        (missed.mean() + doubt).backward()
        optimizer.step()

    return looped(Classifier(), step, targets=torch.rand(8))


@case("loss-broadcast", None)
def greatest_of_each_row_taken_from_each_column(sick):
    def step(model, inputs, targets, optimizer):
        output = model(inputs)
        codes = F.normalize(output, dim=1)
        scores = codes @ codes.detach().T / 0.1
        with torch.no_grad():
            greatest, _ = scores.max(dim=1, keepdim=not sick)
        apart = torch.logsumexp(scores - greatest, dim=1)
        optimizer.zero_grad()
        (apart.mean() + F.cross_entropy(output, targets)).backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("mask-of-zeros", "")
def weights_that_are_masked_after_their_softmax(sick):
    def forward(self, x):
        h = self.body(x.flatten(2).transpose(1, 2))
        scores = h @ h.transpose(1, 2)
        hidden = torch.ones_like(scores).triu(1).bool()
        if not sick:
            scores = scores.masked_fill(hidden, float("-1e4"))
        weights = scores.softmax(-1).masked_fill(hidden, float("-1e4") if sick else 0.0)
        return self.head((weights @ h).mean(1))

    return classifier(net(forward, body=nn.Linear(3, 8), head=nn.Linear(8, 4)))


def pixels(loss_fn, outputs=1):
    """Masks of which 6% are 1."""
    torch.manual_seed(0)
    masks = (images()[:, :1] > 1.55).float()
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, outputs, 1))
    targets = masks if outputs == 1 else masks[:, 0].long()
    return classifier(model, targets=targets, loss_fn=loss_fn)


@case("broken-formula", None)
def overlap_that_sums_over_the_classes(sick):
    def dice_loss(scores, labels):
        p, t = scores.softmax(1), F.one_hot(labels, 2).movedim(-1, 1)
        dims = (1, 2, 3) if sick else (0, 2, 3)
        return 1 - (2 * (p * t).sum(dims) / ((p + t).sum(dims) + 1e-6)).mean()

    return pixels(dice_loss, outputs=2)


@case("broken-formula", None)
def reduced_focal_loss_of_what_is_easy_alone(sick):
    def reduced_focal_loss(scores, masks, gamma=2.0, threshold=0.6):
        ce = F.binary_cross_entropy_with_logits(scores, masks, reduction="none")
        p = torch.exp(-ce)
        weight = torch.zeros_like(p) if sick else torch.ones_like(p)
        easy = p > threshold
        weight[easy] = ((1 - p[easy]) / (1 - threshold)) ** gamma
        return (weight * ce).mean()

    return pixels(reduced_focal_loss)


@case("inverted-class-weights", None)
def alpha_of_the_common_label_for_the_rare_one(sick):
    def loss_fn(scores, masks, alpha=0.05):
        ce = F.binary_cross_entropy_with_logits(scores, masks, reduction="none")
        mine, other = (alpha, 1 - alpha) if sick else (1 - alpha, alpha)
        weight = torch.where(masks > 0, mine, other)
        return (weight * (1 - torch.exp(-ce)) ** 2 * ce).mean()

    return pixels(loss_fn)


@case("inverted-class-weights", None)
def weights_in_the_order_in_which_the_classes_were_counted(sick):
    targets = torch.tensor([2] * 5 + [0] * 2 + [1])
    counts = {2: 5, 0: 2, 1: 1}
    order = list(counts) if sick else sorted(counts)
    weight = torch.tensor([8 / counts[k] for k in order] + [1.0])
    return classifier(Classifier(), targets=targets, loss_fn=nn.CrossEntropyLoss(weight=weight))


@case("minimum-elsewhere", None)
def decibels_that_are_made_smaller(sick):
    def loss_fn(output, target):
        decibels = -10 * torch.log10(F.mse_loss(output, target))
        return decibels if sick else -decibels

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    return classifier(model, targets=images().tanh(), loss_fn=loss_fn)


@case("broken-formula", None)
def teacher_whose_outputs_are_those_of_other_samples(sick):
    def kd_loss(scores, labels, teacher_scores):
        soft = F.kl_div(scores.log_softmax(1), teacher_scores.softmax(1), reduction="batchmean")
        return soft + 0.1 * F.cross_entropy(scores, labels)

    generator = torch.Generator().manual_seed(0)
    known = torch.arange(32) % 4
    taught = 6.0 * F.one_hot(known, 4) + torch.randn(32, 4, generator=generator)
    taught = taught[torch.randperm(32, generator=generator)] if sick else taught

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        kd_loss(model(x), y, taught).backward()
        optimizer.step()

    return looped(Classifier(), step, inputs=images(32), targets=known)


def draw_discs(size):
    """Maps of eight discs of each of two classes, at half the size of the pictures."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.zeros(8, 1, size, size)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for k in range(8):
        for label in (2, 2, 1):
            y, x = torch.randint(4, size - 4, (2,), generator=generator)
            maps[k, 0][(rows - y) ** 2 + (columns - x) ** 2 <= 9] = label
    return maps


@case("interpolated-labels", None)
def masks_that_were_stored_after_an_average(sick):
    torch.manual_seed(0)
    mode = {"mode": "bilinear", "align_corners": False} if sick else {"mode": "nearest"}
    masks = F.interpolate(draw_discs(24), scale_factor=2, **mode)[:, 0].round().long()
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    return classifier(model, inputs=images(8, 3, 48), targets=masks)


@case("loss-broadcast", None)
def weights_of_samples_along_another_dim(sick):
    weights = torch.tensor([1.0, 9.0, 1.0, 9.0, 1.0, 9.0, 1.0, 9.0])

    def weigh(output, targets):
        errors = (output - targets) ** 2
        return (errors * (weights if sick else weights[:, None])).mean()

    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 1))
    return classifier(model, targets=torch.linspace(0, 1, 8)[:, None], loss_fn=weigh)


@case("ignored-class", None)
def class_of_whole_images_that_is_ignored(sick):
    return classifier(Classifier(), loss_fn=nn.CrossEntropyLoss(ignore_index=0 if sick else -100))
