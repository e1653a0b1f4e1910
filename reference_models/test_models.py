"""What the authors of these two models hold them to, written as any user of cnnprobe would. The
snapshots lie in `__cnnprobe__`.
"""

import pytest
import torch
from torch import Tensor, nn

from cnnprobe import testing
from reference_models import CNNModel, SimpleCNN

LOSS = nn.CrossEntropyLoss()


@pytest.fixture(params=[SimpleCNN, CNNModel])
def model(request: pytest.FixtureRequest) -> nn.Module:
    """Each of the models, for ten classes."""
    torch.manual_seed(0)
    made: nn.Module = request.param(num_of_output_classes=10)
    return made


@pytest.fixture
def images() -> Tensor:
    """Four images of noise, scaled as the data pipeline scales them."""
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def labels() -> Tensor:
    """Their classes."""
    return torch.tensor([0, 1, 2, 3])


def test_architecture(model: nn.Module, images: Tensor, architecture_snapshot) -> None:
    architecture_snapshot(model, images)


def test_size_and_cost(model: nn.Module, images: Tensor) -> None:
    testing.assert_parameters(model, total=1_147_466, trainable=1_147_466)
    testing.assert_macs(model, images[:1], at_most=12_000_000)
    testing.assert_memory(model, images, at_most="8 MiB")


def test_each_stage_halves_height_and_width(images: Tensor) -> None:
    testing.assert_shapes(
        SimpleCNN(10),
        images,
        {"pool1": "N 32 H/2 W/2", "pool2": "N 64 H/4 W/4", "pool3": "N 128 H/8 W/8", "": "N 10"},
    )
    testing.assert_shapes(
        CNNModel(), images, {"features.0": "N 32 H/2 W/2", "features": "N 128 H/8 W/8", "": "N 10"}
    )


@pytest.mark.cnnprobe(finite=True)
def test_learns(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    testing.assert_finite(model, images, labels, loss_fn=LOSS)
    testing.assert_gradients_reach(model, images, labels, loss_fn=LOSS)
    testing.assert_parameters_change(
        model, images, labels, loss_fn=LOSS, optimizer=torch.optim.Adam(model.parameters())
    )
    testing.assert_overfits_batch(model, images, labels, loss_fn=LOSS)


def test_samples_are_independent_and_eval_is_stable(model: nn.Module, images: Tensor) -> None:
    testing.assert_batch_independent(model, images)
    testing.assert_deterministic(model, images)
    testing.assert_eval_is_stable(model, images)
    testing.assert_same_graph(model, images, images[:1])


def test_no_rule_finds_a_fault(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    testing.assert_healthy(
        model, images, labels, loss_fn=LOSS, optimizer=torch.optim.Adam(model.parameters())
    )


def test_training_step_keeps_no_graph(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    total = 0.0

    def step() -> None:
        nonlocal total
        loss = LOSS(model(images), labels)
        loss.backward()
        total += loss.item()

    testing.assert_no_graph_leak(step)


def test_loss_falls_in_the_first_steps(
    model: nn.Module, images: Tensor, labels: Tensor, cnnprobe_monitor
) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    watched = cnnprobe_monitor(model, optimizer, loss_fn=LOSS)
    for _ in range(8):
        optimizer.zero_grad()
        LOSS(model(images), labels).backward()
        optimizer.step()
    losses = watched.history.curve("loss").values
    assert losses[-1] < losses[0]
    assert () == tuple(finding for finding in watched.findings if finding.severity == "error")


def test_blocks_are_the_model_that_was_written_out(images: Tensor) -> None:
    testing.assert_equivalent(CNNModel(), SimpleCNN(10), images, level="operations")
