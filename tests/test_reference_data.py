"""The images of the reference models: chosen classes of torchvision's data sets, the offline ones,
and what is missing.
"""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, FakeData, ImageFolder

from cnnprobe.errors import TargetError, UnknownNameError, UsageError
from reference_models import data, photos
from reference_models.cifar_pickles import UncheckedCIFAR10, write_cifar10

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    data.offline_photos(root)
    return root


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """120 CIFAR-like images of which every pixel of image k is k, labels 0..9 in turn; and their
    folder.
    """
    root = tmp_path_factory.mktemp("cifar")
    images = np.tile(np.arange(120, dtype=np.uint8)[:, None, None, None], (1, 32, 32, 3))
    write_cifar10(root, images, [k % 10 for k in range(120)], NAMES)
    return root


def write_folder(root, classes, count=5, size=(32, 32)):
    for shade, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", size, (shade * 40, k, 0)).save(root / name / f"{k}.png")
    return root


def shades(subset):
    """The pixel value of each image, with its label."""
    return [(image.getpixel((0, 0))[0], label) for image, label in subset]


def test_subset_of_cifar10_has_the_images_of_its_classes_relabelled(cifar):
    subset = data.class_subset(UncheckedCIFAR10(cifar, train=False), ["dog", "bird"])
    # The sixth of six files holds images 5, 11, 17, ...; image k has label k % 10; bird is 2, dog
    # is 5.
    expected = [(k, {5: 0, 2: 1}[k % 10]) for k in range(5, 120, 6) if k % 10 in (2, 5)]
    assert expected == shades(subset)
    assert (["dog", "bird"], {"dog": 0, "bird": 1}) == (subset.classes, subset.class_to_idx)
    assert [label for _, label in expected] == subset.targets


def test_classes_may_be_named_by_index(cifar):
    whole = UncheckedCIFAR10(cifar)
    assert (
        shades(data.class_subset(whole, ["dog", "bird"]))
        == shades(data.class_subset(whole, [5, 2]))
        == shades(data.class_subset(whole, ["dog", np.int64(2)]))
    )


def test_subset_leaves_the_data_set_as_it_was(cifar):
    whole = UncheckedCIFAR10(cifar)
    before = (list(whole.targets), list(whole.classes), whole.target_transform)
    list(data.class_subset(whole, ["dog", "bird"]))
    assert before == (whole.targets, whole.classes, whole.target_transform)


def test_subset_labels_do_not_depend_on_a_target_transform(cifar):
    plain, shifted = (
        UncheckedCIFAR10(cifar),
        UncheckedCIFAR10(cifar, target_transform=lambda label: label + 100),
    )
    assert shades(data.class_subset(plain, ["cat"])) == shades(data.class_subset(shifted, ["cat"]))


def test_subset_of_a_subset_is_the_subset(cifar):
    whole = UncheckedCIFAR10(cifar)
    assert shades(data.class_subset(whole, ["cat", "dog"])) == shades(
        data.class_subset(data.class_subset(whole, ["dog", "bird", "cat"]), ["cat", "dog"])
    )


def test_subset_of_an_image_folder(tmp_path):
    folder = ImageFolder(write_folder(tmp_path, ["a", "b", "c"], count=2))
    assert [(0, 1), (0, 1), (80, 0), (80, 0)] == shades(data.class_subset(folder, ["c", "a"]))


def test_subset_takes_labels_that_are_a_tensor(cifar):
    whole = UncheckedCIFAR10(cifar)
    expected = shades(data.class_subset(whole, ["cat"]))
    whole.targets = torch.tensor(whole.targets)
    assert expected == shades(data.class_subset(whole, ["cat"]))


@pytest.mark.parametrize(
    ("classes", "what", "fix"),
    [
        (["dgo"], "no class named 'dgo'", "did you mean 'dog'"),
        (["xyz"], "no class named 'xyz'", "known are 'airplane', 'automobile'"),
        ([10], "no class with the index 10", "the indices are 0 to 9"),
        ([-1], "no class with the index -1", "the indices are 0 to 9"),
        ([True], "no class with the index True", "the indices are 0 to 9"),
    ],
)
def test_unknown_class_is_an_error_that_names_the_near_ones(cifar, classes, what, fix):
    with pytest.raises(UnknownNameError) as caught:
        data.class_subset(UncheckedCIFAR10(cifar), classes)
    assert what == caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize("classes", [["cat", "dog", "cat"], ["cat", 3]])
def test_class_named_twice_is_an_error(cifar, classes):
    with pytest.raises(UsageError, match="class 'cat' is chosen twice"):
        data.class_subset(UncheckedCIFAR10(cifar), classes)


def test_no_class_is_an_error(cifar):
    with pytest.raises(UsageError, match="no class was chosen"):
        data.class_subset(UncheckedCIFAR10(cifar), [])


def test_data_set_without_classes_is_an_error():
    with pytest.raises(UsageError, match="FakeData has no `classes` and `targets`"):
        data.class_subset(FakeData(size=2), [0])


