"""Silent faults as people write them, each with its corrected twin: `CASES[name](sick)` gives the arguments of `diagnose`.

`@case(rule, *modules)` says what has to be found, and where: any of the modules is right, None is the loop, the loss or the data.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bench.designs import Backbone, Classifier, classifier, images, labels

CASES = {}


@dataclass(frozen=True)
class Case:
    rule: str
    modules: tuple
    build: object


def case(rule, *modules):
    def keep(build):
        CASES[build.__name__] = Case(rule, modules, build)
        return build

    return keep


def looped(model, step, **others):
    optimizer = others.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(model, inputs, targets):
        return step(model, inputs, targets, optimizer)

    return {"model": model, "inputs": images(), "targets": labels(), "optimizer": optimizer, "train_step": train_step} | others


def net(forward, **parts):
    """A Net with these parts and this forward."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

    Net.forward = forward
    return Net()


@case("softmax-before-ce", "")
def functional_softmax_in_the_root(sick):
    def forward(self, x):
        x = self.fc(self.backbone(x))
        return F.softmax(x, dim=1) if sick else x

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("softmax-before-ce", "")
def softmax_by_hand(sick):
    def forward(self, x):
        x = self.fc(self.backbone(x))
        e = torch.exp(x - x.max(dim=1, keepdim=True)[0])
        return e / e.sum(dim=1, keepdim=True) if sick else x

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("softmax-before-ce", None, "head.1", "head")
def softmax_in_the_loop(sick):
    model = Classifier()

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        output = model(x)
        probabilities = torch.softmax(output, 1) if sick else output
        nn.CrossEntropyLoss()(probabilities, y).backward()
        optimizer.step()

    return looped(model, step)


@case("sigmoid-before-bcewl", "")
def segmentation_with_two_sigmoids(sick):
    def forward(self, x):
        x = self.out(F.relu(self.conv(x)))
        return torch.sigmoid(x) if sick else x

    model = net(forward, conv=nn.Conv2d(3, 8, 3, padding=1), out=nn.Conv2d(8, 1, 1))
    return classifier(model, targets=(images()[:, :1] > 0).float(), loss_fn=F.binary_cross_entropy_with_logits)


@case("probs-into-nll", "")
def softmax_into_nll(sick):
    def forward(self, x):
        x = self.fc(self.backbone(x))
        return F.softmax(x, 1) if sick else F.log_softmax(x, 1)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)), loss_fn=F.nll_loss)


@case("activation-on-logits", "")
def relu_on_every_layer(sick):
    def forward(self, x):
        x = F.relu(self.fc1(x.flatten(1)))
        x = self.fc2(x)
        return F.relu(x) if sick else x

    return classifier(net(forward, fc1=nn.Linear(768, 32), fc2=nn.Linear(32, 4)))


@case("softmax-dim", "")
def softmax_over_the_batch(sick):
    def forward(self, x):
        return F.log_softmax(self.fc(self.backbone(x)), dim=0 if sick else 1)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)), loss_fn=nn.NLLLoss())


@case("loss-activation-mismatch", "")
def relu_for_targets_of_both_signs(sick):
    def forward(self, x):
        x = self.fc2(F.relu(self.fc1(x.flatten(1)))).squeeze(1)
        return F.relu(x) if sick else x

    return classifier(net(forward, fc1=nn.Linear(768, 32), fc2=nn.Linear(32, 1)), targets=torch.linspace(-2, 2, 8), loss_fn=nn.MSELoss())


@case("loss-activation-mismatch", "fc", "")
def logits_into_nll(sick):
    def forward(self, x):
        x = self.fc(self.backbone(x))
        return x if sick else F.log_softmax(x, 1)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)), loss_fn=nn.NLLLoss())


@case("loss-broadcast", None)
def column_against_row(sick):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 1))

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        output = model(x)
        ((output if sick else output.squeeze(1)) - y).pow(2).mean().backward()
        optimizer.step()

    return looped(model, step, targets=torch.linspace(-1, 1, 8))


@case("loss-sign", None)
def negative_criterion(sick):
    criterion = nn.CrossEntropyLoss()
    return classifier(Classifier(), loss_fn=lambda output, y: -criterion(output, y) if sick else criterion(output, y))


