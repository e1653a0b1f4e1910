"""Generative models that are healthy."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.design import design
from bench.parts import images


def generator_and_discriminator():
    generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3 * 16 * 16), nn.Tanh())
    discriminator = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 16 * 16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)
    )
    opt_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    real = torch.tanh(images())
    bce = nn.BCEWithLogitsLoss()

    def train_step(z):
        fake = generator(z).view(-1, 3, 16, 16)
        opt_d.zero_grad()
        d_loss = bce(discriminator(real), torch.ones(8, 1)) + bce(
            discriminator(fake.detach()), torch.zeros(8, 1)
        )
        d_loss.backward()
        opt_d.step()
        opt_g.zero_grad()
        g_loss = bce(discriminator(fake), torch.ones(8, 1))
        g_loss.backward()
        opt_g.step()
        return d_loss.item(), g_loss.item()

    return generator, discriminator, opt_g, opt_d, train_step


@design
def gan_generator():
    generator, _, opt_g, _, train_step = generator_and_discriminator()
    return {
        "model": generator,
        "inputs": torch.randn(8, 8),
        "optimizer": opt_g,
        "train_step": train_step,
    }


@design
def gan_discriminator():
    _, discriminator, _, opt_d, train_step = generator_and_discriminator()
    return {
        "model": discriminator,
        "inputs": images(),
        "optimizer": opt_d,
        "train_step": lambda x: train_step(torch.randn(8, 8)),
    }


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator, self.discriminator, *_ = generator_and_discriminator()

    def forward(self, z):
        return self.discriminator(self.generator(z).view(-1, 3, 16, 16))


@design
def gan_in_one_module_with_a_wasserstein_loss():
    model = Gan()
    opt_g = torch.optim.RMSprop(model.generator.parameters(), lr=5e-5)
    opt_d = torch.optim.RMSprop(model.discriminator.parameters(), lr=5e-5)

    def train_step(model, inputs, targets):
        fake = model.generator(inputs).view(-1, 3, 16, 16)
        opt_d.zero_grad()
        (model.discriminator(fake.detach()).mean() - model.discriminator(targets).mean()).backward()
        opt_d.step()
        opt_g.zero_grad()
        (-model.discriminator(fake).mean()).backward()
        opt_g.step()

    return {
        "model": model,
        "inputs": torch.randn(8, 8),
        "targets": images(),
        "optimizer": opt_g,
        "train_step": train_step,
    }


class TiedAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(256, 32)
        self.bias = nn.Parameter(torch.zeros(256))

    def forward(self, x):
        return F.linear(torch.relu(self.encoder(x)), self.encoder.weight.t(), self.bias)


@design
def tied_autoencoder():
    model = TiedAutoencoder()
    x = images(c=1).flatten(1)
    return {
        "model": model,
        "inputs": x,
        "targets": x,
        "loss_fn": nn.MSELoss(),
        "optimizer": torch.optim.Adam(model.parameters()),
    }


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.mean, self.log_variance = (
            nn.Linear(256, 32),
            nn.Linear(32, 4),
            nn.Linear(32, 4),
        )
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 256))

    def forward(self, x):
        hidden = torch.relu(self.encoder(x))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.decoder(z), mean, log_variance


@design
def variational_autoencoder():
    model = Vae()

    def elbo(outputs, x):
        y, mean, log_variance = outputs
        return F.binary_cross_entropy_with_logits(y, x) - 0.5 * torch.mean(
            1 + log_variance - mean**2 - log_variance.exp()
        )

    x = images(c=1).flatten(1).sigmoid()
    return {
        "model": model,
        "inputs": x,
        "targets": x,
        "loss_fn": elbo,
        "optimizer": torch.optim.Adam(model.parameters()),
    }
