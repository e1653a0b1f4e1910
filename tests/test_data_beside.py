"""Images beside their files, tokens beside their vocabulary: each fault beside what looks like it
and is meant so.
"""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

import cnnprobe

TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


class Files(Dataset):
    """A picture of each file, opened by `read`, and a class."""

    def __init__(self, files, read):
        self.files, self.read = files, read

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.read(self.files[index]), index % 4


def draw(seed, size=(96, 64)):
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 255, (5, 7, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def write(tmp_path, suffix, save, count=24):
    files = [str(tmp_path / f"{i}{suffix}") for i in range(count)]
    for i, file in enumerate(files):
        save(i, file)
    return files


def write_turned(i, file, orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation if i % 3 else 1
    draw(i).save(file, exif=exif)


def find(data, validation=None):
    report = cnnprobe.inspect_data(data, validation, pictures=False)
    assert [] == [note for note in report.notes if "could not judge" in note]
    known = ("ignored-orientation", "palette-indices", "clipped-images", "unknown-tokens")
    return [f for f in report.findings if f.rule in known]


def name(findings):
    return [f.rule for f in findings]


def load_files(files, read):
    return DataLoader(Files(files, read), 8, shuffle=True)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_photos_that_are_read_as_they_are_stored_are_found(tmp_path, orientation):
    files = write(tmp_path, ".jpg", lambda i, f: write_turned(i, f, orientation))
    resize = v2.Compose([v2.Resize((48, 48)), TENSOR])
    (found,) = find(load_files(files, lambda f: resize(Image.open(f).convert("RGB"))))
    assert "ignored-orientation" == found.rule
    assert "8 of 8 photos" in found.message
    upright = load_files(files, lambda f: resize(ImageOps.exif_transpose(Image.open(f))))
    assert [] == find(upright)


def test_upright_photos_stay_so_when_they_are_cropped_and_mirrored_by_chance(tmp_path):
    files = write(tmp_path, ".jpg", write_turned)
    steps = [v2.RandomResizedCrop(48, scale=(0.7, 1)), v2.RandomHorizontalFlip(), TENSOR]
    augment = v2.Compose(steps)
    assert [] == find(load_files(files, lambda f: augment(ImageOps.exif_transpose(Image.open(f)))))


def test_an_orientation_is_info_where_masks_may_be_drawn_on_the_stored_pixels(tmp_path):
    files = write(tmp_path, ".jpg", write_turned)
    resize = v2.Compose([v2.Resize((48, 48)), TENSOR])

    class Masked(Files):
        def __getitem__(self, index):
            image = resize(Image.open(self.files[index]))
            return image, (image[0] > 0.5).long()

    (found,) = find(DataLoader(Masked(files, None), 8))
    assert ("ignored-orientation", "info") == (found.rule, found.severity)


def write_palette(i, file):
    draw(i).convert("P", palette=Image.Palette.ADAPTIVE).save(file)


@pytest.mark.parametrize(("mode", "expected"), [("", ["palette-indices"]), ("L", []), ("RGB", [])])
def test_numbers_of_a_palette_are_found_and_its_colours_are_not(tmp_path, mode, expected):
    files = write(tmp_path, ".png", write_palette)
    loader = load_files(
        files, lambda f: TENSOR(Image.open(f).convert(mode or None) if mode else Image.open(f))
    )
    assert expected == name(find(loader))


def test_palettes_of_greys_in_order_and_masks_with_a_palette_are_as_they_should_be(tmp_path):
    def save_grey(i, file):
        picture = draw(i).convert("L")
        picture.putpalette([level for level in range(256) for _ in range(3)])
        picture.save(file)

    greys = write(tmp_path, ".png", save_grey)
    assert [] == find(load_files(greys, lambda f: TENSOR(Image.open(f))))
    photos = write(tmp_path, ".jpg", lambda i, f: draw(i).save(f))

    class Voc(Files):
        def __getitem__(self, index):
            mask = np.asarray(Image.open(greys[index])) // 64
            return TENSOR(Image.open(self.files[index])), torch.from_numpy(mask).long()

    assert [] == find(DataLoader(Voc(photos, None), 8))


def test_images_that_are_clipped_are_found_in_files(tmp_path):
    files = write(tmp_path, ".jpg", lambda i, f: draw(i).save(f))
    brighten = v2.Compose([TENSOR, lambda x: (3 * x).clamp(0, 1)])
    (found,) = find(load_files(files, lambda f: brighten(Image.open(f))))
    assert "clipped-images" == found.rule
    # 3x is cut off above 1/3: counted by NumPy in the pictures themselves.
    above = [float((np.asarray(Image.open(f)) > 85).mean()) for f in files]
    said = int(found.message.split("%")[0]) / 100
    assert min(above) - 0.05 <= said <= max(above) + 0.05


def test_scanned_pages_and_letterboxes_are_not_clipped(tmp_path):
    def save_page(i, file):
        page = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(page).text((8, 8 + i), "a page with text", fill="black")
        page.save(file)

    pages = write(tmp_path, ".png", save_page)
    assert [] == find(load_files(pages, lambda f: TENSOR(Image.open(f))))
    wide = write(tmp_path, ".jpg", lambda i, f: draw(i, (96, 48)).save(f))
    letterbox = v2.Compose([v2.Pad((0, 24)), TENSOR])
    assert [] == find(load_files(wide, lambda f: letterbox(Image.open(f))))
    inverted = v2.Compose([TENSOR, lambda x: 1 - x])
    assert [] == find(load_files(pages, lambda f: inverted(Image.open(f))))


def test_a_jitter_of_the_brightness_as_people_train_with_it_is_not_clipped(tmp_path):
    for i in range(24):
        (tmp_path / "abcd"[i % 4]).mkdir(exist_ok=True)
        draw(i).save(tmp_path / "abcd"[i % 4] / f"{i}.jpg")
    jitter = v2.Compose([v2.ColorJitter(0.4, 0.4, 0.4), TENSOR])
    assert [] == find(DataLoader(datasets.ImageFolder(tmp_path, jitter), 8, shuffle=True))


WORDS = {"<pad>": 0, "<bos>": 1, "<unk>": 2} | {w: i + 3 for i, w in enumerate("abcdefgh")}


class Captions(Dataset):
    """Pictures with eight letters each, every `rare`-th of which is in no vocabulary."""

    def __init__(self, rare, **attributes):
        self.rare = rare
        self.__dict__.update(attributes)

    def __len__(self):
        return 32

    def __getitem__(self, index):
        letters = ["Z" if k % self.rare == 0 else "abcdefgh"[(index + k) % 8] for k in range(8)]
        tokens = [1, *(WORDS.get(each, 2) for each in letters), 0, 0]
        return {"image": torch.randn(3, 16, 16), "input_ids": torch.tensor(tokens)}


def test_unknown_tokens_are_counted_without_padding():
    (found,) = find(DataLoader(Captions(1), 8))
    assert "100% of 256 words" in found.message
    (found,) = find(DataLoader(Captions(2), 8))
    assert "50% of 256 words ['input_ids']" in found.message
    assert "'<unk>' (2;" in found.message
    assert [] == find(DataLoader(Captions(8), 8))


def test_the_vocabulary_of_a_tokenizer_is_asked():
    class Tokenizer:
        unk_token_id, unk_token, all_special_ids = 2, "[UNK]", (0, 1, 2)

    (found,) = find(DataLoader(Captions(1, tokenizer=Tokenizer()), 8))
    assert "'[UNK]'" in found.message or "'<unk>'" in found.message


def test_tokens_of_a_language_model_with_labels_that_are_left_out_are_let_pass():
    class Masked(Captions):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"labels": torch.full_like(sample["input_ids"], -100)}

    assert [] == find(DataLoader(Masked(8), 8))
