"""The least input of a model, and of what its sizes are multiples, held against real forwards."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe
from cnnprobe.crash import least_input, least_multiple
from cnnprobe.errors import TargetError


def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU())


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([block(3, 4), block(4, 8), block(8, 8)])
        self.middle = block(8, 8)
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, i, 2, stride=2) for i in (8, 8, 4))
        self.merge = nn.ModuleList([block(16, 8), block(16, 4), block(8, 2)])

    def forward(self, x):
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([up(x), skip], dim=1))
        return x


class Residual(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, stride=2, padding=1)
        self.short = nn.Conv2d(i, o, 1, stride=2)

    def forward(self, x):
        return F.relu(self.conv(x) + self.short(x))


def vgg():
    stages = [nn.Sequential(block(i, 4), nn.MaxPool2d(2)) for i in (3, 4, 4, 4)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def resnet():
    return nn.Sequential(
        nn.Conv2d(3, 4, 7, padding=1), Residual(4, 8), Residual(8, 8), nn.AdaptiveAvgPool2d(1)
    )


def does_pass(model, size):
    try:
        model(torch.zeros(1, 3, size, size))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("given", [64, 24, 96])
@pytest.mark.parametrize(
    ("make", "least", "multiple"), [(UNet, 8, 8), (vgg, 16, 1), (resnet, 5, 1)]
)
def test_least_input_and_its_multiple_are_those_of_real_forwards(make, least, multiple, given):
    model = make()
    image = torch.zeros(1, 3, given, given)
    assert ((least,) * 2, multiple) == (least_input(model, image), least_multiple(model, image))
    fitting = [size for size in range(1, 41) if size >= least and size % multiple == 0]
    assert fitting == [size for size in range(1, 41) if does_pass(model, size)]


def test_patches_ask_for_a_multiple_that_is_no_power_of_two():
    model = nn.Sequential(nn.PixelUnshuffle(7), nn.Conv2d(147, 2, 1))
    image = torch.zeros(1, 3, 28, 28)
    assert ((7, 7), 7) == (least_input(model, image), least_multiple(model, image))


def test_model_of_one_size_has_no_multiple():
    model, image = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.zeros(1, 3, 4, 4)
    assert ((4, 4), None) == (least_input(model, image), least_multiple(model, image))


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "squeezenet1_0", "squeezenet1_1", "resnet18"])
def test_least_input_is_the_one_that_torchvision_publishes(name):
    models = pytest.importorskip("torchvision").models
    published = models.get_model_weights(name).DEFAULT.meta["min_size"]
    with torch.device("meta"):
        model = models.get_model(name, weights=None)
    assert published == least_input(model.eval(), torch.empty(1, 3, 224, 224, device="meta"))


def test_least_input_of_no_image_is_refused():
    with pytest.raises(TargetError, match="no height and width"):
        least_input(nn.Linear(2, 2), torch.ones(2, 2))


def test_crash_of_a_unet_with_a_small_image_says_of_what_its_sizes_are_multiples():
    explanation = cnnprobe.probe(UNet(), torch.zeros(1, 3, 4, 4)).explanation
    assert "an input of 8 x 8, or other multiples of 8" in explanation.repairs[0].title


class Merging(nn.Module):
    """Flattens by a view that fixes the features and leaves the number of rows to torch."""

    def __init__(self, flatten):
        super().__init__()
        self.conv, self.flatten = nn.Conv2d(3, 3, 1), flatten

    def forward(self, x):
        return self.flatten(F.max_pool2d(self.conv(x), 4))


def test_a_view_that_makes_samples_of_positions_is_named():
    model = Merging(lambda x: x.view(-1, 3 * 2 * 2))
    assert (8, 12) == tuple(model(torch.zeros(2, 3, 16, 16)).shape)
    (note,) = cnnprobe.shapes(model, torch.empty(2, 3, 8, 8)).data.notes
    assert note.startswith("view at ")
    assert " gives N*floor(H/4)*floor(W/4)/4 rows, not N: " in note


@pytest.mark.parametrize("flatten", [nn.Flatten(), nn.Flatten(0, 2), lambda x: x.mean((2, 3))])
def test_rows_that_are_samples_or_whole_parts_of_them_get_no_note(flatten):
    assert not cnnprobe.shapes(Merging(flatten), torch.empty(2, 3, 8, 8)).data.notes
