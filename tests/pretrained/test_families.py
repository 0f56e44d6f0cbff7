"""BLIP and GIT of transformers: read, captioned with, trained on and written back."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

import capjax
from capjax.data.batches import eval_text
from capjax.data.captions import CaptionTable, encode_captions
from capjax.data.images import load_pixels
from capjax.data.resize import Resize
from capjax.pretrained.captioners.export_captioner import write_captioner
from capjax.pretrained.captioners.read import read_captioner, read_variables
from capjax.pretrained.errors import ExportError, WeightsError
from capjax.train.objective import run
from tests.helpers.effort import sweep
from tests.helpers.references import need_torch, need_transformers
from tests.helpers.small_wordpiece import VOCABULARY, write_wordpiece

torch = need_torch()
transformers = need_transformers()
from tests.helpers import transformers_blips, transformers_gits  # noqa: E402
from tests.helpers.transformers_captioners import (  # noqa: E402
    MEAN,
    QUICK,
    STD,
    generate,
    shifted_loss,
)
from tests.helpers.transformers_vits import assert_close, pictures, save, write_torch  # noqa: E402

KINDS = {"blip": transformers_blips, "git": transformers_gits}
SMOOTHING = {"blip": {"label_smoothing": 0.1}, "git": {}}
TEXTS = ("A dog, the two Dogs!", "naïve man's runing", "xyz qqq", "")


@pytest.fixture(scope="module", params=KINDS, name="name")
def make_name(request):
    return request.param


@pytest.fixture(scope="module", name="kind")
def make_kind(name):
    return KINDS[name]


@pytest.fixture(scope="module", name="theirs")
def make_theirs(name, kind):
    model = kind.make(end=kind.RAISED, **SMOOTHING[name])
    model.generation_config.update(num_beams=2, max_length=9)
    return model


@pytest.fixture(scope="module", name="folder")
def make_folder(kind, theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner")
    kind.save_folder(theirs, folder)
    write_wordpiece(folder)
    return folder


@pytest.fixture(scope="module", name="found")
def make_found(folder):
    return read_captioner(folder)


@pytest.fixture(name="copied")
def make_copy(folder, tmp_path):
    """The same folder, to be changed."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for at, value in changes.items():
        config[at] = {**config[at], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(config))


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_folder_is_read_whole(name, kind, found):
    assert (found.encoder["width"], found.encoder["mean"], found.encoder["prefix"]) == (24, MEAN, 1)
    decoder, tokenizer = found.fields.decoder, found.tokenizer
    assert (decoder["width"], decoder["epsilon"], decoder["vocab_size"]) == (32, 1e-12, kind.ROWS)
    crop = {} if name == "blip" else {"resize_to": 16, "keep_aspect": True}
    assert found.resize == Resize(16, interpolation="bicubic", **crop)
    assert found.fields.adapter is None
    assert found.fields.label_smoothing == SMOOTHING[name].get("label_smoothing")
    assert (found.generation.num_beams, found.generation.max_length) == (2, 9)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (kind.START, kind.END)
    assert tokenizer.banned_ids == ()
    assert tokenizer.vocab_size == kind.ROWS
    shapes = jax.eval_shape(
        lambda: found.module().init_variables(jax.random.key(0), found.resize.shape)
    )
    jax.tree.map(lambda s, v: np.testing.assert_equal(v.shape, s.shape), shapes, found.variables)


def test_logits_are_transformers(kind, theirs, found):
    images = pictures((16, 16), 3)
    tokens = np.random.default_rng(0).integers(0, kind.ROWS, (3, 12))
    apply = jax.jit(
        lambda v, x, t: found.module().apply(v, x, t, train=False).logits, compiler_options=QUICK
    )
    ours = np.asarray(apply(found.variables, images, tokens[:, None]))[:, 0]
    assert_close(ours, kind.logits(theirs, images, tokens), relative=1e-4)


