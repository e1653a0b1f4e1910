"""The runs of pytest with our plugin that its tests make."""

import importlib
import importlib.metadata
import pkgutil

import cnnprobe

# pytester forgets the modules that a run of its own imports first, and neither torch nor
# torch._dynamo can be imported twice.
for module in pkgutil.walk_packages(cnnprobe.__path__, "cnnprobe."):
    if not module.name.endswith(("__main__", "_kernel")):  # the kernel is a plain library
        importlib.import_module(module.name)
importlib.import_module("torch._dynamo")

INSTALLED = any(
    entry.value == "cnnprobe.pytest_plugin"
    for entry in importlib.metadata.entry_points(group="pytest11")
)
PLUGIN = [
    "-p",
    "no:pytest_torch",
    "-p",
    "no:syrupy",
    *([] if INSTALLED else ["-p", "cnnprobe.pytest_plugin"]),
]

NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3)
            self.fc = nn.Linear(width * 36, 2)

        def forward(self, x):
            return self.fc(torch.flatten(torch.relu(self.conv(x)), 1))

    class Crash(Net):
        def forward(self, x):
            return self.fc(self.conv(x))

    class Linear(Net):
        def forward(self, x):
            return self.fc(torch.flatten(self.conv(x), 1))
"""


def prepare_run(pytester, monkeypatch):
    """A function that runs pytest in the folder of `pytester`, where `net.py` has some models."""
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    pytester.syspathinsert()
    pytester.makepyfile(net=NET)

    def run(*options, **files):
        if files:
            pytester.makepyfile(**files)
        return pytester.runpytest(*PLUGIN, "-p", "no:randomly", "-p", "no:cacheprovider", *options)

    return run
