"""No warning on data that people train on: public data sets in their real formats, and legitimate
sets of unusual kinds.
"""

import gzip
import json
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler
from torchvision import datasets, tv_tensors
from torchvision.transforms import InterpolationMode, v2

import cnnprobe
from reference_models import data as reference
from reference_models.cifar_pickles import UncheckedCIFAR10, write_cifar10

RANDOM = np.random.default_rng(0)
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def draw(height=32, width=32, kind=0):
    """A picture that is smooth like a photo: colour gradients, a disc, some noise."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [
        np.sin(3 * x * RANDOM.uniform(0, 3) + 4 * y * RANDOM.uniform(0, 3) + kind) for _ in range(3)
    ]
    picture = np.stack(waves, -1) * 90 + 128 + RANDOM.normal(0, 8, (height, width, 3))
    cx, cy = RANDOM.uniform(0.2, 0.8, 2)
    picture[(x - cx) ** 2 + (y - cy) ** 2 < 0.03] = 255 if kind % 2 else 0
    return picture.clip(0, 255).astype(np.uint8)


def to_tensor(*more):
    return v2.Compose(
        [v2.ToImage(), *more, v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)]
    )


AUGMENTED = to_tensor(v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip())


def name_warnings(training, validation=None, **more):
    report = cnnprobe.inspect_data(training, validation, pictures=False, **more)
    assert [] == [note for note in report.notes if "could not judge" in note]
    return [(f.rule, f.message) for f in report.findings if f.severity != "info"]


def load_both(training, validation, **more):
    return (
        DataLoader(training, 16, shuffle=True, generator=torch.Generator().manual_seed(0), **more),
        DataLoader(validation, 16),
    )


def test_cifar10(tmp_path):
    images = np.stack([draw(kind=k % 10) for k in range(180)])
    write_cifar10(tmp_path, images, [(k // 6) % 10 for k in range(180)], list("abcdefghij"))
    training = UncheckedCIFAR10(tmp_path, train=True, transform=AUGMENTED)
    validation = UncheckedCIFAR10(tmp_path, train=False, transform=to_tensor())
    assert [] == name_warnings(*load_both(training, validation))
    assert [] == name_warnings(*load_both(training, validation, num_workers=2))


class UncheckedCIFAR100(datasets.CIFAR100):
    """torchvision's CIFAR100 without the checksums of the real files."""

    train_list, test_list = [["train", None]], [["test", None]]
    meta = {**datasets.CIFAR100.meta, "md5": None}


def test_cifar100(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for part, count in (("train", 400), ("test", 200)):
        rows = np.stack([draw(kind=k % 100).transpose(2, 0, 1).reshape(-1) for k in range(count)])
        fine = [k % 100 for k in range(count)]
        batch = {"data": rows, "fine_labels": fine, "coarse_labels": [k // 5 for k in fine]}
        (folder / part).write_bytes(pickle.dumps(batch))
    names = {"fine_label_names": [f"class {k}" for k in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names))
    both = [
        UncheckedCIFAR100(tmp_path, train=part, transform=transform)
        for part, transform in ((True, AUGMENTED), (False, to_tensor()))
    ]
    assert [] == name_warnings(*load_both(*both))
    # As the folder lies there, without a transform.
    assert [] == name_warnings(*(UncheckedCIFAR100(tmp_path, train=part) for part in (True, False)))


def write_idx(path, array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    with gzip.open(path.with_suffix(".gz"), "wb") as packed:
        packed.write(head + array.tobytes())
    path.write_bytes(head + array.tobytes())


def test_fashion_mnist(tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 60), ("t10k", 20)):
        clothes = np.stack([draw(28, 28, k)[..., 0] for k in range(count)])
        clothes[:, :6] = 0  # the ground is black
        write_idx(folder / f"{part}-images-idx3-ubyte", clothes)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    transform = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.2860], [0.3530])]
    )
    both = [
        datasets.FashionMNIST(tmp_path, train=part, transform=transform) for part in (True, False)
    ]
    assert [] == name_warnings(*load_both(*both))


def write_folder(root, classes=3, count=8):
    for part in ("train", "val"):
        for k in range(classes):
            folder = root / part / f"class{k}"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draw(40 + 4 * i, 50, k)).save(folder / f"{part}{i}.jpg")
    return root


def test_image_folder_of_photos_of_several_sizes(tmp_path):
    write_folder(tmp_path)
    train = to_tensor(v2.RandomResizedCrop(32, antialias=True), v2.RandomHorizontalFlip())
    val = to_tensor(v2.Resize(36), v2.CenterCrop(32))
    both = (
        datasets.ImageFolder(tmp_path / p, transform=t) for p, t in (("train", train), ("val", val))
    )
    assert [] == name_warnings(*load_both(*both))


