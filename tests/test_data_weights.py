"""What the published weights of a model expect of its images, against what torchvision and timm say
themselves.
"""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models
from torchvision.transforms import v2

import cnnprobe
from cnnprobe.data.weights import find_weights

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "swin_t", "convnext_tiny"])
def test_weights_of_torchvision_expect_what_their_transforms_do(name):
    expected = models.get_model_weights(name).DEFAULT.transforms()
    found = find_weights(models.get_model(name))
    assert (tuple(expected.mean), tuple(expected.std)) == found.normalisations[0]
    assert expected.crop_size[0] in found.sides
    assert found.loaded is False  # built without weights


def test_detectors_normalise_by_themselves():
    detector = models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    assert find_weights(detector) is None


def test_backbone_of_a_model_of_the_users_own_is_found():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = models.resnet18()

    assert "torchvision's ResNet" == find_weights(Net()).name
    assert find_weights(nn.Conv2d(3, 4, 3)) is None


def test_model_of_timm_says_it_itself():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    settings = timm.data.resolve_model_data_config(model)
    found = find_weights(model)
    assert (settings["mean"], settings["std"]) == found.normalisations[0]
    assert settings["input_size"][-1:] == found.sides


def test_trained_batch_norms_and_biases_tell_that_weights_were_loaded():
    model = models.resnet18()
    model(torch.randn(2, 3, 32, 32))  # in train mode: the running means move
    assert find_weights(model).loaded
    model = models.vgg11()
    assert find_weights(model).loaded is False
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    assert find_weights(model).loaded is None  # some initialisations draw them
    assert find_weights(models.alexnet()).loaded is None


class Photos(Dataset):
    def __init__(self, *steps):
        self.transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), *steps])

    def __len__(self):
        return 16

    def __getitem__(self, index):
        noise = torch.randint(0, 256, (3, 128, 128), generator=torch.Generator().manual_seed(index))
        return self.transform(noise.byte()), index % 4


@pytest.mark.parametrize(("steps", "severity"), [
    ([], "warning"),
    ([v2.Normalize(*IMAGENET)], None),
    ([v2.Normalize((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))], "info"),  # CIFAR-100's
    ([v2.Normalize((0.5,), (0.5,))], "info"),
    ([v2.Normalize((0.0,), (0.003,))], "warning"),
], ids=["not", "as ImageNet", "as CIFAR-100", "to [-1, 1]", "to 0 ... 333"])  # fmt: skip
def test_other_normalisations_than_those_of_the_weights_are_judged(steps, severity):
    model = models.resnet18()
    model.bn1.running_mean += 0.1
    for given, expected in ((model, severity), (models.resnet18(), None)):
        loader = DataLoader(Photos(*steps), 8, shuffle=True)
        report = cnnprobe.inspect_data(loader, model=given, pictures=False)
        found = [f.severity for f in report.findings if f.rule == "other-normalisation"]
        assert ([expected] if expected else []) == found


def test_small_images_are_info():
    model = models.resnet18()
    model.bn1.running_mean += 0.1
    batches = [(torch.randn(8, 3, 32, 32), torch.arange(8) % 4)] * 2
    report = cnnprobe.inspect_data(batches, model=model, pictures=False)
    (finding,) = [f for f in report.findings if f.rule == "other-normalisation"]
    assert ("info", "the images are (32, 32)") == (finding.severity, finding.message[:23])
