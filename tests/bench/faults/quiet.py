"""Faults about which neither Python nor torch says a word, each with its corrected twin; they add
to the cases of the bench.
"""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped, net
from bench.parts import Backbone, Classifier, classifier

# -- what torch does not read ----------------------------------------------------------------------


@case("idle-attribute", "backbone.conv1")
def gradient_of_a_misspelt_name(sick):
    model = Classifier()
    for parameter in model.backbone.parameters():
        setattr(parameter, "require_gradient" if sick else "requires_grad", False)
    return classifier(model)


@case("idle-attribute", "backbone")
def gradient_switched_off_on_a_module(sick):
    model = Classifier()
    if sick:
        model.backbone.requires_grad = False
    else:
        model.backbone.requires_grad_(False)
        model.backbone.eval()
    return classifier(model)


@case("idle-attribute", None)
def rate_set_on_the_optimizer_itself(sick):
    arguments = classifier(Classifier())
    if sick:
        arguments["optimizer"].learning_rate = 1e-4
    else:
        arguments["optimizer"].param_groups[0]["lr"] = 1e-4
    return arguments


@case("idle-attribute", "")
def mode_assigned_and_not_called(sick):
    model = Classifier().eval()
    if sick:
        model.train = True
    else:
        model.train()
    return classifier(model)


@case("idle-attribute", "drop")
def rate_of_a_dropout_that_has_none(sick):
    model = nn.Sequential()
    model.add_module("body", Classifier())
    model.add_module("drop", nn.Dropout(0.9))
    model.add_module("fc", nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))
    setattr(model.drop, "drop_rate" if sick else "p", 0.1)
    return classifier(model)


