"""The report of the data: pictures, and what `diagnose` makes of loaders."""

import base64
import io
import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cnnprobe
from cnnprobe.data import all_data_rules
from cnnprobe.data.pictures import CELL, GAP
from cnnprobe.data.rules.material import blobs, detections, masked
from cnnprobe.errors import ProbeError, TargetError, UsageError

LABELS = torch.arange(32) % 4
RULES = {rule.name for rule in all_data_rules()}


def load(images=None, labels=LABELS, **settings):
    given = torch.randn(32, 3, 8, 8) if images is None else images
    return DataLoader(TensorDataset(given, labels), 8, **{"shuffle": True, **settings})


def open_sheet(sheet):
    return Image.open(io.BytesIO(base64.b64decode(sheet.data))).convert("RGB")


def test_contact_sheet_shows_the_pixels_of_the_images():
    images = torch.zeros(32, 3, 8, 8)
    images[:, 0, 0] = 1.0  # the first row is red, the rest is black
    images[:, 1, 4:] = torch.rand(32, 4, 8)  # no two are equal
    sheet = cnnprobe.inspect_data(load(images)).sheets[0]
    picture = open_sheet(sheet)
    assert ("training-images", picture.size) == (sheet.name, (sheet.width, sheet.height))
    red, black = picture.getpixel((20, 8)), picture.getpixel((20, 30))
    assert red[0] > 200 and red[1] < 60 and max(black) < 60


def test_contact_sheet_has_each_class_about_as_often():
    labels = torch.cat([torch.zeros(100), torch.ones(4), torch.full((2,), 2.0)]).long()
    from cnnprobe.data.reading import read_data
    from cnnprobe.data.source import Limits

    loader = load(torch.randn(106, 1, 8, 8), labels, shuffle=False)
    held = read_data(loader, limits=Limits())[1][0].images.thumbnails
    shown = [t.spot.label for t in held]
    assert (48, 4, 2) == (len(shown), shown.count(1), shown.count(2))


def test_normalisation_is_taken_off_for_the_eye():
    from torchvision.transforms import v2

    class Grey(TensorDataset):
        transform = v2.Normalize([0.5], [0.25])

        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return self.transform(image), label

    images = torch.full((8, 1, 8, 8), 0.6)
    images[:, :, :2] = torch.rand(8, 1, 1, 8)
    sheet = cnnprobe.inspect_data(DataLoader(Grey(images, LABELS[:8]), 4)).sheets[0]
    assert pytest.approx(0.6 * 255, abs=2) == open_sheet(sheet).getpixel((50, 80))[0]
    assert "without its normalisation" in sheet.title


def test_suspicious_images_come_first():
    images = torch.randn(32, 3, 8, 8)
    images[7] = 0.5
    sheets = cnnprobe.inspect_data(load(images)).sheets
    assert ("training-suspicious", "1 suspicious image") == (sheets[0].name, sheets[0].alt[:18])


@pytest.mark.parametrize(
    "batches", [masked(blobs()), detections([[4, 4, 28, 28]])], ids=["masks", "boxes"]
)
def test_objects_are_drawn_on_the_images(batches):
    plain = [batch[0] for batch in batches]
    plain = [torch.stack(p) if isinstance(p, list) else p for p in plain]
    drawn, bare = (open_sheet(cnnprobe.inspect_data(b).sheets[0]) for b in (batches, plain))
    assert drawn.tobytes() != bare.tobytes()


def test_page_is_one_file_of_at_most_two_megabytes(tmp_path):
    images = torch.rand(200, 3, 96, 96)
    both = [load(images[k : k + 100], torch.arange(100) % 10) for k in (0, 100)]
    cnnprobe.inspect_data(*both).save(tmp_path / "data.html")
    page = (tmp_path / "data.html").read_text(encoding="utf-8")
    assert len(page) < 2 * 2**20
    assert 'src="http' not in page and "data:image/" in page


def test_png_is_the_contact_sheet(tmp_path):
    cnnprobe.inspect_data(load()).save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert "PNG" == picture.format
    with pytest.raises(ProbeError, match="no picture"):
        cnnprobe.inspect_data(load(torch.randn(32, 8))).save(tmp_path / "sheet.png")


def test_validation_in_zero_to_one_beside_a_training_from_minus_one_to_one():
    both = load(torch.rand(32, 3, 8, 8) * 2 - 1), load(torch.rand(32, 3, 8, 8))
    report = cnnprobe.inspect_data(*both, pictures=False)
    assert ["splits-differ"] == [f.rule for f in report.findings if f.severity != "info"]


# ---------------------------------------------------------------- diagnose


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4))


def diagnose(loader, **more):
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return cnnprobe.diagnose(
        model, loader, loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer, **more
    )


def test_diagnose_takes_loaders_and_links_model_findings_to_the_data():
    report = diagnose(load(labels=LABELS.sort().values, shuffle=False), validation=load())
    found = {f.rule: f.follows_from for f in report.findings}
    assert "single-class-batches" in found
    assert ("single-class-batches",) == found["constant-targets"]
    assert "[0] of the batch goes into the model, [1] into the loss" in report.trace.notes
    assert 32 == report.data.data.validation.samples


def test_batch_of_one_class_explains_an_output_that_is_constant():
    model = build()
    model[1].bias.data.fill_(-1000)  # nothing passes the ReLU behind it
    sorted_data = load(labels=LABELS.sort().values, shuffle=False)
    for loader, causes in ((sorted_data, ("single-class-batches",)), (load(), ())):
        report = cnnprobe.diagnose(model, loader, loss_fn=nn.CrossEntropyLoss(), trials=0)
        (found,) = [f for f in report.findings if f.rule == "constant-output"]
        assert causes == tuple(f for f in found.follows_from if f in RULES)


