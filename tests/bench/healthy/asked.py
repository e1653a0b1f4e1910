"""Losses whose smallest value is at the targets though it does not look so, and losses that have no
such value.
"""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped, net
from bench.design import design
from bench.parts import Backbone, Classifier, classifier, images, labels


def regressor(size, **others):
    def forward(self, x):
        return self.head(self.backbone(x))

    wanted = torch.randn(8, size, generator=torch.Generator().manual_seed(0))
    model = net(forward, backbone=Backbone(), head=nn.Linear(16, size))
    return classifier(model, targets=wanted, **others)


@design
def distances_to_prototypes_of_which_the_nearest_is_right():
    def forward(self, x):
        return (self.backbone(x)[:, None] - self.prototypes[None]).square().mean(-1)

    torch.manual_seed(0)
    model = net(forward, backbone=Backbone(), prototypes=nn.Parameter(torch.randn(4, 16)))
    return classifier(model, loss_fn=lambda far, y: F.cross_entropy(-far, y))


@design
def mixed_images_with_both_labels():
    def step(model, x, y, optimizer):
        share = float(torch.distributions.Beta(0.4, 0.4).sample())
        order = torch.randperm(len(x))
        scores = model(share * x + (1 - share) * x[order])
        optimizer.zero_grad()
        mixed = share * F.cross_entropy(scores, y) + (1 - share) * F.cross_entropy(scores, y[order])
        mixed.backward()
        optimizer.step()

    return looped(Classifier(), step)


@design
def samples_sorted_before_the_model_and_labels_with_them():
    def step(model, x, y, optimizer):
        order = x.flatten(1).norm(dim=1).argsort()
        optimizer.zero_grad()
        F.cross_entropy(model(x[order]), y[order]).backward()
        optimizer.step()

    return looped(Classifier(), step)


@design
def next_word_whose_shift_is_in_the_step():
    def step(model, x, optimizer):
        optimizer.zero_grad()
        scores = model(x)
        F.cross_entropy(scores[:, :-1].flatten(0, 1), x[:, 1:].flatten()).backward()
        optimizer.step()

    def forward(self, x):
        return self.head(self.cell(self.words(x))[0])

    torch.manual_seed(0)
    parts = {"words": nn.Embedding(9, 8), "cell": nn.GRU(8, 8, batch_first=True)}
    model = net(forward, head=nn.Linear(8, 9), **parts)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    words = torch.randint(0, 9, (8, 12), generator=torch.Generator().manual_seed(0))

    def train_step(inputs):
        step(model, inputs, optimizer)

    return {"model": model, "inputs": words, "optimizer": optimizer, "train_step": train_step}


@design
def queries_matched_with_their_nearest_boxes():
    def loss_fn(made, wanted):
        far = torch.stack([(made[:, [i, 1 - i]] - wanted).abs().sum((1, 2)) for i in (0, 1)])
        return far.min(0).values.mean()

    def forward(self, x):
        return self.head(self.backbone(x)).unflatten(1, (2, 4))

    torch.manual_seed(0)
    model = net(forward, backbone=Backbone(), head=nn.Linear(16, 8))
    return classifier(model, targets=torch.rand(8, 2, 4), loss_fn=loss_fn)


@design
def quantiles():
    def loss_fn(output, wanted):
        error = wanted - output
        return torch.maximum(0.9 * error, -0.1 * error).mean()

    return regressor(3, loss_fn=loss_fn)


@design
def mean_and_variance_of_one_value():
    def loss_fn(output, wanted):
        return F.gaussian_nll_loss(output[:, :1], wanted, F.softplus(output[:, 1:]) + 1e-3)

    given = regressor(2, loss_fn=loss_fn)
    return given | {"targets": given["targets"][:, :1].clone()}


@design
def logarithm_of_a_count():
    counts = torch.poisson(torch.full((8, 3), 4.0), generator=torch.Generator().manual_seed(0))
    return regressor(3, loss_fn=nn.PoissonNLLLoss()) | {"targets": counts}


@design
def hardest_quarter_of_the_pixels():
    def loss_fn(scores, masks):
        error = F.cross_entropy(scores, masks, reduction="none").flatten()
        return error[error >= error.detach().quantile(0.75)].mean()

    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 4, (8, 16, 16), generator=generator)
    return classifier(nn.Conv2d(3, 4, 3, padding=1), targets=masks, loss_fn=loss_fn)


@design
def levels_of_an_ordinal_scale():
    def loss_fn(scores, y):
        levels = (y[:, None] > torch.arange(4)).float()
        return F.binary_cross_entropy_with_logits(scores, levels)

    return classifier(Classifier(), loss_fn=loss_fn)


@design
def embeddings_whose_classes_attract():
    def loss_fn(made, y):
        far = (made[:, None] - made[None]).square().sum(-1)
        same = y[:, None] == y[None]
        return far[same].mean() + (1 - far[~same]).relu().mean()

    return classifier(Classifier(), loss_fn=loss_fn)


@design
def policy_with_rewards_below_zero():
    def step(model, x, given, optimizer):
        actions, rewards = given
        chosen = model(x).log_softmax(1).gather(1, actions[:, None])[:, 0]
        optimizer.zero_grad()
        (-chosen * (rewards - rewards.mean())).mean().backward()
        optimizer.step()

    rewards = -torch.rand(8, generator=torch.Generator().manual_seed(0))
    return looped(Classifier(), step, targets=(labels(), rewards))


@design
def values_of_chosen_actions():
    def step(model, x, given, optimizer):
        actions, rewards = given
        chosen = model(x).gather(1, actions[:, None])[:, 0]
        optimizer.zero_grad()
        F.smooth_l1_loss(chosen, rewards).backward()
        optimizer.step()

    rewards = -torch.rand(8, generator=torch.Generator().manual_seed(0))
    return looped(Classifier(), step, targets=(labels(), rewards))


@design
def overlap_of_probabilities_with_masks():
    def loss_fn(scores, masks):
        p = scores.sigmoid()
        return 1 - (2 * (p * masks).sum() + 1) / (p.square().sum() + masks.square().sum() + 1)

    masks = (images(8)[:, :1] > 0).float()
    return classifier(nn.Conv2d(3, 1, 3, padding=1), targets=masks, loss_fn=loss_fn)


@design
def rewarded_by_a_similarity_in_a_batch():
    def loss_fn(made, wanted):
        made, wanted = F.normalize(made, dim=1), F.normalize(wanted, dim=1)
        return F.cross_entropy(made @ wanted.T / 0.1, torch.arange(len(made)))

    return regressor(6, loss_fn=loss_fn)


@design
def one_half_of_the_batch_without_labels():
    def step(model, x, y, optimizer):
        scores = model(x)
        optimizer.zero_grad()
        F.cross_entropy(scores[:4], y[:4]).backward()
        optimizer.step()

    return looped(Classifier(), step)


@design
def greatest_distance_taken_off_both_parts_of_a_contrast():
    def step(model, x, y, optimizer):
        scores = model(x) * 5
        with torch.no_grad():
            most = scores.max(1).values
        near = scores.gather(1, y[:, None])[:, 0] - most
        far = scores - most[:, None]
        optimizer.zero_grad()
        (-near.mean() + far.logsumexp(1).mean()).backward()
        optimizer.step()

    return looped(Classifier(), step)