def test_transform_scales_to_minus_one_to_one():
    image = Image.fromarray(np.array([[[0, 51, 255]] * 32] * 32, dtype=np.uint8))
    expected = torch.tensor([-1.0, -0.6, 1.0]).reshape(3, 1, 1).expand(3, 32, 32)
    torch.testing.assert_close(data.image_transform()(image), expected)


@pytest.mark.parametrize("size", [(32, 32), (100, 50), (10, 40)])
def test_transform_with_resize_gives_32_by_32(size):
    assert (3, 32, 32) == data.image_transform(resize=True)(Image.new("RGB", size)).shape


def test_offline_photos_are_an_image_folder_of_equal_classes(cache):
    splits = data.photos(cache)
    assert tuple(sorted(photos.PHOTOS)) == splits.classes
    assert 8 == len(splits.classes)
    assert [192] * 8 == np.bincount(splits.train.targets).tolist()
    assert [48] * 8 == np.bincount(splits.val.targets).tolist()
    assert (
        {(32, 32)}
        == {image.shape[1:] for image, _ in splits.val}
        == {image.shape[1:] for image, _ in splits.train}
    )


def test_validation_crops_share_no_pixel_with_training_crops(cache):
    for name in photos.PHOTOS:
        covered = {
            "train": np.zeros((2000, 2000), dtype=bool),
            "val": np.zeros((2000, 2000), dtype=bool),
        }
        for split, mask in covered.items():
            for path in (cache / photos.FOLDER / split / name).iterdir():
                left, top = map(int, path.stem.split("-"))
                mask[top : top + 32, left : left + 32] = True
        assert covered["train"].any() and covered["val"].any()
        assert not (covered["train"] & covered["val"]).any()


def test_no_validation_image_is_a_training_image(cache):
    read = {
        part: {path.read_bytes() for path in (cache / photos.FOLDER / part).rglob("*.png")}
        for part in ("train", "val")
    }
    assert set() == read["train"] & read["val"]


def test_offline_photos_are_made_once(cache, monkeypatch):
    monkeypatch.setattr(photos, "_photo", lambda name: pytest.fail("cut again"))
    assert cache / photos.FOLDER == data.offline_photos(cache)


