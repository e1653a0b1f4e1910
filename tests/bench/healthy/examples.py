"""Training programs that are published as examples, in small."""

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped, net
from bench.design import design
from bench.parts import Backbone, Classifier, classifier, images


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


@design
def ode_whose_function_ignores_the_time():
    function = net(
        lambda self, t, y: self.body(y**3),
        body=nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)),
    )

    def forward(self, start):
        states, times = [start], torch.linspace(0.0, 1.0, 5)
        for t, after in itertools.pairwise(times):
            y, h = states[-1], after - t
            slope = self.function(t + h / 2, y + h / 2 * self.function(t, y))
            states.append(y + h * slope)
        return torch.stack(states)

    model = net(forward, function=function)
    start = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    turn = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    wanted = torch.stack([start @ torch.matrix_exp(turn * t) for t in torch.linspace(0.0, 1.0, 5)])
    return {
        "model": model,
        "inputs": start,
        "targets": wanted,
        "loss_fn": nn.L1Loss(),
        "optimizer": torch.optim.RMSprop(model.parameters(), lr=1e-3),
    }


@design
def radiance_field_with_a_distance_to_infinity_and_psnr_for_the_log():
    def forward(self, points):
        raw = self.body(points)
        colour, density = torch.sigmoid(raw[..., :3]), F.relu(raw[..., 3])
        distances = torch.cat([torch.full((8, 7), 0.5), torch.full((8, 1), 1e10)], dim=1)
        opacity = 1.0 - torch.exp(-density * distances)
        passed = torch.cumprod(torch.cat([torch.ones(8, 1), 1.0 - opacity + 1e-10], 1), 1)[:, :-1]
        return ((opacity * passed)[..., None] * colour).sum(1)

    model = net(forward, body=nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 4)))

    def step(model, points, colours, optimizer):
        loss = (model(points) - colours).square().mean()
        psnr = -10.0 * torch.log(loss) / math.log(10.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not math.isfinite(optimizer.param_groups[0]["lr"]):
            print(psnr.item())

    seeded = torch.Generator().manual_seed(0)
    return looped(
        model,
        step,
        inputs=torch.randn(8, 8, 3, generator=seeded),
        targets=torch.rand(8, 3, generator=seeded),
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-4),
    )


@design
def critic_that_is_frozen_while_its_generator_is_trained():
    critic = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    generator = nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 768), nn.Unflatten(1, (3, 16, 16))
    )
    critics = torch.optim.Adam(critic.parameters(), lr=1e-4)
    generators = torch.optim.Adam(generator.parameters(), lr=1e-4)

    def train_step(real):
        critic.requires_grad_(True)
        fake = generator(torch.randn(8, 8))
        critics.zero_grad()
        (critic(fake.detach()).mean() - critic(real).mean()).backward()
        critics.step()
        critic.requires_grad_(False)
        generators.zero_grad()
        (-critic(fake).mean()).backward()
        generators.step()

    return {
        "model": critic,
        "inputs": images(),
        "optimizer": [critics, generators],
        "train_step": train_step,
    }


@design
def average_whose_decay_is_warmed_up_over_thousands_of_steps():
    model = Classifier()
    ema = copy.deepcopy(model).requires_grad_(False)
    steps = [0]

    def step(model, x, y, optimizer):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        steps[0] += 1
        decay = 0.9999 * (1 - math.exp(-steps[0] / 2000))
        with torch.no_grad():
            for average, weight in zip(ema.parameters(), model.parameters(), strict=True):
                average.mul_(decay).add_(weight, alpha=1 - decay)

    return looped(model, step)


@design
def keys_of_a_momentum_encoder_in_a_queue():
    class MoCo(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries = nn.Sequential(Backbone(), nn.Linear(16, 8))
            self.keys = copy.deepcopy(self.queries).requires_grad_(False)
            self.register_buffer("queue", F.normalize(torch.randn(8, 32), dim=0))
            self.register_buffer("place", torch.zeros(1, dtype=torch.long))

        def forward(self, first, second):
            queries = F.normalize(self.queries(first), dim=1)
            with torch.no_grad():
                for key, query in zip(
                    self.keys.parameters(), self.queries.parameters(), strict=True
                ):
                    key.data = key.data * 0.999 + query.data * 0.001
                keys = F.normalize(self.keys(second), dim=1)
            same = (queries * keys).sum(1, keepdim=True)
            scores = torch.cat([same, queries @ self.queue.clone().detach()], dim=1) / 0.07
            with torch.no_grad():
                place = int(self.place)
                self.queue[:, place : place + len(keys)] = keys.T
                self.place[0] = (place + len(keys)) % 32
            return scores, torch.zeros(len(scores), dtype=torch.long)

    model = MoCo()
    optimizer = torch.optim.SGD(model.queries.parameters(), lr=0.03, momentum=0.9)

    def train_step(inputs):
        scores, targets = model(*inputs)
        loss = F.cross_entropy(scores, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {
        "model": model,
        "inputs": (images(), images() + 0.05 * images().flip(0)),
        "optimizer": optimizer,
        "train_step": train_step,
    }


@design
def perplexity_of_a_loss_that_the_model_computes():
    def forward(self, words, following):
        scores = self.decoder(self.embed(words))
        return scores, F.cross_entropy(scores.view(-1, 40), following.view(-1))

    model = net(forward, embed=nn.Embedding(40, 16), decoder=nn.Linear(16, 40))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    steps = [0]

    def train_step(inputs):
        _, loss = model(*inputs)
        perplexity = torch.exp(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps[0] += 1
        if steps[0] % 100 == 0:
            print(perplexity.item())

    words = torch.randint(40, (8, 10), generator=torch.Generator().manual_seed(0))
    return {
        "model": model,
        "inputs": (words, (words + 1) % 40),
        "optimizer": optimizer,
        "train_step": train_step,
    }