@case("loss-sign", None)
def log_likelihood_without_minus(sick):
    def loss_fn(output, y):
        likelihood = F.log_softmax(output, dim=1)[torch.arange(8), y].mean()
        return likelihood if sick else -likelihood

    return classifier(Classifier(), loss_fn=loss_fn)


@case("loss-detached", None)
def loss_through_numpy(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if sick:
            loss = torch.tensor(loss.detach().numpy(), requires_grad=True)
        loss.backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("unregistered-module", "")
def blocks_in_a_dict(sick):
    blocks = {"first": nn.Linear(768, 32), "second": nn.Linear(32, 32)}

    def forward(self, x):
        x = x.flatten(1)
        for name in ("first", "second"):
            x = F.relu(self.blocks[name](x))
        return self.head(x)

    return classifier(net(forward, blocks=blocks if sick else nn.ModuleDict(blocks), head=nn.Linear(32, 4)))


@case("unregistered-parameter", "")
def parameter_that_was_moved(sick):
    scale = nn.Parameter(torch.ones(16))

    def forward(self, x):
        return self.fc(self.backbone(x) * self.scale)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4), scale=scale * 0.5 if sick else scale))


@case("unoptimized-params", "fc")
def optimizer_of_the_backbone_only(sick):
    model = Classifier()
    trained = model.backbone.parameters() if sick else model.parameters()
    return classifier(model, optimizer=torch.optim.Adam(trained, lr=1e-3))


@case("stale-optimizer", "fc")
def head_replaced_after_the_optimizer(sick):
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if sick:
        model.fc = nn.Linear(16, 4)
    return classifier(model, optimizer=optimizer)


@case("unused-module", "bn2")
def forgotten_layer(sick):
    def forward(self, x):
        x = self.conv2(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(x if sick else self.bn2(x))
        return self.fc(x.mean((2, 3)))

    parts = {
        "conv1": nn.Conv2d(3, 8, 3, bias=False),
        "bn1": nn.BatchNorm2d(8),
        "conv2": nn.Conv2d(8, 8, 3, bias=False),
        "bn2": nn.BatchNorm2d(8),
    }
    return classifier(net(forward, **parts, fc=nn.Linear(8, 4)))


@case("shared-module", "body.0")
def repeated_block(sick):
    def block():
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())

    one = block()
    body = [one] * 3 if sick else [block() for _ in range(3)]

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.fc(self.body(x).mean((2, 3)))

    return classifier(net(forward, stem=nn.Conv2d(3, 8, 3), body=nn.Sequential(*body), fc=nn.Linear(8, 4)))


@case("no-grad-path", "backbone", "", "backbone.conv1")
def features_under_no_grad(sick):
    def forward(self, x):
        with torch.set_grad_enabled(not sick and torch.is_grad_enabled()):
            x = self.backbone(x)
        return self.fc(x)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("no-grad-path", "")
def data_in_the_forward(sick):
    def forward(self, x):
        x = self.backbone(x)
        return self.fc(x.data if sick else x)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("missing-nonlinearity", "conv1", "conv2")
def convolutions_in_a_row(sick):
    def forward(self, x):
        x = self.conv1(x)
        x = F.relu(self.conv2(x if sick else F.relu(x)))
        return self.fc(x.mean((2, 3)))

    return classifier(net(forward, conv1=nn.Conv2d(3, 8, 3), conv2=nn.Conv2d(8, 16, 3), fc=nn.Linear(16, 4)))


@case("missing-nonlinearity", "fc1", "fc2")
def functional_linear_layers_in_a_row(sick):
    def forward(self, x):
        x = F.relu(self.conv(x)).flatten(1)
        x = self.fc1(x)
        return self.fc2(F.dropout(x, 0.2, self.training) if sick else F.relu(x))

    return classifier(net(forward, conv=nn.Conv2d(3, 4, 3), fc1=nn.Linear(784, 32), fc2=nn.Linear(32, 4)))


@case("dead-output", "bn", "")
def batch_norm_that_is_dropped(sick):
    def forward(self, x):
        x = self.conv(x)
        if sick:
            self.bn(x)
        else:
            x = self.bn(x)
        return self.fc(F.relu(x).mean((2, 3)))

    return classifier(net(forward, conv=nn.Conv2d(3, 8, 3, bias=False), bn=nn.BatchNorm2d(8), fc=nn.Linear(8, 4)))


