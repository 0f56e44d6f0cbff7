"""The tutorial's checkpoint: converted, read, and the same captions come out."""

import functools
import json
import os
import pickle
import re
import sys
import types

import jax
import numpy as np
import pytest
import safetensors.numpy

from capjax.cli.convert_tutorial import main
from capjax.data.tokenizer import Tokenizer, train_word_tokenizer
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.bahdanau import BahdanauDecoder
from capjax.pretrained.captioners import show_attend_tell
from capjax.pretrained.captioners.show_attend_tell import (
    decoder_variables,
    read_tutorial,
    torchvision_names,
    unreachable_words,
    word_map_tokenizer,
)
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.resnet import from_torchvision
from tests.helpers.command_line import call

torch = pytest.importorskip("torch", reason="torch is not installed: pip install capjax[parity]")
from tests.helpers import torch_tutorial  # noqa: E402
from tests.helpers.torch_tutorial import Attention, DecoderWithAttention, Encoder, reference  # noqa: E402

# All different, so that no two axes can be confused.
SIZES = WORDS, WIDTH, EMBED, ATTENTION, MEMORY = 13, 6, 5, 7, 10
GRID = (2, 3)
TRUST = "--i_trust_this_file"


def as_module(monkeypatch, name, *classes):
    """Lets pickle find classes where the tutorial has them."""
    module = types.ModuleType(name)
    module.__file__ = torch_tutorial.__file__  # torch's old format keeps the classes' source.
    for found in classes:
        monkeypatch.setattr(found, "__module__", name)
        setattr(module, found.__name__, found)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="module", name="parts")
def make_parts():
    torch.manual_seed(0)
    parts = {"encoder": Encoder().eval(), "decoder": DecoderWithAttention(*SIZES).eval()}
    with torch.no_grad():
        for parameter in parts["decoder"].parameters():
            parameter.normal_(0, 0.5)
    return parts


@pytest.fixture(scope="module", name="tensors")
def make_tensors(parts):
    """What a converted file should hold."""
    named = {part: module.state_dict().items() for part, module in parts.items()}
    return {f"{part}.{name}": value.numpy() for part in named for name, value in named[part]}


def decoders(tensors):
    return {name[8:]: array for name, array in tensors.items() if name.startswith("decoder.")}


@pytest.fixture(name="pickled", params=[True, False], ids=["zip", "legacy"])
def make_pickled(request, monkeypatch, tmp_path, parts):
    """A checkpoint of whole modules; published ones have torch's old format."""
    path = tmp_path / "BEST_checkpoint.pth.tar"
    optimizer = torch.optim.Adam(parts["decoder"].parameters(), lr=4e-4)
    content = {"epoch": 3, **parts, "encoder_optimizer": None, "decoder_optimizer": optimizer}
    with monkeypatch.context() as patch:
        as_module(patch, "models", Encoder, DecoderWithAttention, Attention)
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
    return path


def test_a_converted_checkpoint_gives_the_tutorials_logits_and_attention(pickled, parts, tensors):
    target = pickled.with_name("tutorial.safetensors")
    assert main([str(pickled), "--to", str(target), TRUST]) == 0
    found = safetensors.numpy.load_file(target)
    jax.tree.map(np.testing.assert_array_equal, found, tensors)
    ours = decoder_variables(decoders(found), target)["params"]
    sizes = {"vocab_size": WORDS, "width": WIDTH, "embed_dim": EMBED, "attention_dim": ATTENTION}
    kinds = {"cell": "lstm", "attention": "soft", "attention_activation": "relu"}
    kinds |= {"initial_state": "mean", "gate": "vector", "output": "linear"}
    model = Captioner(FeatureEncoder(GRID), BahdanauDecoder(**sizes, **kinds))
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, GRID[0] * GRID[1], MEMORY)).astype(np.float32)
    tokens = rng.integers(0, WORDS, (3, 4, 9))
    fresh = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), features.shape[1:]))
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, fresh["params"]["decoder"])

    def decode(captioner, features, tokens):
        return captioner.decode(captioner.encode(features), tokens, attention=True)

    apply = jax.jit(functools.partial(model.apply, method=decode))
    output = apply({"params": {"decoder": ours}}, features, tokens)
    repeated, flat = torch.from_numpy(features.repeat(4, 0)), torch.from_numpy(tokens).flatten(0, 1)
    with torch.no_grad():
        logits, weights = reference(parts["decoder"], repeated, flat)
    np.testing.assert_allclose(output.logits.reshape(logits.shape), logits, atol=1e-5)
    np.testing.assert_allclose(output.attention.reshape(weights.shape), weights, atol=1e-5)
    assert logits.std() > 0.3
    assert weights.max() > 0.5


