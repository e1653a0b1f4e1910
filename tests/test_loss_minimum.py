"""The loss asked without the model: nothing of the user's is changed, and the model hardly runs."""

import torch
import torch.nn.functional as F
from bench.parts import Classifier, classifier, images, labels
from torch import nn

import cnnprobe
from cnnprobe.training.free_output import capture_call, compute_loss, minimise_loss


def make_step(model, loss_fn):
    def step():
        loss_fn(model(images())).backward()

    return step


def test_gradient_of_a_loss_without_its_model_is_that_of_the_output():
    model = Classifier()
    step = make_step(model, lambda scores: F.cross_entropy(scores, labels()))
    given = capture_call(model, step)
    found = compute_loss(model, step, given.output)
    wanted = (given.output.softmax(1) - F.one_hot(labels(), 4)) / 8
    torch.testing.assert_close(found.gradients[0], wanted)
    torch.testing.assert_close(found.value, F.cross_entropy(given.output, labels()).item())


def test_output_that_makes_a_squared_error_small_is_the_target():
    model, wanted = nn.Linear(3, 2), torch.arange(8.0).reshape(4, 2)
    x = torch.ones(4, 3)
    step = lambda: F.mse_loss(model(x), wanted).backward()
    output, losses = minimise_loss(model, step, torch.zeros(4, 2), 0.2, lambda _: False)
    torch.testing.assert_close(output, wanted, atol=0.5, rtol=0)
    assert losses[-1] < 0.01 * losses[0]


def test_loss_is_asked_without_a_hook_and_without_a_forward_of_the_model():
    model, calls = Classifier(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    step = make_step(model, lambda scores: F.cross_entropy(scores, labels()))
    given = capture_call(model, step)
    compute_loss(model, step, given.output)
    assert [1] == calls
    assert "forward" not in vars(model)


def test_step_that_calls_its_model_twice_is_not_asked():
    model = Classifier()
    assert capture_call(model, make_step(model, lambda s: (s + model(images())).sum())) is None


def test_catch_all_of_the_step_does_not_hide_its_backward():
    model = Classifier()

    def step():
        try:
            model(images()).sum().backward()
        except Exception:
            raise AssertionError from None

    assert capture_call(model, step) is not None


def test_model_and_batch_are_as_before_when_the_loss_was_asked():
    given = classifier(Classifier())
    before = {name: t.clone() for name, t in given["model"].state_dict().items()}
    x, y, state = given["inputs"].clone(), given["targets"].clone(), torch.get_rng_state()
    cnnprobe.diagnose(**given)
    assert all(torch.equal(t, before[name]) for name, t in given["model"].state_dict().items())
    assert torch.equal(x, given["inputs"])
    assert torch.equal(y, given["targets"])
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in given["model"].parameters())


def count_calls(loss_fn):
    calls = []
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def counted(*pair):
        calls.append(1)
        return loss_fn(*pair)

    if isinstance(loss_fn, nn.Module):
        loss_fn.register_forward_hook(lambda *_: calls.append(1))
        counted = loss_fn
    cnnprobe.diagnose(
        model, images(), labels(), loss_fn=counted, optimizer=optimizer, steps=6, trials=0
    )
    return len(calls)


def test_loss_of_torch_is_called_for_the_steps_and_the_evaluation_alone():
    assert 7 == count_calls(nn.CrossEntropyLoss())


def test_loss_of_the_user_is_asked_beyond_the_steps():
    assert count_calls(F.cross_entropy) > 7
