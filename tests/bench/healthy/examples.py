"""Training programs that are published as examples, in small."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped, net
from bench.design import design
from bench.parts import classifier, images


@design
def language_model_whose_log_softmax_is_flattened_for_the_loss():
    def forward(self, words):
        return F.log_softmax(self.decoder(self.encoder(self.embed(words))), dim=-1)

    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0)
    parts = {"embed": nn.Embedding(40, 16), "encoder": layer, "decoder": nn.Linear(16, 40)}
    words = torch.randint(40, (12, 10), generator=torch.Generator().manual_seed(0))

    def nll(output, targets):
        return F.nll_loss(output.view(-1, 40), targets.view(-1))

    return classifier(net(forward, **parts), inputs=words, targets=(words + 1) % 40, loss_fn=nll)


@design
def discriminator_whose_losses_are_summed_for_the_log():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    fake = images().flip(0) * 0.5
    log = []

    def step(model, real, targets, optimizer):
        optimizer.zero_grad()
        real_loss = F.softplus(-model(real)).mean()
        real_loss.backward()
        fake_loss = F.softplus(model(fake)).mean()
        fake_loss.backward()
        loss = real_loss + fake_loss
        optimizer.step()
        if len(log) > 100:  # a step in a hundred is logged
            log.append(loss.item())

    return looped(model, step, optimizer=torch.optim.Adam(model.parameters(), lr=2e-4))


@design
def graph_attention_whose_mask_is_a_huge_constant():
    def forward(self, x, edges):
        h = self.embed(x)
        scores = F.leaky_relu(self.source(h) + self.target(h).mT, 0.2)
        scores = torch.where(edges > 0, scores, -9e16 * torch.ones_like(scores))
        return self.fc(F.elu(F.softmax(scores, dim=-1) @ h))

    parts = {
        "embed": nn.Linear(6, 16),
        "source": nn.Linear(16, 1),
        "target": nn.Linear(16, 1),
        "fc": nn.Linear(16, 4),
    }
    seeded = torch.Generator().manual_seed(0)
    nodes = torch.randn(12, 6, generator=seeded)
    edges = (torch.rand(12, 12, generator=seeded) < 0.3).float() + torch.eye(12)
    model = net(forward, **parts)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def train_step(inputs, targets):
        optimizer.zero_grad()
        F.cross_entropy(model(*inputs), targets).backward()
        optimizer.step()
        with torch.no_grad():
            model(*inputs)

    return {
        "model": model,
        "inputs": (nodes, edges),
        "targets": torch.arange(12) % 4,
        "optimizer": optimizer,
        "train_step": train_step,
    }


@design
def policy_of_tanhs_that_begins_near_uniform():
    def layer(inputs, outputs, gain=2**0.5):
        linear = nn.Linear(inputs, outputs)
        nn.init.orthogonal_(linear.weight, gain)
        nn.init.zeros_(linear.bias)
        return linear

    def head(outputs, gain):
        return nn.Sequential(
            layer(4, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, outputs, gain)
        )

    model = net(
        lambda self, x: (self.actor(x), self.critic(x)), actor=head(2, 0.01), critic=head(1, 1.0)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4, eps=1e-5)

    def train_step(states):
        with torch.no_grad():
            scores, values = model(states)
            policy = torch.distributions.Categorical(logits=scores)
            actions = policy.sample()
            before = policy.log_prob(actions)
            returns = states[:, 0] * (2 * actions - 1)
            advantages = returns - values.flatten()
        for rows in torch.randperm(32).split(8):
            scores, values = model(states[rows])
            policy = torch.distributions.Categorical(logits=scores)
            ratio = (policy.log_prob(actions[rows]) - before[rows]).exp()
            gained = advantages[rows]
            surrogate = torch.max(-gained * ratio, -gained * ratio.clamp(0.8, 1.2)).mean()
            fit = 0.5 * (values.flatten() - returns[rows]).square().mean()
            loss = surrogate - 0.01 * policy.entropy().mean() + 0.5 * fit
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()

    states = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    return {"model": model, "inputs": states, "optimizer": optimizer, "train_step": train_step}