@case("no-zero-grad", None)
def zero_grad_without_its_parentheses(sick):
    def careless(model, inputs, targets, optimizer):
        optimizer.zero_grad
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    def careful(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return looped(Classifier(), careless if sick else careful)


# -- what is frozen --------------------------------------------------------------------------------


class Reader(nn.Module):
    """Words to the mean of their vectors to classes."""

    def __init__(self, table, **options):
        super().__init__()
        self.words = nn.Embedding.from_pretrained(table, **options)
        self.fc = nn.Sequential(nn.Linear(table.shape[1], 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        return self.fc(self.words(x).mean(1))


def read_words(table, **options):
    words = torch.randint(1, len(table), (24, 6), generator=torch.Generator().manual_seed(1))
    return classifier(Reader(table, **options), inputs=words, targets=torch.arange(24) % 4)


@case("frozen-params", "words")
def table_of_random_vectors_that_is_frozen(sick):
    table = torch.empty(60, 12).normal_(0, 0.3)
    return read_words(table, freeze=sick)


class Tuned(nn.Module):
    """A backbone with the weights of a checkpoint, and a fresh head of two layers."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Sequential(nn.Linear(16, 24), nn.ReLU())
        self.fc = nn.Linear(24, 4)
        generator = torch.Generator().manual_seed(1)
        for conv in (self.backbone.conv1, self.backbone.conv2):
            conv.weight.data.normal_(0, 0.2, generator=generator)
        self.backbone.eval()

    def forward(self, x):
        return self.fc(self.head(self.backbone(x)))


@case("frozen-params", "head.0")
def head_that_a_pattern_of_names_freezes(sick):
    model = Tuned()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("backbone", "head")[: 1 + sick]))
    return classifier(model)


# -- what is not registered ------------------------------------------------------------------------


class Towers(nn.Module):
    """Layers and scales by number, in what `hold` makes of a nested container."""

    def __init__(self, hold):
        super().__init__()
        self.towers = hold([[nn.Linear(12, 8), nn.ReLU()] for _ in range(2)])
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(sum(function(layer(x)) for layer, function in self.towers))


def hold_modules(towers):
    return nn.ModuleList(nn.ModuleList(tower) for tower in towers)


@case("unregistered-module", "")
def list_of_lists_of_layers(sick):
    vectors = torch.randn(24, 12, generator=torch.Generator().manual_seed(2))
    model = Towers(list if sick else hold_modules)
    return classifier(model, inputs=vectors, targets=torch.arange(24) % 4)


class Scales(nn.Module):
    """A scale and a shift for each of two branches, by number."""

    def __init__(self, branches):
        super().__init__()
        self.branches = branches
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        rows = self.branches.values() if isinstance(self.branches, dict) else self.branches
        return self.fc(sum(torch.tanh(x * row["scale"] + row["shift"]) for row in rows))


@case("unregistered-parameter", "")
def dict_of_dicts_of_parameters(sick):
    generator = torch.Generator().manual_seed(2)
    made = {
        key: {
            "scale": nn.Parameter(torch.randn(12, generator=generator)),
            "shift": nn.Parameter(torch.zeros(12)),
        }
        for key in range(2)
    }
    registered = nn.ModuleList(nn.ParameterDict(row) for row in made.values())
    vectors = torch.randn(24, 12, generator=generator)
    model = Scales(made if sick else registered)
    return classifier(model, inputs=vectors, targets=torch.arange(24) % 4)


# -- derivatives and averages of one's own ---------------------------------------------------------


class Logistic(torch.autograd.Function):
    """x * sigmoid(x), with a backward that forgets a factor where it is told to."""

    @staticmethod
    def forward(ctx, x, forgets):
        ctx.forgets = forgets
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        inner = (1 - s) if ctx.forgets else s * (1 - s)
        return gradient * (s + x * inner), None


class Scaled(torch.autograd.Function):
    """exp(x / 4), the inner derivative of which may be left out."""

    @staticmethod
    def forward(x, inner):
        return torch.exp(x / 4)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.inner = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, gradient):
        (output,) = ctx.saved_tensors
        return gradient * output * ctx.inner, None


def through(function, option):
    model = Classifier()
    model.fc.register_forward_hook(lambda *given: function.apply(given[2], option))
    return classifier(model)


@case("wrong-backward", None)
def backward_that_forgets_a_factor(sick):
    return through(Logistic, sick)


@case("wrong-backward", None)
def backward_without_the_inner_derivative(sick):
    return through(Scaled, 1.0 if sick else 0.25)


def averaged(update):
    """A classifier with a teacher that `update` changes after each step: update(teacher,
    student).
    """
    torch.manual_seed(0)
    model, teacher = Classifier(), Classifier()
    teacher.load_state_dict(model.state_dict())

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), model.parameters(), strict=True):
                update(old, new)

    return looped(model, step, optimizer=torch.optim.Adam(model.parameters(), lr=1e-3))


@case("average-astray", None)
def teacher_that_runs_away(sick):
    return averaged(lambda old, new: old.add_(new - old, alpha=-0.05 if sick else 0.05))


@case("average-astray", None)
def average_whose_weights_are_swapped(sick):
    decay = 0.02 if sick else 0.98
    return averaged(lambda old, new: old.copy_(decay * old + (1 - decay) * new))


@case("average-astray", None)
def average_that_adds_the_whole_weights(sick):
    return averaged(lambda old, new: old.mul_(0.95).add_(new, alpha=0.1 if sick else 0.05))


# -- one module under several names ----------------------------------------------------------------


@case("shared-module", "heads.0")
def heads_of_one_state_that_are_one_head(sick):
    def forward(self, x):
        state = self.body(x)
        return sum(head(state) for head in self.heads)

    head = nn.Linear(4, 4)
    heads = [head] * 3 if sick else [nn.Linear(4, 4) for _ in range(3)]
    return classifier(net(forward, body=Classifier(), heads=nn.ModuleList(heads)))


# -- results and methods that nobody asks for ------------------------------------------------------


@case("dead-output", "")
def scores_that_are_masked_for_nobody(sick):
    def forward(self, x):
        h = self.body(x.flatten(2).transpose(1, 2))
        scores = h @ h.transpose(1, 2)
        hidden = torch.ones_like(scores).triu(1).bool()
        if sick:
            scores.masked_fill(hidden, -1e9)
        else:
            scores = scores.masked_fill(hidden, -1e9)
        return self.head((scores.softmax(-1) @ h).mean(1))

    return classifier(net(forward, body=nn.Linear(3, 8), head=nn.Linear(8, 4)))


@case("dead-output", None)
def inputs_that_the_step_clamps_for_nobody(sick):
    def step(model, inputs, targets, optimizer):
        if sick:
            inputs.clamp(
                -1.0,
                1.0,
            )
        else:
            inputs = inputs.clamp(-1.0, 1.0)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return looped(Classifier(), step)


class Reversed(nn.Module):
    def forward(self, x):
        return x.view_as(x)


class Reversal(Reversed):
    def backward(self, gradient):
        return -0.1 * gradient


@case("idle-attribute", "reversal")
def gradient_reversed_by_a_method_of_a_module(sick):
    def forward(self, x):
        return self.body(self.reversal(x))

    return classifier(net(forward, body=Classifier(), reversal=(Reversal if sick else Reversed)()))


# -- images and their masks ------------------------------------------------------------------------


def segment(turn):
    """Pixels to two classes; `turn` gives images and masks of the batch as the step uses them."""
    pictures = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(6))
    masks = (pictures.mean(1) > 0).long()
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def step(model, inputs, targets, optimizer):
        inputs, targets = turn(inputs, targets)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return looped(model, step, inputs=pictures, targets=masks, optimizer=optimizer)


@case("unpaired-flip", None)
def quarter_turns_of_the_images_alone(sick):
    def turn(pictures, masks):
        quarters = int(torch.randint(1, 4, ()))
        turned = torch.rot90(pictures, quarters, (2, 3))
        return turned, masks if sick else torch.rot90(masks, quarters, (1, 2))

    return segment(turn)


@case("unpaired-flip", None)
def some_images_upside_down(sick):
    def turn(pictures, masks):
        chosen = torch.rand(len(pictures)) < 0.5
        turned = torch.where(chosen[:, None, None, None], pictures.flip(-2), pictures)
        return turned, masks if sick else torch.where(chosen[:, None, None], masks.flip(-2), masks)

    return segment(turn)
