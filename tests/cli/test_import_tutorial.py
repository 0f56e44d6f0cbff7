"""From the tutorial's own modules to a run that captions, scores and trains on as any other."""

import json

import numpy as np
import pytest
import safetensors.numpy

import capjax
from capjax.cli.import_tutorial import import_tutorial
from capjax.config.errors import ConfigError
from capjax.data.images import load_pixels
from capjax.evaluate.captioning import BeamSearch
from capjax.models.encoders import resnet
from capjax.pretrained.errors import WeightsError
from capjax.run.train import train
from capjax.run.workdir import WorkdirError
from configs import base, coco_show_attend_tell
from tests.helpers.small_pictures import write_pictures
from tests.helpers.tiny_run import shorten

torch = pytest.importorskip("torch", reason="torch is not installed: pip install capjax[parity]")
from benchmarks import torch_resnet  # noqa: E402
from tests.helpers.torch_tutorial import DecoderWithAttention, reference  # noqa: E402

WORDS = ["a", "red", "green", "blue", "wall", "picture"]
WIDTH, EMBED, ATTENTION, SIDE, GRID = 6, 5, 7, 64, 3
LENGTH = 5


@pytest.fixture(scope="module", name="tutorial")
def make_tutorial(tmp_path_factory):
    """A folder of pictures, the converted checkpoint and the word map; and torch's two modules."""
    folder = tmp_path_factory.mktemp("tutorial")
    write_pictures(folder)
    word_map = {word: i for i, word in enumerate(WORDS, start=1)} | {"<pad>": 0}
    word_map |= {special: len(word_map) + i for i, special in enumerate(("<unk>", "<start>"))}
    word_map["<end>"] = len(word_map)
    (folder / "WORDMAP.json").write_text(json.dumps(word_map))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(torch_resnet.BLOCKS, 101, (1, 1, 1, 1))
        encoder = torch_resnet.random_resnet(101, seed=3)
    torch.manual_seed(3)
    decoder = DecoderWithAttention(len(word_map), WIDTH, EMBED, ATTENTION, 2048).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            # Of 2048 features in the mean, larger weights would leave every gate shut or open.
            parameter.normal_(0, 0.02 if 2048 in parameter.shape else 1.5)
        decoder.fc.bias[word_map["<end>"]] += 1.5
        # What capjax never says.
        decoder.fc.bias[[word_map[name] for name in ("<pad>", "<start>", "<unk>")]] = -1e9
    children = {f"layer{stage}": str(3 + stage) for stage in range(1, 5)} | {"conv1": 0, "bn1": 1}
    tensors = {f"decoder.{name}": value.numpy() for name, value in decoder.state_dict().items()}
    for name, value in encoder.state_dict().items():
        child, _, rest = name.partition(".")
        if child != "fc":
            tensors[f"encoder.resnet.{children[child]}.{rest}"] = value.numpy()
    safetensors.numpy.save_file(tensors, folder / "tutorial.safetensors")
    return folder, encoder, decoder, word_map


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """ResNet-101 with a block a stage: all is as in the real one but for its depth."""
    monkeypatch.setitem(resnet.BLOCKS, 101, (1, 1, 1, 1))


@pytest.fixture(name="config")
def make_config(tutorial):
    config = coco_show_attend_tell.get_config()
    config.dataset = base.folder_dataset()
    fields = {"dataset.cache_dir": "", "dataset.image_size": SIDE, "dataset.max_length": LENGTH}
    fields |= {"dataset.packed": False, "encoder.grid": GRID, "decoder.attention_dim": ATTENTION}
    fields |= {"decoder.width": WIDTH, "decoder.embed_dim": EMBED, "num_steps": 2, "eval_every": 2}
    fields |= {"decoding.max_length": LENGTH, "decoding.num_beams": 1, "log_every": 2}
    shorten(config, tutorial[0], fields)
    return config


def imported(config, tutorial, directory):
    folder = tutorial[0]
    arguments = folder / "tutorial.safetensors", folder / "WORDMAP.json", directory
    import_tutorial(config, *map(str, arguments))
    return capjax.load(directory)


def greedy(tutorial, pixels):
    """The tutorial's words for one image, and where it looked at each."""
    _, encoder, decoder, word_map = tutorial
    mean, std = (
        torch.tensor(x)[:, None, None] for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    image = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std
    with torch.no_grad():
        maps = torch.nn.functional.adaptive_avg_pool2d(encoder(image[None]), GRID)
        memory = maps.flatten(2).transpose(1, 2)
        said = [word_map["<start>"]]
        for _ in range(LENGTH - 1):
            logits, weights = reference(decoder, memory, torch.tensor([said]))
            said.append(int(logits[0, -1].argmax()))
            if said[-1] == word_map["<end>"]:
                break
    names = {number: word for word, number in word_map.items()}
    print(said)
    return [names[number] for number in said[1:] if names[number] != "<end>"], weights[0]


def test_an_imported_run_says_and_sees_what_the_tutorial_does(config, tutorial, tmp_path, capsys):
    run = imported(config, tutorial, tmp_path / "run")
    assert "wrote" in capsys.readouterr().out
    assert run.step == 0
    paths = [tutorial[0] / f"{number}.png" for number in range(6)]
    captions = run.caption(paths, method=BeamSearch(1, 1.0, False, LENGTH), attention=True)
    said = set()
    for path, caption in zip(paths, captions, strict=True):
        words, weights = greedy(tutorial, load_pixels(path, SIDE))
        assert caption.text.split() == words
        found = np.asarray(caption.attention).reshape(-1, GRID * GRID)
        np.testing.assert_allclose(found[: len(words)], weights[: len(words)], atol=1e-4)
        assert weights.max() > 1.2 / GRID**2
        said.add(caption.text)
    assert len(said) > 1
    assert len({len(text.split()) for text in said}) > 1  # Some are ended, some cut.


def test_an_imported_run_is_what_another_starts_from(config, tutorial, tmp_path):
    first = imported(config, tutorial, tmp_path / "first")
    config.init_from = str(tmp_path / "first")
    config.encoder.weights = "not read: the run brings its encoder"
    train(config, str(tmp_path / "second"))
    second = capjax.load(tmp_path / "second")
    assert second.step == 2
    assert second.tokenizer.vocab_size == first.tokenizer.vocab_size
    before, after = (run.variables["params"]["decoder"]["logits"] for run in (first, second))
    assert 0 < np.abs(after["kernel"] - before["kernel"]).max() < 0.01


def test_what_does_not_fit_is_refused(config, tutorial, tmp_path):
    directory = tmp_path / "run"
    config.decoder.width = WIDTH + 1
    with pytest.raises(WeightsError, match=r"tutorial.safetensors: does not fit the model"):
        imported(config, tutorial, directory)
    config.decoder.width = WIDTH
    config.decoder.gate = "scalar"
    with pytest.raises(ConfigError, match=r"config.decoder.gate='vector'"):
        imported(config, tutorial, directory)
    config.decoder.gate = "vector"
    imported(config, tutorial, directory)
    with pytest.raises(WorkdirError, match="holds a run; give another --workdir"):
        imported(config, tutorial, directory)
