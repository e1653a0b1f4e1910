"""The reference models: their parameters by hand arithmetic, and that the one kept broken is broken
as described.
"""

import subprocess
import sys

import pytest
import torch
from torch import nn

from cnnprobe.errors import UsageError
from reference_models import CNNModel, CNNModelAsWritten, ConvLayer, SimpleCNN
from reference_models.train import adam, widen_head

# weights + biases of conv1, conv2, conv3, fc1, fc2
PARAMETERS = (
    (32 * 3 * 9 + 32)
    + (64 * 32 * 9 + 64)
    + (128 * 64 * 9 + 128)
    + (512 * 2048 + 512)
    + (10 * 512 + 10)
)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "model", [SimpleCNN(10), CNNModel(), CNNModelAsWritten()], ids=lambda m: type(m).__name__
)
def test_each_model_has_the_parameters_of_the_hand_arithmetic(model):
    assert PARAMETERS == 1_147_466 == count(model)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_number_of_classes_sets_the_last_layer_alone(classes):
    expected = PARAMETERS - (10 - classes) * (512 + 1)
    assert expected == count(SimpleCNN(classes)) == count(CNNModel(num_of_output_classes=classes))
    assert (
        (3, classes)
        == SimpleCNN(classes)(torch.zeros(3, 3, 32, 32)).shape
        == CNNModel(num_of_output_classes=classes)(torch.zeros(3, 3, 32, 32)).shape
    )


def test_simple_cnn_is_spelled_out_in_the_order_of_its_forward():
    expected = [
        "conv1",
        "relu1",
        "pool1",
        "conv2",
        "relu2",
        "pool2",
        "conv3",
        "relu3",
        "pool3",
        "flatten",
        "fc1",
        "relu4",
        "dropout",
        "fc2",
    ]
    model, called = SimpleCNN(10), []
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    model(torch.zeros(1, 3, 32, 32))
    assert expected == [name for name, _ in model.named_children()] == called


def test_conv_layer_halves_height_and_width():
    layer = ConvLayer(5, 6)
    assert [nn.Conv2d, nn.ReLU, nn.MaxPool2d] == [type(module) for module in layer.block]
    assert (2, 6, 4, 3) == layer(torch.zeros(2, 5, 8, 6)).shape


def test_cnn_model_has_the_names_of_its_blocks():
    names = dict(CNNModel().named_parameters())
    assert (32, 3, 3, 3) == names["features.0.block.0.weight"].shape
    assert (10, 512) == names["classifier.3.weight"].shape


def test_cnn_model_gives_the_numbers_of_simple_cnn_with_its_weights():
    simple, modular = SimpleCNN(10).eval(), CNNModel().eval()
    modular.load_state_dict(
        dict(zip(modular.state_dict(), simple.state_dict().values(), strict=True))
    )
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(simple(x), modular(x))


def test_cnn_model_refuses_positional_arguments_as_nn_module_does():
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        CNNModel(10)


def test_model_as_written_raises_at_its_classifier():
    with pytest.raises(
        RuntimeError, match=r"mat1 and mat2 shapes cannot be multiplied \(1024x4 and 2048x512\)"
    ):
        CNNModelAsWritten()(torch.zeros(2, 3, 32, 32))


def test_model_as_written_lacks_nothing_but_the_flatten():
    broken, repaired = CNNModelAsWritten(), CNNModel()
    repaired.load_state_dict(broken.state_dict())
    broken.classifier.insert(0, nn.Flatten())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(repaired.eval()(x), broken.eval()(x))


@pytest.mark.parametrize(
    "build", [SimpleCNN, lambda n: CNNModel(num_of_output_classes=n)], ids=["SimpleCNN", "CNNModel"]
)
def test_widened_head_keeps_the_rows_of_the_old_classes(build):
    model = build(3)
    old = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    new = widen_head(model, 5)
    assert torch.equal(old.weight, new.weight[:3])
    assert torch.equal(old.bias, new.bias[:3])
    assert (2, 5) == model(torch.zeros(2, 3, 32, 32)).shape


def test_widened_head_keeps_the_logits_of_the_old_classes_to_the_bit():
    model = SimpleCNN(3).eval()
    features = torch.randint(-8, 9, (4, 512), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        # Sums of small integers are exact in float32 in any order; a wider product may add in
        # another one.
        model.fc2.weight.mul_(100).round_()
        model.fc2.bias.mul_(100).round_()
        before = model.fc2(features)
        assert before.unique().numel() > 1
        assert torch.equal(before, widen_head(model, 9)(features)[:, :3])


def test_widened_head_keeps_the_answers_of_the_whole_model():
    model = SimpleCNN(3).eval()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model(x)
    widen_head(model, 9)
    torch.testing.assert_close(model(x)[:, :3], before)


def test_widened_head_is_as_the_old_one_was():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False, dtype=torch.float64)).eval()
    new = widen_head(model, 4)
    assert (None, torch.float64, False) == (new.bias, new.weight.dtype, new.training)


def test_optimizer_built_again_trains_the_new_rows():
    model = SimpleCNN(2)
    adam(model)
    widen_head(model, 4)
    optimizer, before = adam(model), model.fc2.weight[2:].detach().clone()
    nn.functional.cross_entropy(
        model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3])
    ).backward()
    optimizer.step()
    assert not torch.equal(before, model.fc2.weight[2:])


def test_head_cannot_be_made_narrower():
    with pytest.raises(UsageError, match="cannot widen 10 classes to 4"):
        widen_head(SimpleCNN(10), 4)


def test_model_without_linear_layer_has_no_head_to_widen():
    with pytest.raises(UsageError, match="no Linear layer"):
        widen_head(nn.Sequential(nn.Conv2d(3, 3, 1)), 4)


def test_importing_the_models_needs_no_torchvision_and_no_image_library():
    code = (
        "import sys, reference_models; print([m for m in ('torchvision', 'skimage', 'sklearn', "
        "'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