@case("inplace-skip", "", "relu")
def identity_overwritten(sick):
    def forward(self, x):
        x = self.stem(x)
        identity = x
        y = F.relu(x, inplace=sick)
        y = self.conv(y)
        y = y + identity
        return self.fc(y.mean((2, 3)))

    return classifier(net(forward, stem=nn.Conv2d(3, 8, 3), conv=nn.Conv2d(8, 8, 3, padding=1), fc=nn.Linear(8, 4)))


@case("input-mutated", "")
def normalised_in_place(sick):
    def forward(self, x):
        if sick:
            x -= 0.1
        else:
            x = x - 0.1
        return self.fc(self.backbone(x))

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("reshape-scramble", "")
def tokens_by_view(sick):
    def forward(self, x):
        x = F.relu(self.conv(x))
        n, c, h, w = x.shape
        x = x.reshape(n, h, w, c) if sick else x.permute(0, 2, 3, 1)
        return self.fc(x).mean((1, 2))

    return classifier(net(forward, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 4)))


@case("batch-leak", "lstm")
def lstm_without_batch_first(sick):
    def forward(self, x):
        out, _ = self.lstm(x[:, 0])
        return self.fc(out[:, -1])

    return classifier(net(forward, lstm=nn.LSTM(16, 8, batch_first=not sick), fc=nn.Linear(8, 4)))


@case("batch-leak", "")
def normalised_over_the_batch(sick):
    def forward(self, x):
        x = self.backbone(x)
        x = (x - x.mean(0 if sick else 1, keepdim=True)) / (x.std(0 if sick else 1, keepdim=True) + 1e-5)
        return self.fc(x)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("ignored-input", "")
def second_input_overwritten(sick):
    def forward(self, image, extra):
        a = self.backbone(image)
        b = F.relu(self.side(a[:, :5] if sick else extra))
        return self.fc(torch.cat([a, b], 1))

    model = net(forward, backbone=Backbone(), side=nn.Linear(5, 8), fc=nn.Linear(24, 4))
    return classifier(model, inputs=(images(), torch.randn(8, 5)))


@case("functional-dropout", "")
def dropout_that_stays_on(sick):
    def forward(self, x):
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.dropout(x, p=0.3) if sick else F.dropout(x, p=0.3, training=self.training)
        return self.fc2(x)

    return classifier(net(forward, fc1=nn.Linear(768, 32), fc2=nn.Linear(32, 4)))


@case("input-range", None)
def raw_pixels(sick):
    x = (images().sigmoid() * 255).round()
    return classifier(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), inputs=x if sick else x / 255
    )


@case("bn-reused", "bn")
def one_batch_norm_for_two_convolutions(sick):
    def forward(self, x):
        x = F.relu(self.bn(self.conv1(x)))
        x = F.relu((self.bn if sick else self.bn2)(self.conv2(x)))
        return self.fc(x.mean((2, 3)))

    parts = {"conv1": nn.Conv2d(3, 8, 3, bias=False), "conv2": nn.Conv2d(8, 8, 3, bias=False), "bn": nn.BatchNorm2d(8)}
    return classifier(net(forward, **parts, **({} if sick else {"bn2": nn.BatchNorm2d(8)}), fc=nn.Linear(8, 4)))


@case("bn-momentum-zero", "backbone.bn1")
def momentum_zero(sick):
    model = Classifier()
    model.backbone.bn1.momentum = 0.0 if sick else 0.1
    return classifier(model)


@case("nan-forward", "")
def logarithm_of_zero(sick):
    def forward(self, x):
        x = F.relu(self.conv(x)).mean((2, 3))
        return self.fc(torch.log(F.relu(x - 0.2) if sick else F.relu(x - 0.2) + 1e-3))

    return classifier(net(forward, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 4)))


@case("dead-relu", "", "1")
def bias_of_minus_a_hundred(sick):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    nn.init.constant_(model[0].bias, -100.0 if sick else 0.0)
    return classifier(model)


@case("vanishing-gradient", "0", "1", "2", "3")
def deep_sigmoids(sick):
    layers = [layer for _ in range(14) for layer in (nn.Linear(32, 32), nn.Sigmoid() if sick else nn.ReLU())]
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), *layers, nn.Linear(32, 4))
    if not sick:
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
    return classifier(model)