@pytest.mark.parametrize("prompt", sweep(["", "a dog"], ["a dog"]))
def test_loss_and_gradient_are_transformers(name, kind, theirs, found, prompt):
    texts = ("a dog", "the man runing on the two dogs", "two")
    table = CaptionTable(("0", "1", "2"), tuple((text,) for text in texts), "")
    given = {"max_length": 20, "over_length": "drop", "prompt": prompt}
    encoded = encode_captions(table, found.tokenizer, **given)
    images, batch = pictures((16, 16), 3), eval_text(encoded, np.arange(3), found.tokenizer)
    tokens, lengths = batch["tokens"], batch["lengths"]
    labels = np.where(np.arange(-1, 20) < lengths, tokens[:, 0], -100)
    assert encoded.prompt == len(found.tokenizer.encode(prompt))
    labels[:, : 1 + encoded.prompt] = -100
    theirs.zero_grad()
    expected = shifted_loss(theirs, images, tokens[:, 0], labels)
    expected.backward()
    batch["image"] = images
    smoothing = SMOOTHING[name].get("label_smoothing", 0.0)

    @jax.jit(compiler_options=QUICK)
    @jax.value_and_grad
    def loss(variables):
        _, losses = run(found.module(), variables, batch, train=False, label_smoothing=smoothing)
        sums = losses.sums()
        return sums["loss"] / sums["tokens"]

    value, gradient = loss(found.variables)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    ours = found.family.to_tensors(gradient["params"])
    for at in (kind.WORDS, kind.LAYER, kind.KEY):
        given = theirs.get_parameter(at).grad.numpy()
        np.testing.assert_allclose(ours[at], given, rtol=1e-3, atol=1e-4 * np.abs(given).max())


def test_what_goes_out_comes_in_again(kind, theirs, found, tmp_path):
    write_captioner(found, tmp_path / "out")
    again = read_captioner(tmp_path / "out")
    for part in ("family", "encoder", "fields", "resize", "generation"):
        assert getattr(again, part) == getattr(found, part), part
    assert again.tokenizer.fingerprint == found.tokenizer.fingerprint
    equal(again.variables, found.variables)
    model, about = kind.CLASS.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(about.values()), about
    before, after = theirs.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    # The class token's position goes into it.
    own = [n for n in before if n.startswith(found.family.encoder_prefix)]
    sums = [n for n in own if ".position_embedding" in n or n.endswith("class_embedding")]
    assert len(sums) == 2
    for at in before.keys() - {*sums}:
        assert torch.equal(before[at], after[at]), at
    rows = [sum(tensors[n].reshape(-1, 24)[0] for n in sums) for tensors in (before, after)]
    torch.testing.assert_close(*rows, rtol=0, atol=0)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(processor).__name__ == found.family.processor
    # Written over by transformers.
    save(model, tmp_path / "out")
    equal(read_variables(tmp_path / "out"), found.variables)


def test_the_tokenizer_is_transformers(kind, found, folder, tmp_path):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    (tmp_path / "saved").mkdir()
    theirs.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    for file in ("config.json", "generation_config.json", "preprocessor_config.json"):
        (tmp_path / "saved" / file).write_bytes((folder / file).read_bytes())
    saved = read_captioner(tmp_path / "saved", weights=False).tokenizer
    write_captioner(found, tmp_path / "out")
    written = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        ids = theirs(text)["input_ids"][1:-1]
        assert found.tokenizer.encode(text) == saved.encode(text) == ids
        assert written(text)["input_ids"][1:-1] == ids
        said = theirs.decode([*ids, kind.END], skip_special_tokens=True)
        assert found.tokenizer.decode([*ids, kind.END]) == said
        # Special tokens and those without a word are skipped.
        assert saved.decode([kind.ROWS - 1, 2, *ids][kind is transformers_gits :]) == said
    # Words that spell special tokens are words.
    assert not {0, 2, 3, kind.START} & {*found.tokenizer.encode("[DEC] a [SEP] [PAD]")}


def test_case_is_kept_where_the_files_say_so(copied):
    write_wordpiece(copied, do_lower_case=False)
    theirs = transformers.AutoTokenizer.from_pretrained(copied)
    tokenizer = read_captioner(copied, weights=False).tokenizer
    ids = tokenizer.encode("a Dog")
    assert ids == theirs("a Dog")["input_ids"][1:-1]
    assert tokenizer.unk_id in ids


