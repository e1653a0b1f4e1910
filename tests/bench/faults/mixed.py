"""Faults of losses, draws and loops that no single layer shows, and whose first reading
misleads.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.adversaries import adversaries, judged
from bench.case import case, looped, net
from bench.parts import Backbone, Classifier, classifier, images, labels


@case("no-zero-grad", None)
def closure_that_clears_nothing(sick):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def step(model, inputs, targets, optimizer):
        def closure():
            if not sick:
                optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        optimizer.step(closure)

    return looped(model, step, optimizer=optimizer)


@case("loss-activation-mismatch", "fc")
def scores_into_a_ctc_loss(sick):
    def forward(self, x):
        return self.fc(self.rnn(x)[0]).transpose(0, 1)

    def loss_fn(scores, words):
        scores = scores if sick else scores.log_softmax(-1)
        lengths = torch.full((8,), 16), torch.full((8,), 3)
        return F.ctc_loss(scores, words, *lengths)

    parts = {"rnn": nn.GRU(16, 16, batch_first=True), "fc": nn.Linear(16, 6)}
    words = torch.randint(1, 6, (8, 3), generator=torch.Generator().manual_seed(0))
    given = {"inputs": images()[:, 0], "targets": words, "loss_fn": loss_fn}
    return classifier(net(forward, **parts), **given)


@case("activation-on-logits", None)
def temperature_that_multiplies(sick):
    model = nn.Sequential(Backbone(), nn.Linear(16, 8))

    def step(model, inputs, targets, optimizer):
        first = F.normalize(model(inputs), dim=1)
        second = F.normalize(model(inputs + 0.1 * torch.randn_like(inputs)), dim=1)
        cosines = first @ second.T
        logits = cosines * 0.2 if sick else cosines / 0.2
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.arange(8)).backward()
        optimizer.step()

    return looped(model, step)


@case("loss-broadcast", None)
def maps_of_all_against_maps_of_all(sick):
    model = nn.Conv2d(3, 1, 3, padding=1)

    def loss_fn(output, target):
        p = output.sigmoid() if sick else output.squeeze(1).sigmoid()
        return -(target * p.log() + (1 - target) * (1 - p).log()).mean()

    return classifier(model, targets=(images()[:, 0] > 0).float(), loss_fn=loss_fn)


@case("lr-collapsed", None)
def plateau_that_waits_for_a_larger_loss(sick):
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    mode = "max" if sick else "min"
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, patience=1)

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step(loss.item())

    return looped(model, step, optimizer=optimizer, scheduler=scheduler)


@case("no-grad-path", None, "")
def generator_judged_by_what_was_detached(sick):
    def step(generator, critic, makes, judges, noise, real):
        fake = generator(noise)
        judges.zero_grad()
        (judged(critic(real), 1.0) + judged(critic(fake.detach()), 0.0)).backward()
        judges.step()
        makes.zero_grad()
        judged(critic(fake.detach() if sick else fake), 1.0).backward()
        makes.step()

    return adversaries(step)


@case("no-grad-params", "router")
def experts_without_the_weight_of_their_gate(sick):
    def forward(self, x):
        weight, choice = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            chosen = choice == i
            if chosen.any():
                made = expert(x[chosen])
                out[chosen] = made if sick else weight[chosen, None] * made
        return self.fc(x + out)

    experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
    parts = {"router": nn.Linear(16, 3), "experts": experts, "fc": nn.Linear(16, 4)}
    points = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    return classifier(net(forward, **parts), inputs=points, targets=labels(32))


@case("no-grad-path", "first")
def checkpoint_of_an_input_without_gradient(sick):
    def forward(self, x):
        x = checkpoint(self.first, x, use_reentrant=sick)
        return self.fc(F.relu(x).mean((2, 3)))

    parts = {"first": nn.Conv2d(3, 8, 3), "fc": nn.Linear(8, 4)}
    return classifier(net(forward, **parts))


@case("loss-activation-mismatch", "")
def boxes_in_pixels_beside_classes(sick):
    def forward(self, x):
        features = self.body(x)
        return self.classes(features), self.boxes(features).sigmoid()

    def loss_fn(output, targets):
        return F.cross_entropy(output[0], targets[0]) + F.l1_loss(output[1], targets[1])

    parts = {"body": Backbone(), "classes": nn.Linear(16, 4), "boxes": nn.Linear(16, 4)}
    boxes = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) * (16 if sick else 1)
    return classifier(net(forward, **parts), targets=(labels(), boxes), loss_fn=loss_fn)


@case("loss-detached", None)
def list_of_losses_made_a_tensor(sick):
    def step(model, inputs, targets, optimizer):
        output = model(inputs)
        losses = [F.cross_entropy(output, targets), 0.01 * output.square().mean()]
        loss = torch.tensor(losses, requires_grad=True) if sick else torch.stack(losses)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()

    return looped(Classifier(), step)