@case("bad-init", "fc1")
def standard_normal_weights(sick):
    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x.flatten(1))))

    model = net(forward, fc1=nn.Linear(768, 64), fc2=nn.Linear(64, 4))
    nn.init.normal_(model.fc1.weight, std=1.0 if sick else 0.05)
    return classifier(model)


@case("constant-init", "fc1", "fc2")
def everything_zero(sick):
    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x.flatten(1))))

    model = net(forward, fc1=nn.Linear(768, 64), fc2=nn.Linear(64, 4))
    if sick:
        for p in model.parameters():
            nn.init.zeros_(p)
    return classifier(model)


@case("no-zero-grad", None)
def no_zero_grad(sick):
    def step(model, x, y, optimizer):
        if not sick:
            model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("no-zero-grad", None)
def zero_grad_between_backward_and_step(sick):
    def step(model, x, y, optimizer):
        if not sick:
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return looped(Classifier(), step)


@case("eval-mode-in-train", None)
def eval_after_validation(sick):
    def step(model, x, y, optimizer):
        if not sick:
            model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            model(x)

    given = looped(Classifier(), step)
    given["model"].eval()
    return given


@case("clip-ineffective", None)
def clipped_after_the_step(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if sick:
            optimizer.step()
        nn.utils.clip_grad_value_(model.parameters(), 0.1)
        if not sick:
            optimizer.step()

    return looped(Classifier(), step)


@case("lr-collapsed", None)
def exponential_decay_every_batch(sick):
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9 if sick else 0.999)

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()

    return looped(model, step, optimizer=optimizer)


@case("lr-too-high", None)
def adam_with_a_rate_of_one(sick):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    targets = labels() if not sick else torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    return classifier(model, targets=targets, optimizer=torch.optim.SGD(model.parameters(), lr=50.0 if sick else 0.01))


@case("graph-kept-alive", None)
def running_total_of_losses(sick):
    total = [0.0]

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total[0] += loss if sick else loss.item()

    return looped(Classifier(), step)


@case("step-missing", None)
def forgotten_step(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if not sick:
            optimizer.step()

    return looped(Classifier(), step)


@case("dropout-rate", "drop")
def keep_probability_as_rate(sick):
    def forward(self, x):
        return self.fc2(self.drop(F.relu(self.fc1(x.flatten(1)))))

    return classifier(net(forward, fc1=nn.Linear(768, 64), drop=nn.Dropout(0.95 if sick else 0.05), fc2=nn.Linear(64, 4)))


@case("eval-nondeterminism", "")
def noise_in_eval_mode(sick):
    def forward(self, x):
        x = self.backbone(x)
        if self.training or sick:
            x = x + 0.1 * torch.randn_like(x)
        return self.fc(x)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("zero-grad", "backbone", "backbone.conv1", "")
def rounded_features(sick):
    def forward(self, x):
        x = self.backbone(x)
        return self.fc(torch.round(x * 4) if sick else x * 4)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("negative-loss", None)
def masks_of_255(sick):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    return classifier(model, targets=(images()[:, :1] > 0).float() * (255 if sick else 1), loss_fn=nn.BCEWithLogitsLoss())


@case("frozen-params", "fc")
def everything_but_the_backbone_frozen(sick):
    model = Classifier()
    (model.fc if sick else model.backbone).requires_grad_(False)
    if not sick:
        model.backbone.eval()
    return classifier(model)


@case("exploding-activation", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")
def deep_network_of_standard_normal_weights(sick):
    layers = [layer for _ in range(5) for layer in (nn.Linear(64, 64, bias=False), nn.ReLU())]
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), *layers, nn.Linear(64, 4))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1.5) if sick else nn.init.kaiming_normal_(layer.weight)
    return classifier(model)


@case("constant-output", "", "1", "2")
def mean_over_everything(sick):
    def forward(self, x):
        x = self.backbone(x)
        return self.fc(x * 0 if sick else x)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("unregistered-tensor", "")
def class_weights_as_a_plain_tensor(sick):
    model = Classifier()
    if sick:
        model.mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    else:
        model.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def forward(self, x):
        return self.fc(self.backbone(x - self.mean))

    type(model).forward, kept = type(model).forward, type(model).forward
    model.__class__ = type("Normalising", (Classifier,), {"forward": forward})
    assert type(model).forward is not kept
    return classifier(model)
