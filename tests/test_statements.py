"""Lines of the loop, outside of the model, are explained by the causes of the forward."""

import pytest
from examples import explain_text

from cnnprobe.crash.cause import HEAD

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
