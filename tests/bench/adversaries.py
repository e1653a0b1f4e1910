"""A generator and its critic, each with an optimizer, that cases and designs share."""

import torch
import torch.nn.functional as F
from torch import nn


def adversaries(step):
    """A generator, its critic, an optimizer for each, and a loop of both."""
    generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
    critic = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    makes, judges = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (generator, critic))
    real = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))

    def train_step(inputs):
        step(generator, critic, makes, judges, inputs, real)

    return {
        "model": nn.ModuleDict({"generator": generator, "critic": critic}),
        "inputs": torch.randn(8, 8),
        "train_step": train_step,
    }


def judged(scores, truth):
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, truth))