def test_image_folder_without_transforms_as_a_data_set(tmp_path):
    write_folder(tmp_path)
    assert [] == name_warnings(
        datasets.ImageFolder(tmp_path / "train"), datasets.ImageFolder(tmp_path / "val")
    )


def write_voc(root):
    voc = root / "VOCdevkit" / "VOC2012"
    for name in (
        "JPEGImages",
        "SegmentationClass",
        "ImageSets/Segmentation",
        "ImageSets/Main",
        "Annotations",
    ):
        (voc / name).mkdir(parents=True)
    names = [f"2007_{i:06d}" for i in range(12)]
    for i, name in enumerate(names):
        Image.fromarray(draw(40, 48, i)).save(voc / "JPEGImages" / f"{name}.jpg")
        mask = np.zeros((40, 48), dtype=np.uint8)
        mask[9:31, 9:31], mask[10:30, 10:30] = 255, 1 + i % 20  # 255 is the border of an object
        Image.fromarray(mask).save(voc / "SegmentationClass" / f"{name}.png")
        box = "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>31</xmax><ymax>31</ymax></bndbox>"
        xml = f"<annotation><filename>{name}.jpg</filename><object><name>cat</name>{box}</object></annotation>"  # noqa: E501
        (voc / "Annotations" / f"{name}.xml").write_text(xml, encoding="utf-8")
    for kind in ("Segmentation", "Main"):
        (voc / "ImageSets" / kind / "train.txt").write_text("\n".join(names), encoding="utf-8")
    return root


def test_voc_masks_with_their_void(tmp_path):
    def together(image, mask):
        size = v2.Resize((32, 32), interpolation=InterpolationMode.BILINEAR)
        image, mask = v2.RandomHorizontalFlip()(
            size(v2.functional.to_image(image)),
            size(tv_tensors.Mask(v2.functional.pil_to_tensor(mask)[0])),
        )
        return image.float() / 255, mask.long()

    data = datasets.VOCSegmentation(write_voc(tmp_path), image_set="train", transforms=together)
    loss = torch.nn.CrossEntropyLoss(ignore_index=255)
    model = torch.nn.Conv2d(3, 21, 1)
    assert [] == name_warnings(DataLoader(data, 4, shuffle=True), model=model, loss_fn=loss)


def test_voc_detection_as_torchvision_gives_it(tmp_path):
    data = datasets.VOCDetection(write_voc(tmp_path), image_set="train", transform=to_tensor())
    loader = DataLoader(data, 4, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))
    assert [] == name_warnings(loader)


class Coco(datasets.CocoDetection):
    """torchvision's CocoDetection over a file of annotations, without pycocotools, which only
    indexes it.
    """

    def __init__(self, root, annotations, **transforms):
        datasets.VisionDataset.__init__(self, root, **transforms)
        self.coco, self._read = self, json.loads(annotations.read_text())
        self.ids = [image["id"] for image in self._read["images"]]

    def loadImgs(self, image_id):
        return [image for image in self._read["images"] if image["id"] == image_id]

    def getAnnIds(self, image_id):
        return [a["id"] for a in self._read["annotations"] if a["image_id"] == image_id]

    def loadAnns(self, ids):
        return [a for a in self._read["annotations"] if a["id"] in ids]


@pytest.fixture
def coco(tmp_path):
    images, annotations = [], []
    for i in range(12):
        Image.fromarray(draw(48, 40 + 4 * (i % 3), i)).save(tmp_path / f"{i:012d}.jpg")
        images.append({"id": i, "file_name": f"{i:012d}.jpg"})
        for k in range(1 + i % 3):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": i,
                    "category_id": 1 + 30 * k,
                    "bbox": [20.5, 21.0, 9.25, 14.5 - k],
                    "area": 134.0,
                    "iscrowd": 0,
                    "segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
                }
            )
    (tmp_path / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )
    return Coco(tmp_path, tmp_path / "instances.json")


def join_lists(batch):
    return tuple(zip(*batch, strict=True))


def test_coco_as_torchvision_gives_it(coco):
    coco.transforms = lambda image, target: (v2.functional.to_image(image).float() / 255, target)
    assert [] == name_warnings(DataLoader(coco, 4, shuffle=True, collate_fn=join_lists))


def test_coco_for_torchvision_detectors(coco):

    def to_target(image, target):
        boxes = torch.tensor([t["bbox"] for t in target])
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([t["category_id"] for t in target])
        return v2.functional.to_image(image).float() / 255, {"boxes": boxes, "labels": labels}

    coco.transforms = to_target
    assert [] == name_warnings(DataLoader(coco, 4, shuffle=True, collate_fn=join_lists))


