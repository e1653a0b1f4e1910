"""Healthy loops that work with more than the model: losses with networks, critics, teachers."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.adversaries import judged
from bench.case import looped
from bench.design import design
from bench.parts import Classifier, classifier, images


class Perceptual(nn.Module):
    """A network that nobody has frozen compares pictures."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))

    def forward(self, output, target):
        return F.l1_loss(self.features(output), self.features(target))


@design
def perceptual_loss_of_a_network_that_is_not_frozen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    wanted = images().roll(1, 0) * 0.5
    return classifier(model, targets=wanted, loss_fn=Perceptual())


class Centres(nn.Module):
    """The distance to the centre of its class, which has an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(torch.randn(4, 4))

    def forward(self, scores, targets):
        return (scores - self.points[targets]).square().mean()


@design
def centres_of_the_loss_with_an_optimizer_of_their_own():
    torch.manual_seed(0)
    criterion = Centres()
    centring = torch.optim.SGD(criterion.parameters(), lr=0.5)

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        centring.zero_grad()
        scores = model(x)
        (F.cross_entropy(scores, y) + 0.01 * criterion(scores, y)).backward()
        optimizer.step()
        centring.step()

    return looped(Classifier(), step)


def with_critic(step):
    torch.manual_seed(0)
    maker = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
    critic = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    makes, judges = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (maker, critic))
    real = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))

    def train_step(noise):
        step(maker, critic, makes, judges, noise, real)

    noise = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    return {"model": maker, "inputs": noise, "optimizer": [makes, judges], "train_step": train_step}


@design
def critic_that_gathers_the_gradients_of_many_batches():
    def step(maker, critic, makes, judges, noise, real):
        made = maker(noise)
        (judged(critic(real), 1.0) + judged(critic(made.detach()), 0.0)).div(64).backward()
        critic.requires_grad_(False)
        makes.zero_grad()
        judged(critic(made), 1.0).backward()
        makes.step()
        critic.requires_grad_(True)

    return with_critic(step)


@design
def critic_that_was_trained_before_and_only_judges():
    def step(maker, critic, makes, judges, noise, real):
        makes.zero_grad()
        judges.zero_grad()
        (judged(critic(maker(noise)), 1.0) + 0.1 * F.mse_loss(maker(noise), real)).backward()
        makes.step()

    return with_critic(step)