def test_pixels_are_those_of_the_processor(name, folder, found):
    processor = {
        "blip": transformers.BlipImageProcessorPil,
        "git": transformers.CLIPImageProcessorPil,
    }[name].from_pretrained(folder)
    for size in ((23, 61), (62, 21), (16, 16)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        grey = (theirs * np.float32(STD) + np.float32(MEAN)) * 255
        assert np.abs(grey - load_pixels(image, found.resize)).max() <= 1.01


def test_every_format_holds_the_same(name, copied, theirs, found):
    file = copied / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    file.unlink()
    older = {f"{name}.position_ids": np.arange(24)[None]}
    if name == "blip":
        # As published: what is tied twice, and buffers.
        head, words = "text_decoder.cls.predictions", transformers_blips.WORDS
        older = {
            f"{head}.decoder.weight": tensors[words],
            f"{head}.decoder.bias": tensors[f"{head}.bias"],
            "text_decoder.bert.embeddings.position_ids": np.arange(24)[None],
        }
        wrong = {**tensors, **older, words: tensors[words] + 1}
        write_torch(copied / "pytorch_model.bin", wrong)
        with pytest.raises(WeightsError, match=r"decoder\.weight is not .*word_embeddings\.weigh"):
            read_variables(copied)
    write_torch(copied / "pytorch_model.bin", {**tensors, **older})
    equal(read_variables(copied), found.variables)
    (copied / "pytorch_model.bin").unlink()
    save(theirs, copied, max_shard_size="20kB")
    assert not file.exists()
    equal(read_variables(copied), found.variables)


REFUSED = [
    (
        "blip",
        {"architectures": ["BlipForQuestionAnswering"]},
        "is a BLIP for another task, BlipForQuestionAnswering, and captions are made by Blip",
    ),
    ("blip", {"text_config": {"is_decoder": False}}, "is_decoder=false is not supported; it mus"),
    ("blip", {"text_config": {"hidden_act": "mish"}}, 'hidden_act="mish" is not supported; it'),
    ("blip", {"text_config": {"hidden_size": 10**9}}, "hidden_size=1000000000 is not supported"),
    ("blip", {"text_config": {"label_smoothing": 2}}, "label_smoothing=2 is not supported"),
    ("blip", {"text_config": {"bos_token_id": 2}}, "bos_token_id=2 is not supported; it must be 5"),
    ("blip", {"text_config": {"sep_token_id": 2}}, "sep_token_id=2 is not supported; it must be 3"),
    ("blip", {"vision_config": {"patch_size": 0}}, "patch_size is 0, and must be 1 to"),
    ("git", {"num_image_with_embedding": 6}, "num_image_with_embedding=6 is of a GIT for videos"),
    ("git", {"tie_word_embeddings": True}, "tie_word_embeddings=true is not supported; it must b"),
    ("git", {"num_hidden_layers": "2"}, 'num_hidden_layers="2" is not supported'),
]


@pytest.mark.parametrize(("of", "changes", "message"), REFUSED)
def test_what_it_can_not_be_is_refused(name, copied, of, changes, message):
    if of != name:
        return
    change(copied, **changes)
    with pytest.raises(WeightsError) as caught:
        read_captioner(copied, weights=False)
    assert f"{copied}/config.json: {message}" in str(caught.value)


@pytest.mark.parametrize("rows", [len(VOCABULARY) - 1, len(VOCABULARY) + 2000])
def test_rows_that_do_not_fit_the_tokenizer_are_refused(name, copied, rows):
    size = {"vocab_size": rows}
    change(copied, **(size if name == "git" else {"text_config": size}))
    with pytest.raises(WeightsError, match=f"has {len(VOCABULARY)} tokens and its model vocab_siz"):
        read_captioner(copied, weights=False)


def test_wrong_tensors_are_named_as_in_the_file(kind, copied):
    file = copied / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    name = kind.KEY
    for changes, message in (
        ({name: np.zeros((32, 23), "f")}, rf"{name} is \[32, 23\] and should be \[32, 24\]"),
        ({name: np.full((32, 24), np.nan, "f")}, f"numbers of {name} are not finite"),
        ({"itm_head.weight": np.zeros(2, "f")}, r"unexpected itm_head.weight \[2\]"),
    ):
        safetensors.numpy.save_file({**tensors, **changes}, file)
        with pytest.raises(WeightsError, match=message):
            read_captioner(copied)


def test_it_captions_by_its_own_settings(name, folder, theirs):
    run = capjax.load(folder)
    images = pictures((16, 16), 4)
    captions = run.caption(list(images), attention=True)
    longest = max(captions, key=lambda caption: len(caption.words))
    expected, _ = generate(theirs, images, num_beams=2, max_length=9)
    assert [caption.text for caption in captions] == [run.tokenizer.decode(t) for t in expected]
    # Two layers of four heads; the class token and 4x4 patches.
    assert longest.attention.shape[1:] == (8, 17)
    sums = longest.attention.sum(-1)
    if name == "blip":
        np.testing.assert_allclose(sums, 1, atol=1e-5)
    else:
        assert 0 <= sums.min() < 0.9
        assert sums.max() < 1 + 1e-5


def test_what_transformers_has_not_is_refused_on_the_way_out(found, tmp_path):
    fields = dataclasses.replace(
        found.fields, decoder={**found.fields.decoder, "activation": "tanh"}
    )
    for changed, message in (
        ({"fields": fields}, r"config\.decoder\.activation='tanh' is none that transformers"),
        ({"encoder": {**found.encoder, "prefix": 0}}, r"config\.encoder\.prefix=0: "),
    ):
        with pytest.raises(ExportError, match=message):
            write_captioner(dataclasses.replace(found, **changed), tmp_path / "out")
