"""Dtypes, devices, and inputs that are no tensors."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from crashes.table import crashes


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))


@crashes("input-dtype", "0", repair="x.float()")
def input_of_doubles(fixed):
    x = torch.randn(2, 3, 8, 8)
    return small(), (x if fixed else x.double(),)


@crashes("dtype-mismatch", "3", repair="torch.float32", on_meta=False)
def one_layer_in_double(fixed):
    model = small()
    return (model if fixed else nn.Sequential(*model[:3], model[3].double())), (
        torch.randn(2, 3, 8, 8),
    )


class Casting(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.fc1 = nn.Linear(4, 4)
        self.fc2 = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        if not self.fixed:
            x = x.double()
        return self.fc2(x)


@crashes("dtype-mismatch", "fc2", "", repair="x.float()", on_meta=False)
def cast_in_the_middle(fixed):
    return Casting(fixed), (torch.randn(2, 4),)


@crashes("device-mismatch", "3", repair="'cpu'", on_meta=False)
def layer_left_on_another_device(fixed):
    model = small()
    if not fixed:
        model[3].to("meta")
    return model, (torch.randn(2, 3, 8, 8),)


@crashes("device-mismatch", "0", repair="to('cpu')", on_meta=False)
def input_on_another_device(fixed):
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (
        torch.randn(2, 4, device="cpu" if fixed else "meta"),
    )


class Positions(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) + torch.arange(4.0, device=x.device if self.fixed else "meta")


@crashes("device-mismatch", "", repair="device=x.device", on_meta=False)
def tensor_made_on_another_device(fixed):
    return Positions(fixed), (torch.randn(2, 4),)


@crashes("input-not-a-tensor", "0", repair="torch.as_tensor(x)", on_meta=False)
def numpy_array(fixed):
    x = np.ones((2, 3, 8, 8), dtype=np.float32)
    return small(), (torch.as_tensor(x) if fixed else x,)


@crashes("input-not-a-tensor", "0", repair="torch.stack(x)", on_meta=False)
def list_of_tensors(fixed):
    x = [torch.randn(3, 8, 8), torch.randn(3, 8, 8)]
    return small(), (torch.stack(x) if fixed else x,)


@crashes("input-not-a-tensor", "0", repair="x['image']", on_meta=False)
def dictionary(fixed):
    x = {"image": torch.randn(2, 3, 8, 8), "label": torch.tensor([0, 1])}
    return small(), (x["image"] if fixed else x,)


@crashes("input-not-a-tensor", "0", repair="", on_meta=False)
def path_of_an_image(fixed):
    return small(), (torch.randn(2, 3, 8, 8) if fixed else "cat.png",)


@crashes("input-dtype", "0", repair="permute(0, 3, 1, 2)")
def image_of_bytes_with_the_channels_last(fixed):
    x = torch.randint(0, 255, (2, 8, 8, 3), dtype=torch.uint8)
    return small(), (x.permute(0, 3, 1, 2).float() if fixed else x,)
