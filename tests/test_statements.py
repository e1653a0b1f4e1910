"""Lines of the loop, outside of the model, are explained by the causes of the forward."""

import pytest
import torch
import torch.nn.functional as F

from cnnprobe.crash.cause import HEAD
from tests.support.examples import explain_program, explain_text, open_program

PROGRAMS = {
    "view": (
        "view-element-count",
        None,
        "torch.flatten(x, 1)",
        "    features = model(torch.randn(4, 3, 8, 8))\n    features.view(4, 8 * 8 * 8)\n",
    ),
    "layer": (
        "linear-in-features",
        None,
        "set in_features=288 in 'head'",
        "    features = model(torch.randn(4, 3, 8, 8)).flatten(1)\n    head(features)\n",
    ),
    "stack": (
        "cat-mismatch",
        None,
        "'outs[1]'",
        "    outs = [model(torch.randn(n, 3, 8, 8)) for n in (4, 2)]\n    torch.stack(outs)\n",
    ),
    "parameter": (
        "leaf-written-in-place",
        None,
        "with torch.no_grad():",
        "    model.weight[0] = 0.0\n",
    ),
    "one-hot": (
        "broadcast-mismatch",
        None,
        "make 'hot' with .permute(0, 3, 1, 2)",
        (
            "    focal(model(torch.randn(2, 3, 6, 6)), torch.zeros(2, 4, 4).long())\n\n\n"
            "def focal(logits, classes):\n    p = logits.softmax(1)\n"
            "    hot = F.one_hot(classes, 8).float()\n"
            "    w = (1 - p) ** 2 * hot\n    return (w + hot).sum((0, 2, 3))\n"
        ),
    ),
    "depth": (
        "interpolate-arguments",
        None,
        "x.unsqueeze(1)",
        (
            "    p, depth = model(torch.randn(3, 3, 8, 8)), torch.rand(3, 16, 16)\n"
            '    small = F.interpolate(depth, size=p.shape[2:], mode="bicubic")\n'
        ),
    ),
    "dtype": (
        "input-dtype",
        None,
        "pass w.float()",
        (
            "    out = model(torch.randn(4, 3, 8, 8)).flatten(1)\n"
            "    w = torch.ones(288, 2, dtype=torch.float64)\n    out @ w\n"
        ),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_line_of_the_loop_is_explained_as_a_forward(name, tmp_path):
    diagnosis, module, repair, lines = PROGRAMS[name]
    head = "model, head = nn.Conv2d(3, 8, 3), nn.Linear(512, 2)\n\n\ndef run(model):\n"
    explanation = explain_text(HEAD + head + lines, tmp_path)
    assert (diagnosis, "loss", module) == (
        explanation.diagnosis,
        explanation.stage,
        explanation.module,
    )
    assert repair in explanation.repairs[0].title


def test_repair_of_a_line_is_not_plausible_where_the_next_line_raises_for_it(tmp_path):
    text = (
        "model = nn.Conv2d(3, 1, 3)\n\n\ndef run(model):\n"
        "    p, mask = model(torch.randn(2, 3, 8, 8)), torch.rand(1, 12, 12)\n"
        '    small = F.interpolate(mask, size=(6, 6), mode="bilinear")\n'
        "    F.binary_cross_entropy_with_logits(p[:1], small)\n"
    )
    explanation = explain_text(HEAD + text, tmp_path)
    plausible = {repair.title[:20] for repair in explanation.repairs if repair.plausible}
    assert plausible == {"add the batch dimens", "use x.unsqueeze(1) i"}
    explanation = explain_text(HEAD + text.replace("(1, 12, 12)", "(2, 12, 12)"), tmp_path)
    assert not explanation.repairs[-1].plausible


def test_repair_of_a_metric_needs_no_row_for_each_sample(tmp_path):
    text = (
        "model = nn.Linear(4, 3)\n\n\ndef run(model):\n"
        "    found = model(torch.randn(6, 4)).topk(2).indices.t()\n"
        "    (found[:2] == 1).view(-1).sum()\n"
    )
    first = explain_text(HEAD + text, tmp_path).repairs[0]
    assert "reshape(-1)" in first.title
    assert first.plausible


def test_part_of_the_model_that_the_loop_calls_keeps_its_name(tmp_path):
    text = (
        "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(128, 2))\n\n\n"
        "def run(model):\n    model[2](model[1](model[0](torch.randn(4, 3, 8, 8))))\n"
    )
    explanation = explain_text(HEAD + text, tmp_path)
    assert ("linear-in-features", "2") == (explanation.diagnosis, explanation.module)
    assert explanation.repairs[0].works


def test_call_that_is_not_of_torch_is_not_made_again(tmp_path):
    text = (
        "calls = []\n\n\ndef note(x):\n    calls.append(x)\n    return x\n\n\n"
        "model = nn.Linear(4, 2)\n\n\ndef run(model):\n"
        "    torch.cat([note(torch.ones(2, 3)), torch.ones(3, 4)])\n"
    )
    explanation = explain_text(HEAD + text + "    # once\n", tmp_path)
    assert "unknown" == explanation.diagnosis


def test_explaining_a_loop_over_a_loader_leaves_the_order_of_the_loader(tmp_path):
    text = (
        "from torch.utils.data import DataLoader, TensorDataset\n\n\n"
        "model = nn.Linear(4, 2)\nrandom = torch.Generator().manual_seed(3)\n"
        "data = TensorDataset(torch.randn(8, 4), torch.arange(8))\n"
        "loader = DataLoader(data, batch_size=4, shuffle=True, generator=random)\n\n\n"
        "def run(model):\n    random.manual_seed(3)\n"
        "    for step, (images, labels) in loader:\n        model(images)\n"
    )
    program = open_program(HEAD + text, tmp_path)
    explanation = explain_program(program)
    seen = program.random.get_state()
    with pytest.raises(ValueError, match="unpack"):
        program.run(program.model)
    assert ("loop-elements", None) == (explanation.diagnosis, explanation.module)
    assert torch.equal(seen, program.random.get_state())


def test_loss_that_a_backward_shows_is_called_with_the_output_as_the_user_called_it(tmp_path):
    text = (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = nn.Linear(4, 3)\n\n    def forward(self, x):\n"
        "        return self.fc(x.squeeze())\n\n\nmodel = Net()\n\n\ndef run(model):\n"
        "    F.cross_entropy(model(torch.ones(1, 4, 1)), torch.tensor([2])).backward()\n"
    )
    program = open_program(HEAD + text, tmp_path)
    first = explain_program(program).repairs[0]
    with torch.no_grad():
        wanted = F.cross_entropy(program.model.fc(torch.ones(1, 4)), torch.tensor([2]))
    assert first.tried.endswith(f"gives {wanted:.4g}")
