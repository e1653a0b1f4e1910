"""Losses that ask for something else than what the targets say."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped, net
from bench.parts import Backbone, Classifier, classifier, images, labels, trained


def by_steps():
    """Twelve sequences of twelve steps, labelled at each step, with the steps first."""

    def forward(self, x):
        return self.head(self.cell(x.transpose(0, 1))[0])

    return net(forward, cell=nn.GRU(3, 8), head=nn.Linear(8, 4))


@case("minimum-elsewhere", None)
def scores_of_steps_beside_labels_of_samples(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        labels = y if sick else y.T
        F.cross_entropy(model(x).flatten(0, 1), labels.flatten()).backward()
        optimizer.step()

    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 4, (8, 12), generator=generator)
    given = torch.randn(8, 12, 3, generator=generator)
    return looped(by_steps(), step, inputs=given, targets=steps)


@case("minimum-elsewhere", None)
def targets_in_the_order_of_an_earlier_shuffle(sick):
    def step(model, x, y, optimizer):
        order = torch.randperm(len(x))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y[order] if sick else y).backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("minimum-elsewhere", None)
def rows_and_columns_exchanged_in_the_points(sick):
    def loss_fn(points, wanted):
        return F.smooth_l1_loss(points, wanted[:, [1, 0]] if sick else wanted)

    def forward(self, x):
        return self.head(self.backbone(x))

    points = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    model = net(forward, backbone=Backbone(), head=nn.Linear(16, 2))
    return classifier(model, targets=points, loss_fn=loss_fn)


@case("minimum-elsewhere", None)
def error_of_the_sum_of_output_and_target(sick):
    def loss_fn(output, wanted):
        return torch.log(torch.cosh(output + wanted if sick else output - wanted)).mean()

    def forward(self, x):
        return self.head(self.backbone(x))

    wanted = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    model = net(forward, backbone=Backbone(), head=nn.Linear(16, 3))
    return classifier(model, targets=wanted, loss_fn=loss_fn)


@case("samples-left-out", None)
def return_inside_of_the_loop_over_the_samples(sick):
    def loss_fn(scores, labels):
        total = 0.0
        for score, label in zip(scores, labels, strict=True):
            total = total + F.cross_entropy(score[None], label[None])
            if sick:
                return total
        return total / len(scores)

    return classifier(Classifier(), inputs=images(8), targets=labels(8), loss_fn=loss_fn)


class Variational(nn.Module):
    def __init__(self, power):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(768, 16), nn.Linear(4, 768)
        self.mean, self.logvar, self.power = nn.Linear(16, 4), nn.Linear(16, 4), power

    def reparameterize(self, mean, logvar):
        return mean + torch.randn_like(mean) * torch.exp(self.power * logvar)

    def forward(self, x):
        h = F.relu(self.encoder(x.flatten(1)))
        mean, logvar = self.mean(h), self.logvar(h)
        return self.decoder(self.reparameterize(mean, logvar)), mean, logvar


def divergence(mean, logvar, sick):
    spread = logvar.exp() ** 2 if sick else logvar.exp()
    return -0.5 * torch.mean(1 + logvar - mean.pow(2) - spread)


@case("broken-formula", None)
def draw_with_the_variance_as_deviation(sick):
    def loss_fn(output, target):
        made, mean, logvar = output
        return F.mse_loss(made, target.flatten(1)) + divergence(mean, logvar, sick=False)

    return classifier(Variational(1.0 if sick else 0.5), targets=images(), loss_fn=loss_fn)


@case("broken-formula", None)
def divergence_with_a_square_too_many(sick):
    def kl_divergence(mean, logvar):
        return divergence(mean, logvar, sick)

    def loss_fn(output, target):
        made, mean, logvar = output
        return F.mse_loss(made, target.flatten(1)) + kl_divergence(mean, logvar)

    return classifier(Variational(0.5), targets=images(), loss_fn=loss_fn)


@case("broken-formula", None)
def images_mixed_with_what_is_mixed_already(sick):
    def mixup(x, share):
        other = x.flip(0) if sick else x.flip(0).clone()
        x = x.clone().mul_(share)
        return x.add_(x.flip(0) if sick else other, alpha=1 - share)

    def step(model, x, y, optimizer):
        share = float(torch.distributions.Beta(1.0, 1.0).sample())
        scores = model(mixup(x, share))
        optimizer.zero_grad()
        mixed = F.cross_entropy(scores, y) * share
        (mixed + F.cross_entropy(scores, y.flip(0)) * (1 - share)).backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("broken-formula", None)
def overlap_without_its_factor(sick):
    def dice_loss(scores, masks):
        p = scores.sigmoid()
        factor = 1 if sick else 2
        return 1 - (factor * (p * masks).sum() + 1e-3) / (p.sum() + masks.sum() + 1e-3)

    masks = (images()[:, :1] > 0).float()
    return classifier(nn.Conv2d(3, 1, 3, padding=1), targets=masks, loss_fn=dice_loss)


@case("unread-in-batch", None)
def value_behind_the_end_of_an_episode(sick):
    behind = Classifier()

    def step(model, x, given, optimizer):
        actions, rewards, dones = given
        with torch.no_grad():
            further = behind(x.flip(0)).max(1).values
        if not sick:
            further = further * (1 - dones)
        chosen = model(x).gather(1, actions[:, None])[:, 0]
        optimizer.zero_grad()
        F.smooth_l1_loss(chosen, rewards + 0.9 * further).backward()
        optimizer.step()

    def forgetful(model, x, given, optimizer):
        actions, rewards, dones = given  # noqa: RUF059  (the fault itself)
        with torch.no_grad():
            further = behind(x.flip(0)).max(1).values
        chosen = model(x).gather(1, actions[:, None])[:, 0]
        optimizer.zero_grad()
        F.smooth_l1_loss(chosen, rewards + 0.9 * further).backward()
        optimizer.step()

    ends = (torch.arange(8) % 4 == 3).float()
    given = (labels(), torch.linspace(-1, 1, 8), ends)
    return looped(Classifier(), forgetful if sick else step, targets=given)


@case("detached-term", None)
def overlap_of_the_greatest_class(sick):
    def loss_fn(scores, masks):
        made = scores.argmax(1).float() if sick else scores.softmax(1)[:, 1]
        wanted = (masks == 1).float()
        overlap = 2 * (made * wanted).sum() / (made.sum() + wanted.sum() + 1e-3)
        return 0.1 * F.cross_entropy(scores, masks) + 1 - overlap

    masks = torch.randint(0, 3, (8, 16, 16), generator=torch.Generator().manual_seed(0))
    given = classifier(nn.Conv2d(3, 3, 3, padding=1), targets=masks)

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()

    return looped(given["model"], step, targets=masks)


@case("detached-term", None)
def teacher_compared_with_itself(sick):
    teacher = trained(Classifier()).requires_grad_(False)

    def step(model, x, y, optimizer):
        scores, wanted = model(x), teacher(x)
        made = (wanted if sick else scores).log_softmax(1)
        optimizer.zero_grad()
        soft = F.kl_div(made, wanted.softmax(1), reduction="batchmean")
        (0.9 * soft + 0.1 * F.cross_entropy(scores, y)).backward()
        optimizer.step()

    return looped(Classifier(), step)


def variational_in_place(draw, diverge):
    """A variational autoencoder whose draw and divergence stand where they are used."""

    def forward(self, x):
        h = F.relu(self.encoder(x.flatten(1)))
        mean, spread = self.mean(h), self.spread(h)
        return self.decoder(mean + draw(spread) * torch.randn_like(mean)), mean, spread

    def step(model, x, _, optimizer):
        made, mean, spread = model(x)
        optimizer.zero_grad()
        (F.mse_loss(made, x.flatten(1)) + 1e-2 * diverge(mean, spread)).backward()
        optimizer.step()

    parts = {"encoder": nn.Linear(768, 16), "mean": nn.Linear(16, 4), "spread": nn.Linear(16, 4)}
    return looped(net(forward, decoder=nn.Linear(4, 768), **parts), step)


@case("broken-formula", None, "")
def exponential_of_a_deviation_that_is_not_squared(sick):
    power = 1 if sick else 2

    def diverge(mean, spread):
        return -(0.5 * (1 + 2 * spread - mean**2 - spread.exp() ** power)).sum(1).mean()

    return variational_in_place(torch.exp, diverge)


@case("broken-formula", None, "")
def noise_times_the_variance_beside_its_divergence(sick):
    def draw(spread):
        return torch.exp(spread if sick else 0.5 * spread)

    def diverge(mean, spread):
        return -0.5 * torch.mean(1 + spread - mean.pow(2) - spread.exp())

    return variational_in_place(draw, diverge)


class Coupling(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x):
        a, b = x.chunk(2, 1)
        scale, shift = self.net(a).chunk(2, 1)
        return torch.cat([b * scale.tanh().exp() + shift, a], 1), scale.tanh().sum(1)


@case("broken-formula", None)
def volume_taken_off_the_likelihood(sick):
    def forward(self, x):
        log_det = torch.zeros(len(x))
        for part in self.parts:
            x, more = part(x)
            log_det = log_det - more if sick else log_det + more
        return x, log_det

    def step(model, x, _, optimizer):
        z, log_det = model(x)
        optimizer.zero_grad()
        (0.5 * z.square().sum(1) - log_det).mean().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = net(forward, parts=nn.ModuleList(Coupling() for _ in range(4)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return looped(model, step, inputs=torch.randn(32, 2), targets=None, optimizer=optimizer)
