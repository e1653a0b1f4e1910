"""Formulas of shapes, legal sizes and cut edges, held against real forward passes at other
sizes.
"""

import functools
import json
import random

import pytest
import torch
import torch.nn.functional as F
from support.sized import count_wrong, draw_sizes, is_accepted
from test_least_input import UNet
from torch import nn

import cnnprobe
from cnnprobe.document.layout.arithmetic import SlidingWindow
from cnnprobe.errors import ProbeError, TargetError, UnknownNameError
from cnnprobe.records import reading, schema
from cnnprobe.records.sizes import SizedShapes
from cnnprobe.sizing.edges import count_cut
from reference_models import CNNModel, SimpleCNN


class Windows(nn.Module):
    """Pads its map up to whole windows and cuts it into them, as Swin does."""

    def __init__(self, size=7):
        super().__init__()
        self.size = size

    def forward(self, x):
        k, (h, w) = self.size, x.shape[2:]
        x = F.pad(x, (0, -w % k, 0, -h % k))
        n, c, h, w = x.shape
        return x.view(n, c, h // k, k, w // k, k).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, k, k)


class Shifted(nn.Module):
    """Shifts its map, padded up to windows of 7, where it has more than one."""

    def forward(self, x):
        h, w = x.shape[2:]
        x = F.pad(x, (0, -w % 7, 0, -h % 7))
        x = torch.roll(x, (3, 3), (2, 3)) if max(h, w) > 7 else x
        return x[:, :, :h, :w].relu()


class Whole(nn.Module):
    """Pads its input up to a multiple, runs, and cuts the padding off again."""

    def __init__(self, model, multiple):
        super().__init__()
        self.model, self.multiple = model, multiple

    def forward(self, x):
        h, w = x.shape[2:]
        x = self.model(F.pad(x, (0, -w % self.multiple, 0, -h % self.multiple)))
        return x[:, :, :h, :w]


class Tokens(nn.Module):
    """Patches as a sequence, with a class token."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)


class Coordinates(nn.Module):
    """Means over rows and over columns, one behind the other."""

    def forward(self, x):
        return torch.cat([x.mean(3), x.mean(2)], dim=2)


class Pair(nn.Module):
    """Two images of one size."""

    def forward(self, x, y):
        return F.max_pool2d(x + y, 3, stride=2, ceil_mode=True)


class Detail(nn.Module):
    """A map that is doubled, then pooled by three."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x):
        return F.avg_pool2d(F.interpolate(self.conv(x), scale_factor=2), 3)


class Embedding(nn.Module):
    """Words with learned positions: at most 20 of them."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 6)
        self.places = nn.Parameter(torch.zeros(20, 6))

    def forward(self, x):
        return self.words(x) + self.places[: x.shape[1]]


def conv(*options, **more):
    return nn.Conv2d(3, 4, *options, **more)


IMAGE = (1, 3, 48, 48)
CASES = {
    "convolutions": (lambda: nn.Sequential(conv(5), nn.Conv2d(4, 4, 3, 2, 1)), IMAGE),
    "dilation": (lambda: nn.Sequential(conv(3, dilation=4, stride=3, padding=1)), IMAGE),
    "even kernels": (lambda: nn.Sequential(conv(4, stride=2, padding=1), nn.MaxPool2d(2)), IMAGE),
    "ceil mode": (
        lambda: nn.Sequential(conv(3), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)),
        IMAGE,
    ),
    "ceil mode, last window left out": (
        lambda: nn.Sequential(nn.MaxPool2d(2, 3, padding=1, ceil_mode=True)),
        IMAGE,
    ),
    "transposed": (
        lambda: nn.Sequential(
            conv(3, 2, 1), nn.ConvTranspose2d(4, 2, 3, 3, padding=2, output_padding=1)
        ),
        IMAGE,
    ),
    "adaptive": (lambda: nn.Sequential(conv(3), nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten()), IMAGE),
    "global and linear": (
        lambda: nn.Sequential(
            conv(3), nn.MaxPool2d(4), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        ),
        IMAGE,
    ),
    "flattened map": (lambda: nn.Sequential(conv(3, 2, 1), nn.Flatten()), IMAGE),
    "pixel shuffle": (
        lambda: nn.Sequential(nn.PixelUnshuffle(6), nn.Conv2d(108, 9, 1), nn.PixelShuffle(3)),
        IMAGE,
    ),
    "windows": (lambda: nn.Sequential(conv(4, stride=4), Windows()), IMAGE),
    "windows of a small map": (lambda: nn.Sequential(conv(8, stride=32), Windows()),
        (1, 3, 64, 64)),
    "windows of 8": (lambda: nn.Sequential(conv(16, stride=16), Windows(8)), (1, 3, 224, 224)),
    "padded U-Net": (lambda: Whole(UNet(), 8), IMAGE),
    "padded patches": (lambda: Whole(nn.Sequential(conv(14, stride=14)), 14), IMAGE),
    "tokens": (Tokens, IMAGE),
    "sum of two sizes": (Coordinates, IMAGE),
    "up, then down": (Detail, IMAGE),
    "two inputs": (Pair, IMAGE, IMAGE),
    "series": (lambda: nn.Sequential(nn.Conv1d(3, 4, 5, stride=4), nn.AvgPool1d(2)), (2, 3, 100)),
    "volume": (lambda: nn.Sequential(nn.Conv3d(1, 2, 3, stride=2), nn.MaxPool3d(2)),
        (1, 1, 9, 20, 20)),
    "image without a batch": (lambda: nn.Sequential(conv(3, stride=2)), (3, 20, 20)),
    "sequence of vectors": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (2, 5, 8)),
    "U-Net": (UNet, (1, 3, 32, 32)),
    "SimpleCNN": (lambda: SimpleCNN(10), (1, 3, 32, 32)),
    "CNNModel": (CNNModel, (1, 3, 32, 32)),
}  # fmt: skip


@functools.cache
def find(name):
    """The model of a case, and its shapes."""
    make, *shapes = CASES[name]
    model = make().eval()
    return model, cnnprobe.shapes(model, *(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("name", CASES)
def test_formulas_give_the_shapes_of_real_forwards(name):
    model, found = find(name)
    assert all(dim is not None for row in found.data.rows for o in row.outputs for dim in o)
    for seed in range(12):
        sizes = draw_sizes(found, seed, most=150)
        wrong, known = count_wrong(model, found, sizes)
        assert ([], True) == (wrong, known > 0)


@pytest.mark.parametrize("name", CASES)
def test_legal_sizes_are_those_that_real_forwards_accept(name):
    model, found = find(name)
    for symbol in found.symbols.values():
        given = {other.name: other.given for other in found.symbols.values()}
        last = min(symbol.most or 70, 70) + 2
        for size in range(1, last):
            is_legal = (
                symbol.least <= size <= (symbol.most or size)
                and (size - symbol.least) % symbol.step == 0
            )
            sizes = given | {symbol.name: size}
            assert is_legal == is_accepted(model, found, sizes), (symbol, size)


def test_formulas_are_those_of_hand_arithmetic():
    found = cnnprobe.shapes(UNet(), torch.zeros(2, 3, 32, 32))
    assert "(N, 8, H/8, W/8)" == found["middle"]
    assert "(N, 2, H, W)" == found[""]
    found = cnnprobe.shapes(CASES["windows of a small map"][0](), torch.zeros(1, 3, 64, 64))
    # (H - 8) // 32 + 1 rows, padded up to a multiple of 7, in windows of 7
    rows, columns = (f"ceil(({name} - 7)/224)" for name in "HW")
    assert f"(N*{rows}*{columns}, 4, 7, 7)" == found["1"]
    # floor(H/16) rows, padded up to a multiple of 8
    found = find("windows of 8")[1]
    assert "(N*ceil((H - 15)/128)*ceil((W - 15)/128), 4, 8, 8)" == found["1"]
    found = find("padded U-Net")[1]
    assert "(N, 8, ceil(H/8), ceil(W/8))" == found["model.middle"]
    found = cnnprobe.shapes(Tokens(), torch.zeros(1, 3, 32, 32))
    assert "(N, floor(H/4)*floor(W/4) + 1, 8)" == found[""]


def test_path_that_is_taken_at_small_sizes_alone_has_formulas():
    model = nn.Sequential(conv(8, stride=8), Shifted()).eval()
    found = cnnprobe.shapes(model, torch.zeros(IMAGE))
    assert all(dim is not None for row in found.data.rows for o in row.outputs for dim in o)
    assert "floor(H/8)" in found["1"]
    # one window of 7 up to 63 pixels
    for h, w in ((8, 63), (63, 8), (30, 55), (17, 17)):
        wrong, known = count_wrong(model, found, {"N": 2, "H": h, "W": w})
        assert ([], True) == (wrong, known > 0)


def test_layers_before_the_one_that_asks_for_one_size_have_formulas():
    model = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(64, 2))
    found = cnnprobe.shapes(model, torch.zeros(1, 3, 39, 32))
    assert ("(N, 4, floor(H/8), floor(W/8))", "(N, 2)") == (found["0"], found["2"])
    assert (32, 39) == (found.symbols["W"].least, found.symbols["W"].most)
    assert {"linear-in-features"} == {crash.diagnosis for crash in found.data.crashes}


def test_fixed_grid_of_tokens_has_one_legal_size_and_says_why():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.VisionTransformer(32, 8, 1, 2, 8, 16, num_classes=3)
    found = cnnprobe.shapes(model, torch.empty(1, 3, 32, 32))
    assert ("(N, 17, 8)", 32, 32) == (
        found["encoder"], found.symbols["H"].least, found.symbols["H"].most,
    )  # fmt: skip
    assert "input-size-refused" in {crash.diagnosis for crash in found.data.crashes}


def test_sequence_has_a_largest_length():
    found = cnnprobe.shapes(Embedding(), torch.zeros(2, 7, dtype=torch.long))
    assert ("(N, L, 6)", 1, 20) == (found[""], found.symbols["L"].least, found.symbols["L"].most)
    model = Embedding()
    accepted = [
        size
        for size in range(1, 25)
        if is_accepted(model, found, {"N": 2, "L": size}, dtype=torch.long)
    ]
    assert list(range(1, 21)) == accepted


class Square(nn.Module):
    """The square of a map as a matrix."""

    def forward(self, x):
        return x[:, 0] @ x[:, 0]


def test_height_and_width_that_vary_only_together_have_one_name():
    found = cnnprobe.shapes(Square(), torch.zeros(2, 1, 8, 8))
    assert "(N, H, H)" == found[""]
    assert (3, 12, 12) == found.at("", N=3, H=12)


def test_input_that_crashes_is_explained_and_another_size_is_taken():
    model = nn.Sequential(nn.Conv2d(3, 4, 9, stride=2), nn.MaxPool2d(4))
    found = cnnprobe.shapes(model, torch.zeros(2, 3, 8, 8))
    assert 15 == found.symbols["H"].least
    assert "(2, 3, 8, 8) is not accepted" in found.data.notes[0]


def test_batch_of_one_that_a_batch_norm_refuses_is_explained():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4)).train()
    found = cnnprobe.shapes(model, torch.zeros(1, 3, 2, 2))
    assert ("(N, 4)", 2) == (found[""], found.symbols["N"].least)
    assert "in train mode needs more than 1 value" in found.data.notes[0]


def test_model_that_accepts_no_size_is_refused_with_the_reason():
    with pytest.raises(TargetError, match=r"at no size.*in_features"):
        cnnprobe.shapes(nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 2)), torch.zeros(2, 4))
    with pytest.raises(TargetError, match="no tensor"):
        cnnprobe.shapes(nn.Linear(2, 2))


class Wild(nn.Module):
    """As many rows as there are ones in the binary form of the height."""

    def forward(self, x):
        return x[:, :, : x.shape[2].bit_count()]


def test_shape_without_a_formula_is_shown_in_numbers():
    found = cnnprobe.shapes(Wild(), torch.zeros(1, 3, 12, 12))
    assert "(N, C, ?, W)" == found[""]
    assert ((1, 3, 12, 12), (1, 3, 2, 12)) in found.data.rows[0].seen
    assert "(1, 3, 2, 12) at (1, 3, 12, 12)" in found.to("text", width=200)
    with pytest.raises(ProbeError, match="no formula"):
        found.at("", H=9)


def make_window(draw):
    kernel, stride, dilation = draw.randint(1, 5), draw.randint(1, 5), draw.randint(1, 3)
    padding = draw.randint(0, kernel // 2)
    return kernel, stride, dilation, padding


@pytest.mark.parametrize("ceil", [False, True])
def test_cut_edge_is_what_no_window_of_torch_reads(ceil):
    draw = random.Random(1)
    for _ in range(300):
        kernel, stride, dilation, padding = make_window(draw)
        # one window of ones as wide as its stride leaves gaps; those are filled here
        reach = max(dilation * (kernel - 1) + 1, stride)
        size = draw.randint(reach, 40)
        x = torch.ones(1, 1, size, requires_grad=True)
        if ceil:
            dilation = 1
            layer = nn.MaxPool1d(kernel, stride, padding, ceil_mode=True)
        else:
            layer = nn.Conv1d(1, 1, kernel, stride, padding, dilation)
        made = layer(x).shape[2]
        window = SlidingWindow(
            kernel=(kernel,), stride=(stride,), dilation=(dilation,), padding=(2 * padding,),
            output_padding=(0,), ceil=ceil,
        )  # fmt: skip
        starts = torch.arange(made) * stride - padding
        reach = max(dilation * (kernel - 1) + 1, stride)
        read = {int(s) + k for s in starts for k in range(reach)}
        assert count_cut(window, 0, size) == max(size - 1 - max(read), 0)


def test_sizes_at_which_nothing_is_cut_are_those_that_torch_reads_to_the_end():
    model = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(3), nn.AvgPool2d(2))
    symbol = cnnprobe.shapes(model, torch.zeros(1, 3, 40, 40)).symbols["H"]
    assert (12, (0,)) == (symbol.period, symbol.residues)
    for size in range(12, 50):
        x = torch.ones(1, 1, size, size, requires_grad=True)
        model(x).sum().backward()
        assert (size % 12 == 0) == bool((x.grad[0, 0, -1] > 0).any())


def test_published_size_of_inception_cuts_no_edge():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.inception_v3(weights=None, init_weights=False, transform_input=False).eval()
    found = cnnprobe.shapes(model.Conv2d_1a_3x3, torch.empty(1, 3, 299, 299))
    assert (2, (1,)) == (found.symbols["H"].period, found.symbols["H"].residues)


def test_shapes_leave_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: (id(t), t._version) for name, t in model.state_dict(keep_vars=True).items()}
    state = torch.get_rng_state()
    cnnprobe.shapes(model, torch.zeros(2, 3, 9, 9))
    after = {name: (id(t), t._version) for name, t in model.state_dict(keep_vars=True).items()}
    assert before == after and torch.equal(state, torch.get_rng_state())
    assert not model._forward_hooks and not model[0]._forward_hooks


def test_shapes_are_saved_and_shown(tmp_path):
    found = cnnprobe.shapes(UNet(), torch.zeros(1, 3, 32, 32))
    found.save(tmp_path / "shapes.json")
    data = schema.parse((tmp_path / "shapes.json").read_text(), expected="Shapes", where="")
    assert found.data == reading.read_plain(SizedShapes, data)
    found.save(tmp_path / "shapes.html")
    assert "H/8" in (tmp_path / "shapes.html").read_text()
    assert {"text/plain", "text/html"} == set(found._repr_mimebundle_())
    assert "multiples of 8, from 8" in str(found) and json.loads(found.to("json"))
    with pytest.raises(UnknownNameError, match="no size named 'K'"):
        found.at("", K=3)


def test_shapes_from_the_command_line(tmp_path, capsys):
    pytest.importorskip("torchvision")
    from cnnprobe.cli import main

    with pytest.raises(SystemExit) as end:
        main(["shapes", "torchvision:squeezenet1_1", "--input", "1,3,64,64", "--width", "120"])
    said = capsys.readouterr().out
    assert 0 == (end.value.code or 0)
    assert "17 or more" in said and "(N, 64, floor((H - 1)/2), floor((W - 1)/2))" in said


def test_fix_of_another_size_keeps_the_weights_and_lets_it_pass():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 16 * 16, 2)
    )
    crashes = cnnprobe.shapes(model, torch.ones(1, 3, 32, 32)).data.crashes
    assert {"put nn.AdaptiveAvgPool2d(16) before '2'"} == {crash.fix for crash in crashes}
    model.insert(2, nn.AdaptiveAvgPool2d(16))
    assert {(1, 2)} == {tuple(model(torch.ones(1, 3, size, size)).shape) for size in (31, 32, 34)}
