"""The bench of silent faults, their twins, and healthy designs: all found, all located, nothing
wrongly.
"""

import pytest
import torch
from bench.faults import CASES
from bench.healthy import DESIGNS
from bench.score import score

import cnnprobe
from cnnprobe.remedies import ADVICE

# Their fix is more than what is tried: code of the user's own has to be written.
UNMENDED = {
    "masks_that_were_stored_after_an_average",
    "alpha_of_the_common_label_for_the_rare_one",
    "weights_in_the_order_in_which_the_classes_were_counted",
    "disparities_on_one_side_only",
    "rate_with_a_bracket_in_the_wrong_place",
    "backward_that_leaves_out_the_incoming_gradient",
    "way_through_numpy",
    "positive_that_is_also_the_negative",
    "parameter_that_was_moved",
    "pixels_divided_as_integers",
    "two_views_that_are_the_same",
    "copy_that_is_trained",
    "experts_without_the_weight_of_their_gate",
    "gradient_reversed_by_a_method_of_a_module",
    "next_value_with_a_gradient",
    "overlap_of_the_greatest_class",
    "teacher_compared_with_itself",
    "critic_that_is_cleared_and_never_stepped",
    "transcript_longer_than_the_time_steps",
    "weight_of_every_sample_that_is_zero",
}


@pytest.mark.parametrize("name", CASES)
def test_fault_is_found_located_and_mended_and_its_twin_is_silent(name):
    result = score(name)
    assert (True, True, ()) == (result.found, result.located, result.loud)
    assert result.mended == (name not in UNMENDED) or result.rule in ADVICE


@pytest.mark.parametrize("name", DESIGNS)
def test_healthy_design_gives_no_warning(name):
    report = cnnprobe.diagnose(**DESIGNS[name]())
    assert report.error is None
    assert [] == [(f.rule, f.module, f.message) for f in report.findings if f.severity != "info"]


ZOO = (
    "alexnet", "vgg11", "resnet18", "densenet121", "mobilenet_v3_small", "efficientnet_b0",
    "googlenet", "convnext_tiny", "swin_t", "vit_b_16",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ZOO)
def test_torchvision_model_at_its_initialisation_gives_no_warning(name, training):
    import torchvision

    options = {"init_weights": False} if name == "googlenet" else {}
    options |= {"image_size": 64} if name == "vit_b_16" else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=10, **options).train(
        training
    )
    inputs, targets = torch.randn(4, 3, 64, 64), torch.tensor([1, 7, 3, 0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    cross_entropy = torch.nn.CrossEntropyLoss()

    def take_logits(output, labels):  # GoogLeNet returns a named tuple while it trains
        return cross_entropy(getattr(output, "logits", output), labels)

    # To try a fix takes up to five times as long again, of 130 million weights most of a minute.
    trials = 0 if name == "vgg11" else 60
    report = cnnprobe.diagnose(
        model, inputs, targets, loss_fn=take_logits, optimizer=optimizer, steps=3, trials=trials
    )
    assert report.error is None
    assert [] == [(f.rule, f.module, f.message) for f in report.findings if f.severity != "info"]


def test_diagnosis_of_resnet18_takes_at_most_fifteen_forward_and_backward_passes():
    import torchvision

    forwards, backwards = [], []

    class Counting(torchvision.models.ResNet):
        def forward(self, x):
            forwards.append(1)
            y = super().forward(x)
            if y.requires_grad:
                y.register_hook(lambda _: backwards.append(1))
            return y

    model = Counting(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=10)
    optimizer = torch.optim.Adam(model.parameters())
    cnnprobe.diagnose(
        model,
        torch.randn(8, 3, 64, 64),
        torch.arange(8),
        loss_fn=torch.nn.CrossEntropyLoss(),
        optimizer=optimizer,
    )
    assert 0 < len(backwards) <= len(forwards) <= 15