def test_state_dicts_need_no_trust_on_the_command_line(parts, tensors, tmp_path, home):
    path, target = tmp_path / "plain.pth", tmp_path / "plain.safetensors"
    torch.save({part: module.state_dict() for part, module in parts.items()}, path)
    done = call(home, "capjax.pretrained.convert_show_attend_tell", path, "--to", target)
    assert f"wrote {target}: 6 tensors of the encoder and 19 of the decoder, " in done.stdout
    assert not done.stderr
    jax.tree.map(np.testing.assert_array_equal, safetensors.numpy.load_file(target), tensors)


class Executes(str):
    """Makes the folder that it names when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(self),)


def refusal(*arguments):
    with pytest.raises(SystemExit) as raised:
        main([str(argument) for argument in arguments])
    return str(raised.value)


def test_nothing_is_executed_without_the_flag(tmp_path):
    made, path, target = tmp_path / "made", tmp_path / "evil.pth.tar", tmp_path / "x.safetensors"
    torch.save({"encoder": Executes(made), "decoder": {}}, path)
    message = refusal(path, "--to", target)
    assert re.search(rf"evil\.pth\.tar: .*executes code of the file.*add {TRUST}$", message)
    assert not made.exists()
    assert not target.exists()
    refusal(path, "--to", target, TRUST)
    assert made.exists()  # So the flag is what kept it from being executed.


def test_a_pickle_in_place_of_safetensors_is_refused_and_not_executed(tmp_path):
    made = tmp_path / "made"
    for name, save in (("a", torch.save), ("b", lambda x, path: path.write_bytes(pickle.dumps(x)))):
        path = tmp_path / f"{name}.safetensors"
        save({"decoder": Executes(made)}, path)
        with pytest.raises(WeightsError, match=rf"{name}\.safetensors: is no safetensors file"):
            read_tutorial(path)
    assert not made.exists()
    with pytest.raises(WeightsError, match=r"none\.safetensors: no such weights file"):
        read_tutorial(tmp_path / "none.safetensors")
    with pytest.raises(
        WeightsError, match=r"BEST\.pth\.tar: .*converted first, by python -m capjax"
    ):
        read_tutorial(tmp_path / "BEST.pth.tar")


def test_a_missing_torchvision_or_torch_is_said(monkeypatch, tmp_path):
    class Bottleneck(torch.nn.Module):
        pass

    Bottleneck.__qualname__ = "Bottleneck"
    path = tmp_path / "c.pth.tar"
    with monkeypatch.context() as patch:
        as_module(patch, "torchvision")
        as_module(patch, "torchvision.models")
        as_module(patch, "torchvision.models.resnet", Bottleneck)
        torch.save({"encoder": torch.nn.Sequential(Bottleneck()), "decoder": {}}, path)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    message = refusal(path, "--to", tmp_path / "c.safetensors", TRUST)
    assert "torchvision is not installed. Install it (pip install torchvision)" in message
    monkeypatch.setitem(sys.modules, "torch", None)
    message = refusal(path, "--to", tmp_path / "c.safetensors", TRUST)
    assert "reading the checkpoint needs torch" in message


def test_other_modules_of_that_name_are_left_alone(monkeypatch, pickled, tmp_path):
    assert "executes code of the file" in refusal(pickled, "--to", tmp_path / "t.safetensors")
    other = types.ModuleType("models")
    monkeypatch.setitem(sys.modules, "models", other)
    assert main([str(pickled), "--to", str(tmp_path / "t.safetensors"), TRUST]) == 0
    assert sys.modules["models"] is other


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3, "model": {}}, "has no encoder and no decoder, only epoch, model"),
        ([1, 2], "is not a checkpoint of the tutorial: it must be a dict"),
        ({"encoder": {}, "decoder": 5}, "its decoder is neither a module nor a dict of tensors"),
        ({"encoder": {"a": 1}, "decoder": {}}, "its encoder is neither a module nor a dict"),
    ],
)
def test_other_files_are_refused(content, said, tmp_path):
    path = tmp_path / "other.pth.tar"
    torch.save(content, path)
    message = refusal(path, "--to", tmp_path / "o.safetensors", TRUST)
    assert message.startswith(f"error: {path}")
    assert said in message


def test_what_torch_cannot_read_is_named(tmp_path, capsys):
    path, target = tmp_path / "text.pth.tar", tmp_path / "t.safetensors"
    assert "no such checkpoint" in refusal(path, "--to", target, TRUST)
    for content in (b"", b"hello", b"PK\x03\x04 cut short"):
        path.write_bytes(content)
        assert "text.pth.tar: is no checkpoint that torch" in refusal(path, "--to", target, TRUST)
        assert "text.pth.tar: holds more than plain" in refusal(path, "--to", target)
    refusal(path, "--to", path)
    assert "must end in .safetensors" in capsys.readouterr().err


def test_what_does_not_fit_the_decoder_is_named(tensors):
    tensors = decoders(tensors)
    for name in tensors:
        rest = {key: value for key, value in tensors.items() if key != name}
        with pytest.raises(WeightsError, match=rf"f\.safetensors: .*missing decoder\.{name}$"):
            decoder_variables(rest, "f.safetensors")
        with pytest.raises(WeightsError, match=r"decoder\.\S+ is \[.*\] and should be "):
            decoder_variables({**tensors, name: tensors[name][..., :-1]}, "f.safetensors")
        with pytest.raises(WeightsError, match=rf"decoder\.{name} is \[.*\] and should be "):
            decoder_variables({**tensors, name: tensors[name][None]}, "f.safetensors")
    with pytest.raises(WeightsError, match=r"unexpected decoder\.extra\.weight \[3\]$"):
        decoder_variables({**tensors, "extra.weight": np.zeros(3)}, "f.safetensors")
    with pytest.raises(WeightsError, match=r"; and 11 more$"):
        decoder_variables({}, "f.safetensors")


def as_in_the_tutorial(name):
    """The same names, as children of a Sequential."""
    first, _, rest = name.partition(".")
    order = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    return f"resnet.{order.index(first)}.{rest}"


def test_a_file_is_read_by_its_two_parts(monkeypatch, tmp_path, tensors):
    path = tmp_path / "t.safetensors"
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"t\.safetensors: .*missing .*layer"):
        read_tutorial(path)
    monkeypatch.setattr(show_attend_tell, "from_torchvision", lambda *given: given)
    (names, like, file), found = read_tutorial(path)
    np.testing.assert_array_equal(names["conv1.weight"], tensors["encoder.resnet.0.weight"])
    assert file == str(path)
    expected = decoder_variables(decoders(tensors), path)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    # And a whole ResNet-101 fits what the encoder was held against.
    from benchmarks.torch_resnet import TorchResNet

    with torch.device("meta"):
        state = TorchResNet(101).state_dict()
    whole = {
        as_in_the_tutorial(name): np.broadcast_to(np.float32(0), tensor.shape)
        for name, tensor in state.items()
        if not name.startswith("fc.")
    }
    fitted = from_torchvision(torchvision_names(whole, "f"), like, "f")
    assert jax.tree.map(np.shape, fitted) == jax.tree.map(np.shape, dict(like))


def test_names_that_the_tutorial_has_not_are_refused(tmp_path):
    for name in ("resnet.8.weight", "resnet.2.weight", "fc.weight", "net.0.weight"):
        with pytest.raises(WeightsError, match=rf"f: has encoder\.{name}, and the tutorial's"):
            torchvision_names({"resnet.0.weight": np.zeros(0), name: np.zeros(0)}, "f")
    safetensors.numpy.save_file({"other.weight": np.zeros(1)}, tmp_path / "t.safetensors")
    with pytest.raises(WeightsError, match=r"has other\.weight, and should have encoder\.\*"):
        read_tutorial(tmp_path / "t.safetensors")


WORD_MAP = {"a": 1, "dog": 2, "runs": 3, "<unk>": 4, "<start>": 5, "<end>": 6, "<pad>": 0}


def write_map(tmp_path, content):
    path = tmp_path / "WORDMAP_x.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_a_word_map_keeps_its_ids(tmp_path):
    tokenizer = word_map_tokenizer(write_map(tmp_path, WORD_MAP))
    assert tokenizer.vocab_size == len(WORD_MAP)
    special = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id)
    assert special == (0, 5, 6, 4)
    assert tokenizer.encode("A dog, runs <start> <end> <bos> fast!") == [1, 2, 3, 4, 4, 4, 4]
    assert tokenizer.decode([2, 3, 6, 1]) == "dog runs"
    assert unreachable_words(tokenizer) == []
    tokenizer.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json").fingerprint == tokenizer.fingerprint


def test_text_is_split_as_by_capjaxs_own_tokenizer(tmp_path):
    texts = ["A T-shirt, 2 dogs & a café!", "NO\twordsü \n here", "a  b"]
    own = train_word_tokenizer(texts)
    words = {own.word(i): i for i in range(4, own.vocab_size)}
    words |= {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3}
    tokenizer = word_map_tokenizer(write_map(tmp_path, words))
    assert tokenizer.fingerprint == own.fingerprint


def test_words_that_no_text_becomes_are_listed(tmp_path):
    odd = ["T-Shirt", "", "hot dog", "dog's"]
    words = {**WORD_MAP, **{word: 7 + i for i, word in enumerate(odd)}}
    tokenizer = word_map_tokenizer(write_map(tmp_path, words))
    assert unreachable_words(tokenizer) == odd
    assert tokenizer.decode([1, 7, 6]) == "a T-Shirt"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{not json", r"is not JSON: .*line 1"),
        (b"\xff\xfe", "is not JSON: "),
        (["a", "dog"], "is no word map, which is one JSON object"),
        ({"a": 1, "<pad>": 0, "<start>": 2}, "lacks the special tokens <end>, <unk>$"),
        ({**WORD_MAP, "cat": 2}, "'dog' and 'cat' have the same id 2$"),
        ({**WORD_MAP, "cat": 9}, "ids of 8 words should be 0 to 7, and there is none of 7$"),
        ({**WORD_MAP, "dog": -1}, "should be 0 to 6, and there is none of 2$"),
        ({**WORD_MAP, "cat": "7"}, "ids should be whole numbers, and there is 'cat': '7'$"),
        ({**WORD_MAP, "cat": 7.0}, r"ids should be whole numbers, and there is 'cat': 7\.0$"),
        ({**WORD_MAP, "cat": True}, "ids should be whole numbers, and there is 'cat': True$"),
        (json.dumps(WORD_MAP).encode()[:-1] + b', "dog": 7}', "has words with two ids: 'dog'$"),
        ({**WORD_MAP, "<bos>": 7}, "two names of one special token: of .*<start> and <bos>"),
    ],
)
def test_what_is_no_word_map_is_refused(content, said, tmp_path):
    with pytest.raises(WeightsError, match=r"WORDMAP_x\.json: no such word map"):
        word_map_tokenizer(tmp_path / "WORDMAP_x.json")
    with pytest.raises(WeightsError, match=rf"WORDMAP_x\.json: .*{said}"):
        word_map_tokenizer(write_map(tmp_path, content))
