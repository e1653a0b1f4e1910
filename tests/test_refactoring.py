"""Repeated blocks in models that were written out, and the proof that the blocks are the same
model.
"""

import cProfile
import pstats

import pytest
import torch
from torch import nn

from cnnprobe import ProbeError, compare, refactor
from cnnprobe.comparison.refactoring import build
from cnnprobe.comparison.refactoring.branches import WrittenStep
from cnnprobe.comparison.refactoring.patterns import Run, fold
from cnnprobe.errors import TargetError
from tests.support.twins import FunctionalCNN, SimpleCNN, pictures
from tests.support.written_out import LeNet, ResNet20, WrittenOut, flattened, mobile_stack


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def proven(model, x):
    """The refactoring, after its source was run here and compared by torch alone."""
    found = refactor(model, x)
    assert found.source, found.notes
    assert found.comparison.equivalent
    new = build(found.source, found.class_name, like=model)
    theirs = model.state_dict()
    new.load_state_dict({name: theirs[other] for name, other in found.mapping.items()})
    new.eval(), model.eval()
    assert torch.equal(model(x), new(x))
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in new.parameters())
    return found


def test_simple_cnn_becomes_what_its_refactoring_should_have_been():
    found = proven(SimpleCNN(), pictures())
    assert ["[Conv2d 3x3 p1, ReLU, MaxPool2d 2] x 3, channels 3->32->64->128"] == [
        block.pattern for block in found.blocks
    ]
    for line in (
        "class ConvBlock(nn.Sequential):",
        "    def __init__(self, in_channels: int, out_channels: int) -> None:",
        "            ConvBlock(3, 32),",
        "            ConvBlock(64, 128),",
        "        x = torch.flatten(x, 1)",
    ):
        assert line in found.source.splitlines()
    assert "conv1.weight" == found.mapping["features.0.0.weight"]
    assert max(map(len, found.source.splitlines())) <= 88


def test_functions_with_parameters_of_their_own_become_layers():
    found = proven(FunctionalCNN(), pictures())
    assert "weight_c" == found.mapping["features.2.0.weight"]


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("vgg11", ["[Conv2d 3x3 p1, ReLU, MaxPool2d 2] x 2, channels 3->64->128",
                   "[Conv2d 3x3 p1, ReLU, Conv2d 3x3 p1, ReLU, MaxPool2d 2] x 3, channels 128->256->512->512",  # noqa: E501
                   "[Linear, ReLU, Dropout 0.5] x 2, in_features 25088, 4096"]),
        ("vgg16",
            ["[Conv2d 3x3 p1, ReLU, Conv2d 3x3 p1, ReLU, MaxPool2d 2] x 2, channels 3->64->128",
                   "[Conv2d 3x3 p1, ReLU, Conv2d 3x3 p1, ReLU, Conv2d 3x3 p1, ReLU, MaxPool2d 2] x 3, channels 128->256->512->512",  # noqa: E501
                   "[Linear, ReLU, Dropout 0.5] x 2, in_features 25088, 4096"]),
        ("alexnet",
            ["[Conv2d p2, ReLU, MaxPool2d 3 s2] x 2, channels 3->64->192, kernel_size 11, 5, stride 4, 1",  # noqa: E501
                     "[Conv2d 3x3 p1, ReLU] x 3, channels 192->384->256->256",
                     "[Dropout 0.5, Linear, ReLU] x 2, in_features 9216, 4096"]),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_flattened_torchvision_models_fold(name, patterns):
    models = pytest.importorskip("torchvision").models
    with torch.no_grad():
        model = flattened(
            getattr(models, name)(num_classes=10, init_weights=False)
            if name != "alexnet"
            else models.alexnet(num_classes=10)
        )
    found = proven(model, noise(1, 3, 64, 64))
    assert patterns == [block.pattern for block in found.blocks]


def test_lenet_of_layers_and_functions():
    found = proven(LeNet(), noise(2, 1, 28, 28))
    assert [
        "[Conv2d 5x5, Tanh, MaxPool2d 2] x 2, channels 1->6->16",
        "[Linear, Tanh] x 2, features 256->120->84",
    ] == [b.pattern for b in found.blocks]


def test_residual_blocks_are_found_with_and_without_their_projection():
    found = proven(ResNet20(), noise(2, 3, 16, 16))
    (block,) = found.blocks
    assert ("ResidualBlock", 9) == (block.name, block.repeats)
    assert (1, 1, 1, 2, 1, 1, 2, 1, 1) == block.varying["stride"]
    assert "if stride != 1 or in_channels != out_channels:" in found.source
    assert (
        "ResidualBlock(16, 32, stride=2)" in found.source
        and "ResidualBlock(64, 64)" in found.source
    )


