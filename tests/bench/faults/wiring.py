"""Layers, optimizers, schedules and clippings that are there and have no effect, each with its
corrected twin.
"""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped, net
from bench.faults.optimizer import scaling
from bench.parts import Backbone, Classifier, classifier, images


@case("unregistered-module", "")
def layer_that_is_made_in_the_forward(sick):
    def forward(self, x):
        x = self.drop(self.body(x))
        return (nn.Linear(x.shape[1], 4) if sick else self.fc)(x)

    return classifier(
        net(
            forward,
            body=Backbone(),
            drop=nn.Dropout(0.1),
            **({} if sick else {"fc": nn.Linear(16, 4)}),
        )
    )


@case("unregistered-module", "head")
def projection_that_is_made_in_the_forward_of_a_head(sick):
    def forward(self, x):
        project = nn.Conv2d(8, 16, 1) if sick else self.project
        return self.fc(F.relu(project(x)).mean((2, 3)))

    head = net(forward, fc=nn.Linear(16, 4), **({} if sick else {"project": nn.Conv2d(8, 16, 1)}))
    return classifier(
        net(lambda self, x: self.head(F.relu(self.stem(x))), stem=nn.Conv2d(3, 8, 3), head=head)
    )


@case("norm-over-one-value", "norm")
def instance_norm_as_groups_behind_the_pooling(sick):
    def forward(self, x):
        return self.fc(self.norm(self.body(x)[..., None, None]).flatten(1))

    return classifier(
        net(forward, body=Backbone(), norm=nn.GroupNorm(16 if sick else 4, 16), fc=nn.Linear(16, 4))
    )


@case("norm-over-one-value", "4")
def layer_norm_of_the_last_axis_of_a_picture(sick):
    shape = (1,) if sick else (16, 1, 1)
    return classifier(
        nn.Sequential(
            nn.Conv2d(3, 16, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Identity(),
            nn.LayerNorm(shape),
            nn.Flatten(),
            nn.Linear(16, 4),
        )
    )


@case("schedule-at-zero", None)
def warm_up_that_divides_whole_numbers(sick):
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    rise = (lambda epoch: min(1, epoch // 5)) if sick else (lambda epoch: min(1.0, epoch / 5))
    return classifier(
        model, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, rise)
    )


@case("idle-optimizer", "backbone", "backbone.conv1", "backbone.conv2")
def optimizer_of_the_backbone_that_never_steps(sick):
    model = Classifier()
    slow = torch.optim.SGD(model.backbone.parameters(), lr=0.01)
    fast = torch.optim.SGD(model.fc.parameters(), lr=0.05)

    def step(model, inputs, targets, optimizer):
        slow.zero_grad()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        if not sick:
            slow.step()

    return looped(model, step, optimizer=fast)


@case("lr-too-low", None)
def clipping_to_a_limit_in_millionths(sick):
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-6 if sick else 0.1)
        optimizer.step()

    return looped(Classifier(), step)


@case("lr-too-low", None)
def scaled_loss_that_nobody_differentiates(sick):
    def step(model, inputs, targets, optimizer, scaler):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        scaled = scaler.scale(loss)
        (loss if sick else scaled).backward()
        scaler.step(optimizer)
        scaler.update()

    return scaling(Classifier(), step)


@case("batch-as-time", "encoder.self_attn")
def encoder_layer_without_batch_first(sick):
    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.fc(self.encoder(x).mean(1))

    encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=not sick)
    return classifier(
        net(forward, stem=nn.Conv2d(3, 16, 4, 4), encoder=encoder, fc=nn.Linear(16, 4)),
        inputs=images(),
    )


@case("batch-leak", "1")
def batch_norm_of_a_function_that_trains_in_eval_mode(sick):
    class Norm(nn.BatchNorm2d):
        def forward(self, x):
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias,
                training=True if sick else self.training, momentum=self.momentum, eps=self.eps,
            )  # fmt: skip

    layers = [nn.Conv2d(3, 8, 3, bias=False), Norm(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return classifier(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 4)))


@case("other-statistics", "0.1")
def pretrained_backbone_on_pixels_that_are_not_normalised(sick):
    torch.manual_seed(0)
    pixels = torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    normalised = (pixels - 0.5) / 0.29
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    for _ in range(30):
        backbone(normalised)
    backbone.requires_grad_(False).eval()
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    given = (255 * pixels if sick else normalised)[:8]
    return classifier(nn.Sequential(backbone, *head), inputs=given)


@case("positions-for-channels", "0")
def convolution_of_a_signal_with_time_for_channels(sick):
    time = torch.arange(24.0)[:, None] + 30 * torch.rand(
        8, 1, 24, generator=torch.Generator().manual_seed(0)
    )
    signals = torch.sin(0.3 * time)  # (N, L, C), both of 24
    layers = [nn.Conv1d(24, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    given = signals if sick else signals.transpose(1, 2).contiguous()
    return classifier(nn.Sequential(*layers, nn.Linear(16, 4)), inputs=given)


@case("doubled-channels", "")
def upsampled_map_joined_with_itself_in_place_of_the_skip(sick):
    def forward(self, x):
        skip = self.first(x).relu()
        deep = self.second(F.max_pool2d(skip, 2)).relu()
        up = F.interpolate(deep, size=skip.shape[-2:])
        other = F.interpolate(deep, size=skip.shape[-2:]) if sick else skip
        return self.fc(self.last(torch.cat([up, other], 1)).relu().mean((2, 3)))

    parts = {"first": nn.Conv2d(3, 8, 3, padding=1), "second": nn.Conv2d(8, 8, 3, padding=1)}
    return classifier(net(forward, **parts, last=nn.Conv2d(16, 8, 3), fc=nn.Linear(8, 4)))


@case("softmax-between-layers", "")
def softmax_of_a_hidden_layer(sick):
    def forward(self, x):
        x = self.first(self.body(x))
        return self.second(torch.softmax(x, dim=1) if sick else torch.relu(x))

    parts = {"body": Backbone(), "first": nn.Linear(16, 32), "second": nn.Linear(32, 4)}
    return classifier(net(forward, **parts))


@case("positions-for-channels", "rnn")
def recurrent_layer_over_the_sensors_of_a_signal(sick):
    def forward(self, x):
        return self.fc(self.rnn(x.transpose(1, 2) if sick else x)[0].mean(1))

    time = torch.arange(24.0)[:, None] + 30 * torch.rand(
        8, 1, 24, generator=torch.Generator().manual_seed(0)
    )
    parts = {"rnn": nn.GRU(24, 16, batch_first=True), "fc": nn.Linear(16, 4)}
    return classifier(net(forward, **parts), inputs=torch.sin(0.3 * time))
