"""Models and calls of the command."""

from click.testing import CliRunner

from cnnprobe.cli import main

MODELS = """
import os, sys, time
import torch
from torch import nn
print("printed on import")

class Net(nn.Module):
    def __init__(self, out=2):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, out)
    def forward(self, x, scale=None):
        print("printed in forward")
        return self.fc(self.drop(self.conv(x).mean((2, 3))))

class Chatty(Net):
    def forward(self, x):
        os.system("echo printed by a child")
        return super().forward(x)

class Crashes(Net):
    def forward(self, x):
        return self.fc(self.conv(x))

class Unused(Net):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
    def forward(self, x):
        return self.attention(x, x, x)[0]

class NotFinite(Net):
    def forward(self, x):
        return self.conv(x) / 0 * 0

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(8, 4)
    def forward(self, ids):
        return self.embed(ids)

class Sleeps(Net):
    def forward(self, x):
        open("sleeping", "w").close()
        time.sleep(60)

def markup():
    model = Net()
    model.add_module("[bold]red[/bold]\\x1b[31m<script>", nn.Linear(2, 2))
    return model

Empty = nn.Identity
"""


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert code == result.exit_code, result.output
    return result
