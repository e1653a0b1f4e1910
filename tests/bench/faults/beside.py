"""Faults of what the step works with beside the model."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.adversaries import judged
from bench.case import case
from bench.parts import Backbone, classifier


class Prototypes(nn.Module):
    """Cross entropy over the distances to a learned point for each class."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(torch.randn(4, 16))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, features, targets):
        far = torch.cdist(features, self.points).square().mul(0.1)
        return F.cross_entropy(-far * self.log_scale.exp(), targets)


@case("unoptimized-params", None)
def prototypes_of_the_loss_in_no_optimizer(sick):
    torch.manual_seed(0)
    model, criterion = Backbone(), Prototypes()
    trained = [*model.parameters(), *(() if sick else criterion.parameters())]
    return classifier(model, loss_fn=criterion, optimizer=torch.optim.Adam(trained, lr=1e-2))


@case("idle-optimizer", None)
def critic_that_is_cleared_and_never_stepped(sick):
    torch.manual_seed(0)
    maker = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
    critic = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    makes, judges = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (maker, critic))
    real = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))

    def train_step(noise):
        made = maker(noise)
        judges.zero_grad()
        (judged(critic(real), 1.0) + judged(critic(made.detach()), 0.0)).backward()
        if not sick:
            judges.step()
        makes.zero_grad()
        judged(critic(made), 1.0).backward()
        makes.step()

    noise = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    return {"model": maker, "inputs": noise, "optimizer": [makes, judges], "train_step": train_step}