def test_offline_photos_leave_nothing_behind_when_interrupted(tmp_path, monkeypatch):
    made = []

    def interrupted(name):
        made.append(name)
        if len(made) == 2:
            raise KeyboardInterrupt
        return Image.new("RGB", (640, 320))

    monkeypatch.setattr(photos, "_photo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.offline_photos(tmp_path / "new")
    assert [] == list((tmp_path / "new").iterdir())


def test_offline_photos_of_two_processes_at_once_are_whole(tmp_path):
    # Both see no folder; the one that is slower must give way.
    target = tmp_path / photos.FOLDER
    first, second = tmp_path / "first", tmp_path / "second"
    write_folder(first, ["a"])
    write_folder(second, ["a"])
    photos._publish(first, target)
    photos._publish(second, target)
    assert 5 == len(list((target / "a").iterdir()))


def test_offline_photos_that_cannot_be_written_are_one_message(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TargetError, match="the offline images cannot be written"):
        data.offline_photos(tmp_path / "file")


def test_missing_scikit_image_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage", None)
    with pytest.raises(TargetError, match="scikit-image is not installed"):
        data.offline_photos(tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_real_batch_is_of_the_validation_images_and_repeats(cache):
    images, labels = data.real_batch(cache)
    again, _ = data.real_batch(cache)
    other, _ = data.real_batch(cache, seed=1)
    assert ((8, 3, 32, 32), torch.float32) == (tuple(images.shape), images.dtype)
    assert ((8,), torch.int64) == (tuple(labels.shape), labels.dtype)
    assert torch.equal(images, again) and not torch.equal(images, other)
    assert images.std() > 0.2
    val = data.photos(cache).val
    of_class = [val[i][0] for i, target in enumerate(val.targets) if target == labels[0]]
    assert any(torch.equal(images[0], image) for image in of_class)


def test_real_batch_of_chosen_classes_relabels_them(cache):
    _, labels = data.real_batch(cache, 96, ["rocket", "cat"])
    assert [48, 48] == torch.bincount(labels).tolist()


@pytest.mark.parametrize("n", [0, -1, 385])
def test_real_batch_of_an_impossible_size_is_an_error(cache, n):
    with pytest.raises(UsageError, match=f"a batch of {n} images"):
        data.real_batch(cache, n)


def test_digits_are_the_published_set_at_32_pixels():
    splits = data.digits()
    assert 1797 == len(splits.train) + len(splits.val)
    assert tuple("0123456789") == splits.classes
    image, label = splits.train[0]
    # The first digit of the UCI set is a 0, its first rows 0 0 5 13 9 1 0 0 and 0 0 13 15 10 15 5 0
    # (of 16).
    expected = torch.tensor([0, 0, 13, 15, 10, 15, 5, 0]) / 16 * 2 - 1
    torch.testing.assert_close(image[2, 5, ::4], expected, atol=2 / 255, rtol=0)
    assert 0 == label and (3, 32, 32) == image.shape


def test_directory_with_cifar_pickles_is_read_by_torchvision(cifar, monkeypatch):
    monkeypatch.setattr(data, "CIFAR10", UncheckedCIFAR10)
    for directory in (cifar, cifar / "cifar-10-batches-py"):
        splits = data.splits_from(directory)
        assert ("cifar10", tuple(NAMES), 100, 20) == (
            splits.name,
            splits.classes,
            len(splits.train),
            len(splits.val),
        )
        assert (3, 32, 32) == splits.train[0][0].shape


def test_relative_directory_is_found(cifar, monkeypatch):
    monkeypatch.setattr(data, "CIFAR10", UncheckedCIFAR10)
    monkeypatch.chdir(cifar / "cifar-10-batches-py")
    assert "cifar10" == data.splits_from(".").name


def test_cifar_file_that_is_not_the_published_one_is_never_unpickled(cifar, tmp_path):
    folder = write_cifar10(tmp_path, np.zeros((6, 32, 32, 3), dtype=np.uint8), [0] * 6, NAMES)
    marker = tmp_path / "code ran"

    class Malicious:
        def __reduce__(self):
            return marker.touch, ()

    (folder / "data_batch_1").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(TargetError, match="CIFAR10: data_batch_1 is not the published file"):
        data.splits_from(tmp_path)
    assert not marker.exists()


def test_missing_cifar_file_is_named(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(TargetError, match="CIFAR100: train is missing"):
        data.splits_from(tmp_path)


def test_download_without_network_is_one_message(tmp_path, monkeypatch):
    # Nothing listens on port 9 of this machine, so torchvision's own download fails as without a
    # network.
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(TargetError, match=r"CIFAR10 could not be downloaded: .*refused") as caught:
        data.splits_from(tmp_path, download="cifar10")
    assert "put cifar-10-python.tar.gz into" in caught.value.fix


def test_image_folder_with_train_and_val(tmp_path):
    write_folder(tmp_path / "train", ["a", "b"], size=(60, 40))
    write_folder(tmp_path / "val", ["a", "b"], count=2)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    splits = data.splits_from(tmp_path)
    assert (("a", "b"), 10, 4) == (splits.classes, len(splits.train), len(splits.val))
    assert (3, 32, 32) == splits.train[0][0].shape


@pytest.mark.parametrize(("count", "train", "val"), [(10, 8, 2), (5, 4, 1), (3, 2, 1), (2, 1, 1)])
def test_image_folder_without_val_keeps_the_last_of_each_class_for_it(tmp_path, count, train, val):
    splits = data.splits_from(write_folder(tmp_path, ["a", "b"], count=count))
    assert [train, train] == np.bincount(splits.train.targets).tolist()
    assert [val, val] == np.bincount(splits.val.targets).tolist()
    assert set() == set(splits.train.indices) & set(splits.val.indices)
    # The second channel of image k is k.
    assert (count - 1) / 255 * 2 - 1 == pytest.approx(splits.val[-1 + val][0][1, 0, 0].item())


def test_missing_directory_is_one_message(tmp_path):
    with pytest.raises(TargetError, match="no such folder"):
        data.splits_from(tmp_path / "nowhere")


def test_empty_directory_is_one_message_that_says_what_is_looked_for(tmp_path):
    with pytest.raises(TargetError, match="no image folder: no folder for a class") as caught:
        data.splits_from(tmp_path)
    assert "one folder of images per class" in caught.value.fix


def test_class_folder_without_images_is_one_message(tmp_path):
    write_folder(tmp_path, ["a", "b"])
    (tmp_path / "c").mkdir()
    with pytest.raises(TargetError, match="Found no valid file for the classes c"):
        data.splits_from(tmp_path)


def test_class_with_one_image_is_one_message(tmp_path):
    with pytest.raises(TargetError, match="class 'a' has 1 image, too few"):
        data.splits_from(write_folder(tmp_path, ["a", "b"], count=1))


def test_train_and_val_of_different_classes_are_one_message(tmp_path):
    write_folder(tmp_path / "train", ["a", "b"])
    write_folder(tmp_path / "val", ["a", "c"])
    with pytest.raises(TargetError, match="classes in one of train/ and val/ only: b, c"):
        data.splits_from(tmp_path)


def test_file_that_is_no_image_is_named(tmp_path):
    write_folder(tmp_path, ["a", "b"])
    (tmp_path / "a" / "0.png").write_text("not a picture")
    splits = data.splits_from(tmp_path)
    with pytest.raises(TargetError, match="not a readable image") as caught:
        splits.train[0]
    assert str(tmp_path / "a" / "0.png") == caught.value.where


def test_loaders_shuffle_the_training_images_by_seed(cache):
    splits = data.photos(cache)

    def order(seed):
        train, _ = data.loaders(splits, classes=["cat", "rocket"], batch_size=400, seed=seed)
        return next(iter(train))[1].tolist()

    assert order(0) == order(0) != order(1)
    assert [192, 192] == np.bincount(order(0)).tolist()
