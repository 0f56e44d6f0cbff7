import itertools
from pathlib import Path

import pytest

from capjax.data.datasets.flickr8k import Flickr8k
from capjax.files.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "flickr8k"
LISTS = {
    "Flickr_8k.trainImages.txt": ["1.jpg", "2.jpg"],
    "Flickr_8k.devImages.txt": ["3.jpg"],
    "Flickr_8k.testImages.txt": ["4.jpg"],
}
CAPTIONS = {
    f"{i}.jpg": (f"A dog {i} , running .", f'The " {i} " \'s sign', "plain") for i in range(1, 5)
}


def csv_of(captions):
    quoted = ((name, text.replace('"', '""')) for name in captions for text in captions[name])
    return "image,caption\n" + "".join(f'{name},"{text}"\n' for name, text in quoted)


def tokens_of(captions):
    return "".join(
        f"{name}#{k}\t{text}\n" for name in captions for k, text in enumerate(captions[name])
    )


def make(root, *, images="Images", texts="", table=True, lists=LISTS):
    folder = root / images
    folder.mkdir(parents=True)
    for name in CAPTIONS:
        (folder / name).write_bytes(name.encode())
    (root / texts).mkdir(exist_ok=True)
    # The original has captions of an image that does not exist.
    captions = CAPTIONS | {"5.jpg.1": ("stray",)}
    if table:
        (root / texts / "captions.txt").write_text(csv_of(captions))
    else:
        (root / texts / "Flickr8k.token.txt").write_text(tokens_of(captions))
    for file, names in lists.items():
        (root / texts / file).write_text("".join(f"{name}\r\n" for name in names) + "\n")
    return str(root)


def test_every_layout_gives_the_same_sources(tmp_path):
    folders = ("Images", "images", "Flickr8k_Dataset", "Flicker8k_Dataset/Flicker8k_Dataset")
    layouts = [
        {"images": images, "texts": texts, "table": table}
        for images in folders
        for texts in ("", "Flickr8k_text")
        for table in (True, False)
    ]
    seen = {"train": set(), "validation": set(), "test": set()}
    for k, layout in enumerate(layouts):
        root = make(tmp_path / str(k), **layout)
        for split, found in seen.items():
            source = Flickr8k(root).open(split)
            found.add(source.fingerprint)
            assert {example.image_id: example.captions for example in source} == {
                name: CAPTIONS[name] for name in (example.image_id for example in source)
            }
            assert source.name == f"flickr8k/{split}"
    assert [len(found) for found in seen.values()] == [1, 1, 1]
    assert [e.image_id for e in Flickr8k(root).open("train")] == ["1.jpg", "2.jpg"]


def test_a_missing_list_is_a_missing_split(tmp_path):
    lists = {file: names for file, names in LISTS.items() if "test" not in file}
    root = make(tmp_path / "flickr", lists=lists)
    message = r"'test'.*Flickr_8k\.testImages\.txt; there is: train, validation\."
    with pytest.raises(DataError, match=message):
        Flickr8k(root).open("test")
    with pytest.raises(DataError, match=r"no split 'dev'.*train, validation$"):
        Flickr8k(root).open("dev")


def test_without_lists_the_splits_are_drawn(tmp_path):
    captions = {f"{i}.jpg": ("a dog", "a dog") for i in range(200)}
    root = make(tmp_path, lists={})
    (tmp_path / "captions.txt").write_text(csv_of(captions))
    for name in captions:
        (tmp_path / "Images" / name).write_bytes(name.encode())
    sources = [Flickr8k(root).open(split) for split in ("train", "validation", "test")]
    names = [{example.image_id for example in source} for source in sources]
    assert sorted(itertools.chain(*names)) == sorted(captions)
    # 200 draws at an eighth: a standard deviation of 5.
    assert all(10 < len(part) < 40 for part in names[1:])
    assert all("scores do not compare" in source.selection["note"] for source in sources)
    with pytest.raises(DataError, match=r"no split 'dev'"):
        Flickr8k(root).open("dev")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no folder '/nowhere'.*config\.dataset\.root.*Images"):
        Flickr8k("/nowhere").open("train")
    root = Path(make(tmp_path / "flickr"))
    (root / "Images").rename(root / "pictures")
    with pytest.raises(DataError, match=r"no folder of images.*Flicker8k_Dataset"):
        Flickr8k(str(root)).open("train")
    (root / "captions.txt").unlink()
    with pytest.raises(DataError, match=r"neither captions\.txt nor Flickr8k\.token\.txt"):
        Flickr8k(str(root)).open("train")


def test_images_of_a_list_must_be_there_with_captions(tmp_path):
    lists = LISTS | {"Flickr_8k.trainImages.txt": ["1.jpg", "6.jpg", "7.jpg", "1.jpg"]}
    root = make(tmp_path / "flickr", lists=lists)
    with pytest.raises(DataError) as caught:
        Flickr8k(root).open("train")
    missing, bare, twice = str(caught.value).splitlines()[1:]
    assert missing.endswith(": 6.jpg, 7.jpg")
    assert bare.endswith(": 6.jpg, 7.jpg")
    assert twice.endswith(": 1.jpg")


@pytest.mark.parametrize(
    ("file", "content", "lines"),
    [
        ("captions.txt", "image,caption\n1.jpg,a dog\n1.jpg,a dog, running\n1.jpg\n", "2.*: 3, 4"),
        ("captions.txt", "a dog,1.jpg\n1.jpg,a dog\n", "1 unreadable.*: 1$"),
        ("captions.txt", 'image,caption\n1.jpg,a dog\n1.jpg,"a "dog" runs"\n', ": 3$"),
        ("captions.txt", "", ": 1$"),
        ("Flickr8k.token.txt", "1.jpg#0\ta dog\n1.jpg a dog\n1.jpg\ta dog\n", "2.*TAB.*: 2, 3$"),
    ],
)
def test_unreadable_captions_are_named_by_line(tmp_path, file, content, lines):
    root = make(tmp_path / "flickr")
    (tmp_path / "flickr" / "captions.txt").unlink()
    (tmp_path / "flickr" / file).write_text(content)
    with pytest.raises(DataError, match=f"{file} has .*{lines}"):
        Flickr8k(root).open("train")


def test_the_real_download():
    if not SHARED.is_dir():
        pytest.skip("Flickr8k is not here")
    train, validation = (Flickr8k(str(SHARED)).open(split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (6000, 1000)
    assert {len(example.captions) for source in (train, validation) for example in source} == {5}
    ids = [{example.image_id for example in source} for source in (train, validation)]
    assert not ids[0] & ids[1]
    assert all(Path(example.image).is_file() for example in validation)
    # A caption with a quotation, by another reading of the file.
    assert any('says " active . "' in text for example in train for text in example.captions)
    if not (SHARED / "Flickr_8k.testImages.txt").exists():
        with pytest.raises(DataError, match="there is: train, validation"):
            Flickr8k(str(SHARED)).open("test")