def test_depthwise_stack_folds_with_its_groups_following_its_channels():
    found = proven(mobile_stack(), noise(2, 3, 16, 16))
    (block,) = found.blocks
    assert ("DepthwiseSeparableBlock", 4) == (block.name, block.repeats)
    assert "groups=in_channels" in found.source


def test_inverted_residuals_fold_where_the_sum_is_missing_too():
    model = pytest.importorskip("torchvision").models.mobilenet_v2(num_classes=4, width_mult=0.25)
    found = proven(model, noise(1, 3, 32, 32))
    inverted = next(block for block in found.blocks if block.name == "InvertedResidual")
    assert inverted.repeats >= 10
    assert "self.residual = stride == 1 and in_channels == out_channels" in found.source


def steps(letters):
    return [WrittenStep(text=letter, operation=k) for k, letter in enumerate(letters)]


@pytest.mark.parametrize(
    ("letters", "pieces"),
    [
        ("ABABCDCDCD", ["AB*2", "CD*3"]),
        ("AABAAB", ["AAB*2"]),
        ("XABCABCABY", ["X", "A", "B", "CAB*2", "Y"]),  # the last of the rotations
        ("AAAA", ["AA*2"]),
        ("ABCDEFGH", list("ABCDEFGH")),
        ("ABABQCDECDECDE", ["AB*2", "Q", "CDE*3"]),
    ],
)
def test_what_repeats_most_is_folded_first(letters, pieces):
    def write(piece):
        if not isinstance(piece, Run):
            return piece.text
        texts = {"".join(item.text for item in instance) for instance in piece.instances}
        return f"{texts.pop()}*{len(piece.instances)}"

    assert pieces == [write(piece) for piece in fold(steps(letters))]


def test_the_work_of_folding_grows_with_the_number_of_layers_alone():
    def count_calls(number):
        profile = cProfile.Profile()
        profile.runcall(fold, steps("XY" + "AB" * number + "Z"))
        return pstats.Stats(profile).total_calls

    assert count_calls(400) < 2.2 * count_calls(200)


def test_nothing_to_fold_is_said_and_gives_no_source():
    found = refactor(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 2)),
        noise(1, 3, 8, 8),
    )
    assert "" == found.source and () == found.blocks and found.comparison is None
    assert "nothing to fold" in found.notes[0]
    with pytest.raises(ProbeError, match="nothing to fold"):
        found.to("python")


def test_shared_layer_is_said_and_not_written():
    layer = nn.Conv2d(3, 3, 3, padding=1)
    found = refactor(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU()), noise(1, 3, 8, 8))
    assert "" == found.source and "used twice" in found.notes[0]


def test_operation_without_a_layer_is_said():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return torch.fft.fft(torch.relu(self.b(torch.relu(self.a(x))))).real

    assert "cannot be written as a layer" in refactor(Odd(), noise(1, 4)).notes[0]


def test_proof_that_fails_hides_the_source(monkeypatch):
    from cnnprobe.comparison import refactoring

    honest = refactoring.write_source
    monkeypatch.setattr(
        refactoring,
        "write_source",
        lambda *given: (honest(*given)[0].replace("nn.ReLU()", "nn.Tanh()"), honest(*given)[1]),
    )
    found = refactor(SimpleCNN(), pictures())
    assert (
        "" == found.source and "is not shown" in found.notes[0] and "operations" in found.notes[0]
    )
    assert not found.comparison.equivalent


def test_model_that_raises_is_refused():
    with pytest.raises(TargetError, match="raised RuntimeError"):
        refactor(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 6)), noise(1, 3))


def test_refactoring_leaves_the_model_and_the_generators_as_they_were():
    model = WrittenOut(
        *[
            layer
            for _ in range(3)
            for layer in (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.1))
        ]
    ).train()
    before, generator = (
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.get_rng_state(),
    )
    proven_source = refactor(model, noise(2, 3, 4, 4)).source
    assert "class ConvBlock" in proven_source
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert model.training and torch.equal(generator, torch.get_rng_state())


def test_new_source_is_the_models_own_architecture_for_compare():
    model = ResNet20()
    found = refactor(model, noise(2, 3, 16, 16))
    new = build(found.source, found.class_name, like=model)
    new.load_state_dict(compare(new, model, noise(2, 3, 16, 16), level="operations").transfer())
    assert compare(new, model, noise(2, 3, 16, 16)).equivalent


@pytest.mark.parametrize("width", [80, 120])
def test_text_fits_the_width_and_shows_proof(width):
    text = refactor(SimpleCNN(), pictures()).to("text", width=width)
    assert max(map(len, text.splitlines())) <= max(width, 92)
    assert "Proof: with the weights of" in text and "class ConvBlock" in text