def test_boxes_in_parts_of_the_image():
    boxes = torch.cat([torch.rand(8, 5, 2) / 2 + 0.25, torch.rand(8, 5, 2) / 2], dim=2)
    batches = [
        {
            "pixel_values": torch.randn(8, 3, 32, 32),
            "boxes": boxes,
            "labels": torch.ones(8, 5).long(),
        }
    ]
    assert [] == name_warnings(batches)


def test_digits():
    splits = reference.digits()
    assert [] == name_warnings(*reference.loaders(splits, classes=range(10), batch_size=64, seed=0))


def test_photos(tmp_path_factory):
    splits = reference.photos(tmp_path_factory.mktemp("photos"))
    assert [] == name_warnings(*reference.loaders(splits, classes=range(8), batch_size=64, seed=0))


def test_long_tail_at_the_bound_of_imagenet_lt():
    counts = [1280, 500, 100, 20, 5]  # 256 to 1
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    data = TensorDataset(torch.randn(len(labels), 1, 4, 4), labels)
    assert [] == name_warnings(DataLoader(data, 32, shuffle=True), samples=512)
    weights = 1.0 / torch.tensor(counts, dtype=torch.float64)[labels]
    sampler = WeightedRandomSampler(weights.tolist(), 512)
    assert [] == name_warnings(DataLoader(data, 32, sampler=sampler), samples=512)


def smooth(*shape):
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return noise.cumsum(-1) / 4


LEGITIMATE = {
    "clips": (smooth(12, 8, 3, 16, 16), torch.arange(12) % 3),
    "clips with the channels first": (smooth(12, 3, 8, 16, 16), torch.arange(12) % 3),
    "log spectrograms": (smooth(24, 1, 40, 25) * 10 - 40, torch.arange(24) % 4),
    "16 bit volumes": ((smooth(8, 1, 12, 16, 16) * 500 + 800).round().clamp(0, 65535),
        torch.arange(8) % 2),
    "Hounsfield slices with masks": ((smooth(12, 1, 32, 32) * 400).round().clamp(-1024, 3071),
        (smooth(12, 32, 32) > 2).long()),
    "several labels each": (smooth(24, 3, 16, 16), (torch.rand(24, 6) > 0.7).float()),
    "regression": (smooth(24, 3, 16, 16), torch.randn(24, 1) * 40 + 200),
    "ages": (smooth(24, 3, 16, 16), torch.randint(18, 90, (24,)).float()),
    "key points": (smooth(24, 3, 16, 16), torch.rand(24, 10)),
    "depth maps": (smooth(24, 3, 16, 16), smooth(24, 1, 16, 16).abs() * 10),
    "denoising": (smooth(24, 1, 16, 16) + 0.1, smooth(24, 1, 16, 16)),
    "binary masks for a loss over probabilities": (smooth(24, 3, 16, 16),
        (smooth(24, 1, 16, 16) > 1).float()),
    "two classes, one of them rare": (smooth(64, 3, 8, 8), (torch.arange(64) < 4).long()),
    "uint8 that is scaled on the GPU": (torch.randint(0, 256, (24, 3, 16, 16)).byte(),
        torch.arange(24) % 4),
    "images in [0, 1]": (torch.rand(24, 3, 16, 16), torch.arange(24) % 4),
    "features": (torch.randn(24, 20), torch.arange(24) % 4),
    "token indices": (torch.randint(0, 100, (24, 12)), torch.arange(24) % 4),
    "floats as labels of two classes": (smooth(24, 3, 8, 8), (torch.arange(24) % 2).float()),
}  # fmt: skip


@pytest.mark.parametrize("name", LEGITIMATE)
def test_no_warning_on(name):
    inputs, targets = LEGITIMATE[name]
    whole = TensorDataset(inputs, targets)
    cut = len(inputs) * 3 // 4
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(1)).tolist()
    training, validation = Subset(whole, order[:cut]), Subset(whole, order[cut:])
    assert [] == name_warnings(DataLoader(training, 4, shuffle=True), DataLoader(validation, 4))


class TwoViews(Dataset):
    """The same image, augmented twice, as contrastive learning has it."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        image = torch.full((3, 8, 8), float(index)) + torch.arange(8.0)
        return image + torch.rand(3, 8, 8), image + torch.rand(3, 8, 8)


def test_two_views_of_an_image():
    assert [] == name_warnings(DataLoader(TwoViews(), 4, shuffle=True))


def test_model_with_an_embedding_as_its_output_and_no_loss():
    data = TensorDataset(torch.randn(64, 3, 8, 8), torch.arange(64) % 32)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16))
    assert [] == name_warnings(DataLoader(data, 8, shuffle=True), model=model)


def test_last_batch_of_one_before_a_batch_norm_over_maps():
    data = TensorDataset(torch.randn(17, 3, 8, 8), torch.arange(17) % 4)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    assert [] == name_warnings(DataLoader(data, 8, shuffle=True), model=model)
