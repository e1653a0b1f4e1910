"""More programs whose model, loss or optimizer is at fault, each with the lines that a fix
writes.
"""

from tests.support.model_programs import REGRESSING, STEP, WIDE, net

BARE = "model[1] = nn.Identity()\n"
LOSS = "    F.cross_entropy(model(inputs), labels).backward()\n"


def in_a_row(*layers, step=STEP):
    """A program with a Sequential at its top level."""
    return "model = nn.Sequential(" + ", ".join(layers) + ")\n" + step


PROGRAMS = {
    "bn-mixed-up": (
        in_a_row(
            "nn.Linear(6, 8)", "nn.BatchNorm1d(8, momentum=0.99)", "nn.ReLU()", "nn.Linear(8, 3)"
        ),
        ("nn.BatchNorm1d(8, momentum=0.01",),
    ),
    "dropout-rate": (
        in_a_row("nn.Linear(6, 64)", "nn.ReLU()", "nn.Dropout(0.9)", "nn.Linear(64, 3)"),
        ("nn.Dropout(0.1)",),
    ),
    "norm-over-one-value": (
        in_a_row("nn.Linear(6, 8)", "nn.GroupNorm(8, 8)", "nn.Linear(8, 3)"),
        ("nn.GroupNorm(1, 8)",),
    ),
    "sigmoid-before-bcewl": (
        "y = (torch.arange(12.0) % 2).view(12, 1)\n"
        + in_a_row(
            "nn.Linear(6, 8)",
            "nn.ReLU()",
            "nn.Linear(8, 1)",
            "nn.Sigmoid()",
            step=STEP.replace("cross_entropy", "binary_cross_entropy_with_logits"),
        ),
        ("nn.Linear(8, 1), nn.Identity())",),
    ),
    "activation-on-logits": (
        in_a_row("nn.Linear(6, 8)", "nn.ReLU()", "nn.Linear(8, 3)", "nn.ReLU()"),
        ("nn.ReLU(), nn.Linear(8, 3), nn.Identity())",),
    ),
    "softmax-dim": (
        net(WIDE, "x = torch.relu(self.a(x))\nreturn self.b(x * torch.softmax(x, dim=0))"),
        ("torch.softmax(x, dim=1)",),
    ),
    "loss-sign": (
        STEP.replace(
            LOSS, "    loss = -F.cross_entropy(model(inputs), labels)\n    loss.backward()\n"
        ),
        ("    (-loss).backward()\n",),
    ),
    "maximised-error": (
        "y = torch.randn(12, 3)\n" + REGRESSING.replace("lr=0.05", "lr=0.05, maximize=True"),
        ("lr=0.05, maximize=False)",),
    ),
    "update-ratio": (
        BARE
        + STEP.replace(
            "torch.optim.SGD(model.parameters(), lr=0.05)",
            "torch.optim.Adam(model.parameters(), lr=1.0)",
        ),
        ("torch.optim.Adam(model.parameters(), lr=0.",),
    ),
    "unchanged-weights": (
        STEP.replace("lr=0.05", "lr=0.0"),
        ("lr=0.001)",),
    ),
    "frozen-in-optimizer": (
        "model[0].requires_grad_(False)\n" + STEP,
        ("SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)",),
    ),
    "padding-in-loss": (
        "x = torch.randint(1, 20, (8, 12)) * (torch.arange(12) < 4)\ny = x\n"
        + in_a_row(
            "nn.Embedding(20, 16, padding_idx=0)",
            "nn.Linear(16, 20)",
            step=STEP.replace("model(inputs),", "model(inputs).transpose(1, 2),"),
        ),
        (", labels, ignore_index=0)",),
    ),
    "trained-target": (
        STEP.replace(
            LOSS,
            "    seen, other = model(inputs), model(inputs.flip(0))\n"
            "    hits = (seen.argmax(1) == labels).float().mean()\n"
            "    F.mse_loss(seen, other).backward()\n",
        ),
        ("F.mse_loss(seen, other.detach())",),
    ),
    "inverted-mask": (
        "x = torch.randint(1, 20, (12, 6)) * (torch.arange(6) < 4)\n"
        + net(
            "self.words = nn.Embedding(20, 8, padding_idx=0)\n"
            "self.attend = nn.MultiheadAttention(8, 2, batch_first=True)\n"
            "self.fc, self.query = nn.Linear(8, 3), nn.Parameter(torch.randn(1, 1, 8))",
            "words, query = self.words(x), self.query.expand(len(x), -1, -1)\n"
            "seen, _ = self.attend(query, words, words, key_padding_mask=x != 0)\n"
            "return self.fc(seen[:, 0])",
        ),
        ("key_padding_mask=~(x != 0)",),
    ),
    "constant-penalty": (
        BARE
        + STEP.replace(
            LOSS,
            "    inputs = inputs.clone().requires_grad_()\n"
            "    loss = F.cross_entropy(model(inputs), labels)\n"
            "    slope = torch.autograd.grad(model(inputs).sum(), inputs)[0]\n"
            "    (loss + (slope.norm(dim=1) - 1).square().mean()).backward()\n",
        ),
        ("torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)",),
    ),
    "symmetric-init": (
        BARE + "model[0].weight.data.copy_(model[0].weight[:1].expand(8, 6).clone())\n" + STEP,
        ('nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")\n',),
    ),
    "nan-parameter": (
        BARE + 'model[0].weight.data[0, 0] = float("nan")\n' + STEP,
        ('nn.init.kaiming_normal_(model[0].weight, nonlinearity="relu")\n',),
    ),
    "dead-channels": (
        in_a_row(
            "nn.Linear(6, 20)",
            "nn.ReLU()",
            "nn.Linear(20, 3)",
            step="model[0].bias.data[:16] = -10.0\n" + STEP,
        ),
        ('nn.init.kaiming_normal_(model[0].weight, nonlinearity="relu")\n',),
    ),
    "kernel-on-padding": (
        "x = torch.randn(12, 1, 8, 8)\n"
        + in_a_row(
            "nn.Conv2d(1, 8, 3)",
            "nn.ReLU()",
            "nn.AdaptiveAvgPool2d(1)",
            "nn.Conv2d(8, 8, 3, padding=1)",
            "nn.ReLU()",
            "nn.Flatten()",
            "nn.Linear(8, 3)",
        ),
        ("nn.Conv2d(8, 8, 1, padding=0)",),
    ),
    "batch-leak": (
        net(WIDE, "x = torch.relu(self.a(x))\nreturn self.b(x - x.mean(0))"),
        ("x.mean(1, keepdim=True)",),
    ),
    "no-grad-params": (
        net(WIDE, "return self.b(torch.relu(self.a(x)).detach())"),
        ("self.b(torch.relu(self.a(x)))",),
    ),
    "softmax-over-positions": (
        "y = torch.randint(0, 3, (12, 5))\n"
        + net(
            "self.a = nn.Linear(6, 15)",
            "return torch.log_softmax(self.a(x).view(-1, 3, 5), dim=-1)",
            step=STEP.replace("cross_entropy", "nll_loss"),
        ),
        ("view(-1, 3, 5), dim=1)",),
    ),
    "vanishing-activation": (
        in_a_row(
            "nn.Linear(6, 64)",
            "nn.ReLU()",
            *["nn.Linear(64, 64)", "nn.ReLU()"] * 6,
            "nn.Linear(64, 3)",
            step="for layer in model[::2]:\n    nn.init.normal_(layer.weight, std=0.01)\n"
            "    nn.init.zeros_(layer.bias)\n" + STEP,
        ),
        ("for layer in model.modules():\n    if isinstance(layer, (nn.Linear,)):\n",),
    ),
    "nan-backward": (
        net(
            WIDE,
            "x = self.a(x)\nd = x - x.detach()\nreturn self.b(torch.sqrt(d * d) + torch.relu(x))",
        ),
        ("torch.sqrt((d * d).clamp(min=0) + 1e-8)",),
    ),
    "loss-detached": (
        STEP.replace(
            LOSS,
            "    with torch.no_grad():\n        output = model(inputs)\n"
            "    loss = F.cross_entropy(output, labels)\n"
            "    loss.requires_grad_().backward()\n",
        ),
        ("    output = model(inputs)\n    loss =",),
    ),
    "unregistered-module": (
        net(
            "self.blocks = []\nfor width in (6, 8):\n"
            "    self.blocks.append([nn.Linear(width, 8), nn.ReLU()])\nself.fc = nn.Linear(8, 3)",
            "for layer, act in self.blocks:\n    x = act(layer(x))\nreturn self.fc(x)",
        ),
        ("self.blocks_registered = nn.ModuleList(each for part in self.blocks for each in part)",),
    ),
    "unregistered-parameter": (
        net(
            "self.fc, self.scales = nn.Linear(6, 3), {}\nfor i in range(2):\n"
            '    self.scales[i] = {"w": nn.Parameter(torch.ones(6))}',
            'return self.fc(x * self.scales[0]["w"] * self.scales[1]["w"])',
        ).replace(
            "self.fc, self.scales = nn.Linear(6, 3), {}",
            "self.fc = nn.Linear(6, 3)\n        self.scales = {}",
        ),
        ("= nn.ParameterList(each for part in self.scales.values() for each in part.values())",),
    ),
    "stacked-sigmoids": (
        in_a_row(
            "nn.Linear(6, 32)",
            "nn.Tanh()",
            *["nn.Linear(32, 32)", "nn.Tanh()"] * 6,
            "nn.Linear(32, 3)",
            step="for layer in model[::2]:\n    layer.weight.data.mul_(0.6)\n" + STEP,
        ),
        ("nn.init.xavier_normal_(parameter)",),
    ),
    "detached-term": (
        STEP.replace(
            LOSS,
            "    error = F.cross_entropy(model(inputs), labels)\n"
            "    size = F.mse_loss(model(inputs), inputs[:, :3]).detach()\n"
            "    (error + size).backward()\n",
        ),
        ("    size = F.mse_loss(model(inputs), inputs[:, :3])\n",),
    ),
    "unused-loss": (
        STEP.replace(
            LOSS,
            "    error = F.cross_entropy(model(inputs), labels)\n"
            "    error = F.mse_loss(model(inputs), inputs[:, :3])\n    error.backward()\n",
        ),
        ("    error = error + F.mse_loss(",),
    ),
    "total-per-sample": (
        STEP.replace(
            LOSS,
            "    output = model(inputs)\n"
            '    likely = F.cross_entropy(output, labels, reduction="none")\n'
            "    size = output.square().sum()\n    (likely + 0.01 * size).mean().backward()\n",
        ),
        ("    size = output.square().sum(dim=-1)\n",),
    ),
}