def test_saved_diagnosis_keeps_what_was_read_of_the_data_and_its_pictures(tmp_path):
    report = diagnose(load(labels=LABELS.sort().values, shuffle=False), validation=load())
    assert report.data.sheets
    for name in ("report.json", "report.html"):
        report.save(tmp_path / name)
        loaded = cnnprobe.load(tmp_path / name)
        assert (report, report.data) == (loaded, loaded.data)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What a batch holds" in page and page.count("data:image/") == len(report.data.sheets)
    assert page.count("single-class-batches") == report.to("html").count("single-class-batches")


def test_page_of_a_diagnosis_with_pictures_is_at_most_two_megabytes(tmp_path):
    images = torch.rand(200, 3, 96, 96)  # noise is what compresses worst
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    both = [load(images[k : k + 100], torch.arange(100) % 10) for k in (0, 100)]
    report = cnnprobe.diagnose(model, both[0], validation=both[1], loss_fn=nn.CrossEntropyLoss())
    report.save(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 2 * 2**20


def test_report_of_data_is_read_without_torch(tmp_path):
    cnnprobe.inspect_data(load()).save(tmp_path / "data.json")
    program = (
        "import sys, cnnprobe; r = cnnprobe.load(sys.argv[1]); [r.to(f) for f in ('text', 'html', "
        "'json')]; sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data.json")]
    ended = subprocess.run(command, check=False)
    assert 0 == ended.returncode, "torch was imported, or the report not read"


@pytest.mark.parametrize(
    "change", [{"data": 3}, {"data": {}}, {"data": {"data": {}, "sheets": []}}]
)
def test_damaged_data_of_a_report_says_where(tmp_path, change):
    report = diagnose(load())
    damaged = json.loads(report.to("json")) | change
    (tmp_path / "report.json").write_text(json.dumps(damaged), encoding="utf-8")
    with pytest.raises(ProbeError, match="the report is damaged") as raised:
        cnnprobe.load(tmp_path / "report.json")
    assert "at DataReport" in raised.value.where


def test_diagnose_finds_nothing_in_healthy_loaders():
    report = diagnose(load(), validation=load(torch.randn(32, 3, 8, 8)))
    assert [] == [(f.rule, f.message) for f in report.findings if f.severity != "info"]


@pytest.mark.parametrize(
    "given", [TensorDataset(torch.randn(32, 3, 8, 8), LABELS)], ids=["a data set"]
)
def test_diagnose_wraps_a_data_set(given):
    report = diagnose(given)
    assert report.trace.failure is None and report.data is not None


def test_diagnose_finds_the_input_of_a_dict_by_the_name_of_the_parameter():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build()

        def forward(self, pixels):
            return self.inner(pixels)

    class Loader:
        def __iter__(self):
            yield {"label": LABELS[:8], "pixels": torch.randn(8, 3, 8, 8)}

    report = cnnprobe.diagnose(Net(), Loader(), loss_fn=nn.CrossEntropyLoss())
    assert report.trace.failure is None
    assert "'pixels' of the batch goes into the model" in report.trace.notes


def test_diagnose_takes_a_batch_as_before():
    report = cnnprobe.diagnose(
        build(), torch.randn(8, 3, 8, 8), LABELS[:8], loss_fn=nn.CrossEntropyLoss()
    )
    assert report.data is None


def test_diagnose_refuses_targets_beside_a_loader_and_validation_beside_a_batch():
    with pytest.raises(UsageError, match="targets are given beside a loader"):
        cnnprobe.diagnose(build(), load(), LABELS)
    with pytest.raises(UsageError, match="a batch was given"):
        cnnprobe.diagnose(build(), torch.randn(8, 3, 8, 8), validation=load())


def test_diagnose_says_which_loader_gives_no_batch():
    class Broken(TensorDataset):
        def __getitem__(self, index):
            raise OSError("no such file: 3.png")

    with pytest.raises(TargetError, match=r"no such file: 3\.png"):
        cnnprobe.diagnose(build(), DataLoader(Broken(LABELS), 4))


def test_finding_of_the_data_can_be_ignored_with_a_reason():
    sorted_data = load(labels=LABELS.sort().values, shuffle=False)
    report = cnnprobe.inspect_data(sorted_data, ignore={"CP817": "a test of order"})
    assert "single-class-batches" not in [f.rule for f in report.findings]
    assert "single-class-batches is ignored: a test of order" in report.notes
    with pytest.raises(UsageError, match="without a reason"):
        cnnprobe.inspect_data(sorted_data, ignore={"CP817": " "})


def test_reading_tells_how_far_it_is():
    said = []
    cnnprobe.inspect_data(load(), load(), tell=lambda *what: said.append(what), pictures=False)
    assert [(name, 8 * k) for name in ("training", "validation") for k in (1, 2, 3, 4)] == said
    said.clear()
    diagnose(load(), tell=lambda *what: said.append(what))
    assert ("training", 32) == said[-1]


def test_a_class_of_masks_has_one_colour_in_all_images():
    masks = torch.zeros(8, 16, 16, dtype=torch.int64)
    masks[:, 4:12, 4:12] = 2
    masks[1:, :2, :2] = 1  # the first image has the second class alone
    images = torch.zeros(8, 3, 16, 16)
    images[..., :2] = torch.rand(8, 3, 16, 2)
    sheet = cnnprobe.inspect_data([(images, masks)]).sheets[0]
    picture = open_sheet(sheet)
    for k in (0, 1):
        middle = picture.getpixel((GAP + k * (CELL + GAP) + CELL // 2, GAP + CELL // 2))
        assert pytest.approx((0, 127, 127), abs=25) == middle  # half of cyan over black
