"""What loops of training are made of whose losses are judged."""

import torch
from torch import nn

import cnnprobe

RULES = {"detached-term", "idle-term", "unused-loss"}


def perceptron(*, inputs=6, outputs=4):
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


class Loop:
    """What the loops below work with; `step` is one of them."""

    def __init__(self, step):
        torch.manual_seed(0)
        self.model, self.critic, self.teacher = perceptron(), perceptron(inputs=4), perceptron()
        self.teacher.requires_grad_(False)
        self.prior = nn.Parameter(torch.zeros(4))
        self.optimizer = torch.optim.SGD([*self.model.parameters(), self.prior], lr=0.01)
        self.other = torch.optim.SGD(self.critic.parameters(), lr=0.01)
        self.x, self.y = torch.randn(12, 6), torch.arange(12) % 4
        self.real = torch.randn(12, 4) + 1
        self.log, self.kept = [], []
        self.step = step

    def judge(self, x):
        return self.critic(x).mean(1)

    def train(self, loss, optimizer=None):
        optimizer = optimizer or self.optimizer
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def find(self):
        report = cnnprobe.diagnose(
            self.model,
            self.x,
            self.y,
            optimizer=[self.optimizer, self.other],
            train_step=lambda inputs, targets: self.step(self, inputs, targets),
            trials=0,
        )
        assert [] == [n for n in report.trace.notes if "report this" in n or "could not judge" in n]
        return [f for f in report.findings if f.rule in RULES]
