"""Programs whose own loss function is at fault, each with the line that a fix writes."""

PROGRAMS = {
    "swapped-arguments": (
        """y = F.one_hot(torch.arange(12) % 3, 3).float()
criterion = nn.CrossEntropyLoss()


def loss_fn(output, labels):
    return criterion(labels, output) + 0.01 * output.square().mean()
""",
        "    return criterion(output, labels) + 0.01",
    ),
    "unsigned-labels": (
        """model[3] = nn.Linear(8, 1)
y = (torch.arange(12.0) % 2).view(12, 1)


def loss_fn(output, labels):
    return torch.relu(1 - labels * output).mean()
""",
        "    labels = 2 * labels - 1\n    return",
    ),
    "loss-activation-mismatch": (
        """y = torch.log_softmax(torch.randn(12, 3), 1)


def loss_fn(output, taught):
    return F.kl_div(torch.log_softmax(output, 1), taught, reduction="batchmean")
""",
        'reduction="batchmean", log_target=True)',
    ),
    "minimised-likelihood": (
        """y = torch.arange(12) % 3


def loss_fn(output, labels):
    return torch.log_softmax(output, 1).gather(1, labels[:, None]).mean()
""",
        "    return -torch.log_softmax(",
    ),
    "loss-out-of-range": (
        """y = F.one_hot(torch.arange(12) % 3, 3).float()


def loss_fn(output, masks):
    \"\"\"Dice.\"\"\"
    shared = (output * masks).sum()
    return 1 - (2 * shared + 1) / (output.sum() + masks.sum() + 1)
""",
        "    output = torch.softmax(output, dim=1)\n    shared = ",
    ),
    "loss-broadcast": (
        """model[3] = nn.Linear(8, 1)
y = torch.linspace(-1, 1, 12)


def loss_fn(output, wanted):
    return ((output - wanted) ** 2).mean()
""",
        "    wanted = wanted.unsqueeze(1)\n    return",
    ),
}
