"""BLIP of transformers: read, captioned with, trained on and written back."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

import capjax
from capjax.data.batches import lay_out
from capjax.data.images import load_pixels
from capjax.data.resize import Resize
from capjax.evaluate.captioning import BeamSearch, make_decode
from capjax.pretrained.captioners.export_captioner import write_captioner
from capjax.pretrained.captioners.read import read_captioner, read_variables
from capjax.pretrained.errors import ExportError, WeightsError
from capjax.train.objective import teacher_forced
from tests.helpers.effort import sweep
from tests.helpers.references import need_torch, need_transformers
from tests.helpers.small_wordpiece import VOCABULARY, write_wordpiece

torch = need_torch()
transformers = need_transformers()
from tests.helpers.transformers_blips import END, START, logits, make, raise_end, save_blip  # noqa: E402
from tests.helpers.transformers_captioners import MEAN, QUICK, STD, generate, pixels  # noqa: E402
from tests.helpers.transformers_vits import pictures, save, write_torch  # noqa: E402

TEXTS = ("A dog, the two Dogs!", "naïve man's runing", "[DEC] a [SEP] dog", "xyz qqq", "")


@pytest.fixture(scope="module", name="theirs")
def make_theirs():
    return make(end=(3.0, 3.0), label_smoothing=0.1)


@pytest.fixture(scope="module", name="folder")
def make_folder(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip")
    theirs.generation_config.update(num_beams=2, max_length=9)
    save_blip(theirs, folder)
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


def change(folder, name="config.json", **changes):
    file = folder / name
    config = json.loads(file.read_text())
    for at, value in changes.items():
        config[at] = {**config[at], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(config))


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_folder_is_read_whole(found):
    assert (found.encoder["width"], found.encoder["mean"], found.encoder["prefix"]) == (24, MEAN, 1)
    decoder = found.fields.decoder
    assert (decoder["width"], decoder["epsilon"], decoder["vocab_size"]) == (32, 1e-12, START + 2)
    assert found.resize == Resize(16, interpolation="bicubic")
    assert (found.fields.adapter, found.fields.label_smoothing) == (None, 0.1)
    assert (found.generation.num_beams, found.generation.max_length) == (2, 9)
    tokenizer = found.tokenizer
    assert (tokenizer.bos_id, tokenizer.eos_id) == (START, END)
    assert tokenizer.banned_ids == ()
    assert tokenizer.vocab_size == len(VOCABULARY) + 2
    shapes = jax.eval_shape(
        lambda: found.module().init_variables(jax.random.key(0), found.resize.shape)
    )
    jax.tree.map(lambda s, v: np.testing.assert_equal(v.shape, s.shape), shapes, found.variables)


def test_logits_are_transformers(theirs, found):
    images = pictures((16, 16), 3)
    tokens = np.random.default_rng(0).integers(0, START + 2, (3, 12))
    apply = jax.jit(
        lambda v, x, t: found.module().apply(v, x, t, train=False).logits, compiler_options=QUICK
    )
    ours = np.asarray(apply(found.variables, images, tokens[:, None]))[:, 0]
    expected = logits(theirs, images, tokens)
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


ENDS = {1: (4.0, 3.0), 3: (3.0, 3.0), 4: (3.0, 3.0)}


@pytest.mark.parametrize(
    ("num_beams", "length_penalty"), sweep([(1, 1.0), (3, 1.0), (4, 2.0), (3, 0.6)], [(3, 1.0)])
)
def test_captions_are_transformers(folder, found, num_beams, length_penalty):
    theirs = transformers.BlipForConditionalGeneration.from_pretrained(folder).eval()
    images = pictures((16, 16), 60, num_beams)
    options = {"num_beams": num_beams, "length_penalty": length_penalty, "max_length": 14}
    options["early_stopping"] = False
    with torch.no_grad():
        raise_end(theirs.text_decoder, *ENDS[num_beams])
    variables = jax.tree.map(np.copy, found.variables)
    decoder, state = variables["params"]["decoder"], theirs.text_decoder.state_dict()
    decoder["tokens"]["embedding"][END] = state["bert.embeddings.word_embeddings.weight"][END]
    decoder["bias"][END] = state["cls.predictions.bias"][END]
    expected, _ = generate(theirs, images, **options)
    decode = make_decode(found.module(), found.tokenizer, BeamSearch(**options), attention=False)

    @jax.jit(compiler_options=QUICK)
    def caption(variables, images):
        memory = found.module().apply(variables, images, method="encode")
        return decode(variables, memory, np.arange(len(images)))

    result = jax.tree.map(np.asarray, caption(variables, images))
    lengths = result["lengths"]
    # Theirs fill a caption of beams by its end, and one of greedy search by pads.
    inside = np.arange(expected.shape[1]) < lengths[:, None]
    tokens = np.where(inside, result["tokens"][:, : expected.shape[1]], 0)
    np.testing.assert_array_equal(tokens, np.where(inside, expected, 0))
    assert 0.3 <= (result["finished"] & (lengths < 13)).mean() < 1
    assert len(np.unique(tokens, axis=0)) >= 10


def test_loss_and_gradient_are_transformers(theirs, found):
    texts = ["a dog", "the man runing on the two dogs", "two"]
    ids = [[np.array([*found.tokenizer.encode(text), END])] for text in texts]
    tokens, lengths = lay_out(ids, 1, 20, found.tokenizer)
    images = pictures((16, 16), 3)
    labels = np.where(np.arange(-1, 20) < lengths, tokens[:, 0], -100)
    labels[:, 0] = -100

    def their_loss():
        rows = {"input_ids": tokens[:, 0], "labels": labels}
        rows = {name: torch.from_numpy(value).long() for name, value in rows.items()}
        return theirs(pixel_values=pixels(images), **rows).loss

    theirs.zero_grad()
    their_loss().backward()
    batch = {"image": images, "tokens": tokens, "lengths": lengths}

    @jax.jit(compiler_options=QUICK)
    @jax.value_and_grad
    def loss(variables):
        _, losses = teacher_forced(found.module(), variables, batch, label_smoothing=0.1)
        sums = losses.sums()
        return sums["loss"] / sums["tokens"]

    value, gradient = loss(found.variables)
    np.testing.assert_allclose(value, their_loss().item(), rtol=1e-5)
    for ours, name in (
        (gradient["params"]["decoder"]["tokens"]["embedding"], "bert.embeddings.word_embeddings"),
        (gradient["params"]["decoder"]["head"]["kernel"].T, "cls.predictions.transform.dense"),
    ):
        expected = theirs.text_decoder.get_parameter(f"{name}.weight").grad.numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_what_goes_out_comes_in_again(theirs, found, tmp_path):
    write_captioner(found, tmp_path / "out")
    again = read_captioner(tmp_path / "out")
    for name in ("family", "encoder", "fields", "resize", "generation"):
        assert getattr(again, name) == getattr(found, name), name
    assert again.tokenizer.fingerprint == found.tokenizer.fingerprint
    equal(again.variables, found.variables)
    kind = transformers.BlipForConditionalGeneration
    model, about = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(about.values()), about
    before, after = theirs.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    # The class token's position goes into it.
    sums = [n for n in before if n.endswith(("class_embedding", "position_embedding"))]
    assert len(sums) == 2
    for name in before.keys() - {*sums}:
        assert torch.equal(before[name], after[name]), name
    rows = [sum(tensors[name][0, 0] for name in sums) for tensors in (before, after)]
    torch.testing.assert_close(*rows, rtol=0, atol=0)
    for config in ("text_config", "vision_config"):
        wanted = getattr(theirs.config, config).to_dict()
        written = getattr(model.config, config).to_dict()
        assert {n: v for n, v in written.items() if v != wanted[n]}.keys() <= {"eos_token_id"}
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out", use_fast=False)
    assert type(processor).__name__ == "BlipProcessor"
    # Written over by transformers.
    save(model, tmp_path / "out")
    equal(read_variables(tmp_path / "out"), found.variables)


def test_the_tokenizer_is_transformers(found, folder, tmp_path):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    (tmp_path / "saved").mkdir()
    theirs.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    write_captioner(found, tmp_path / "out")
    written = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for name in ("config.json", "generation_config.json", "preprocessor_config.json"):
        (tmp_path / "saved" / name).write_bytes((folder / name).read_bytes())
    saved = read_captioner(tmp_path / "saved", weights=False).tokenizer
    for text in TEXTS[:2] + TEXTS[3:]:
        ids = theirs(text)["input_ids"][1:-1]
        assert found.tokenizer.encode(text) == saved.encode(text) == ids
        assert written(text)["input_ids"][1:-1] == ids
        said = theirs.decode([START, *ids, END], skip_special_tokens=True)
        assert found.tokenizer.decode([*ids, END]) == saved.decode([START + 1, 2, *ids]) == said
    # Words that spell special tokens are words.
    assert not {START, END} & {*found.tokenizer.encode(TEXTS[2])}


def test_case_is_kept_where_the_files_say_so(copied):
    write_wordpiece(copied, do_lower_case=False)
    theirs = transformers.AutoTokenizer.from_pretrained(copied)
    tokenizer = read_captioner(copied, weights=False).tokenizer
    ids = tokenizer.encode("a Dog")
    assert ids == theirs("a Dog")["input_ids"][1:-1]
    assert tokenizer.unk_id in ids


def test_pixels_are_those_of_the_processor(folder, found):
    processor = transformers.BlipImageProcessorPil.from_pretrained(folder)
    for size in ((23, 61), (62, 21), (16, 16)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        grey = (theirs * np.float32(STD) + np.float32(MEAN)) * 255
        assert np.abs(grey - load_pixels(image, found.resize)).max() <= 1.01


def test_every_format_holds_the_same(copied, theirs, found):
    file = copied / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    file.unlink()
    # As published: what is tied twice, and buffers.
    head = "text_decoder.cls.predictions"
    words = "text_decoder.bert.embeddings.word_embeddings.weight"
    older = {
        f"{head}.decoder.weight": tensors[words],
        f"{head}.decoder.bias": tensors[f"{head}.bias"],
        "text_decoder.bert.embeddings.position_ids": np.arange(24)[None],
    }
    write_torch(copied / "pytorch_model.bin", {**tensors, **older})
    equal(read_variables(copied), found.variables)
    write_torch(copied / "pytorch_model.bin", {**tensors, **older, words: tensors[words] + 1})
    with pytest.raises(WeightsError, match=r"decoder\.weight is not .*word_embeddings\.weight, an"):
        read_variables(copied)
    (copied / "pytorch_model.bin").unlink()
    save(theirs, copied, max_shard_size="20kB")
    assert not file.exists()
    equal(read_variables(copied), found.variables)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["BlipForQuestionAnswering"]},
            "is a BLIP for another task, BlipForQuestionAnswering, and captions are made by Blip",
        ),
        ({"text_config": {"is_decoder": False}}, "is_decoder=False is not supported; it must be T"),
        ({"text_config": {"hidden_act": "mish"}}, "hidden_act='mish' is not supported; it must be"),
        ({"text_config": {"hidden_size": 10**9}}, "hidden_size=1000000000 is not supported"),
        ({"text_config": {"label_smoothing": 2}}, "label_smoothing=2 is not supported"),
        ({"text_config": {"bos_token_id": 2}}, "bos_token_id=2 is not supported; it must be 56, "),
        ({"text_config": {"sep_token_id": 2}}, "sep_token_id=2 is not supported; it must be 3, th"),
        ({"vision_config": {"patch_size": 0}}, "patch_size is 0, and must be 1 to"),
    ],
)
def test_what_it_can_not_be_is_refused(copied, changes, message):
    change(copied, **changes)
    with pytest.raises(WeightsError) as caught:
        read_captioner(copied, weights=False)
    assert f"{copied}/config.json: {message}" in str(caught.value)


@pytest.mark.parametrize("rows", [len(VOCABULARY) - 1, len(VOCABULARY) + 2000])
def test_rows_that_do_not_fit_the_tokenizer_are_refused(copied, rows):
    change(copied, text_config={"vocab_size": rows})
    with pytest.raises(WeightsError, match=f"has {len(VOCABULARY)} tokens and its model vocab_siz"):
        read_captioner(copied, weights=False)


def test_wrong_tensors_are_named_as_in_the_file(copied):
    file = copied / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    name = "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"
    for changes, message in (
        ({name: np.zeros((32, 23), "f")}, rf"{name} is \[32, 23\] and should be \[32, 24\]"),
        ({name: np.full((32, 24), np.nan, "f")}, f"numbers of {name} are not finite"),
        ({"itm_head.weight": np.zeros(2, "f")}, r"unexpected itm_head.weight \[2\]"),
    ):
        safetensors.numpy.save_file({**tensors, **changes}, file)
        with pytest.raises(WeightsError, match=message):
            read_captioner(copied)


def test_it_captions_by_its_own_settings(folder, theirs, found):
    run = capjax.load(folder)
    images = pictures((16, 16), 4)
    captions = run.caption(list(images), attention=True)
    expected, _ = generate(theirs, images, num_beams=2, max_length=9)
    assert [caption.text for caption in captions] == [run.tokenizer.decode(t) for t in expected]
    # Two layers of four heads; the class token and 4x4 patches.
    assert captions[0].attention.shape[1:] == (8, 17)
    np.testing.assert_allclose(captions[0].attention.sum(-1), 1, atol=1e-5)


def test_what_transformers_has_not_is_refused_on_the_way_out(found, tmp_path):
    fields = dataclasses.replace(
        found.fields, decoder={**found.fields.decoder, "activation": "tanh"}
    )
    for change, message in (
        ({"fields": fields}, r"config\.decoder\.activation='tanh' is none that transformers"),
        ({"encoder": {**found.encoder, "prefix": 0}}, r"config\.encoder\.prefix=0: "),
    ):
        with pytest.raises(ExportError, match=message):
            write_captioner(dataclasses.replace(found, **change), tmp_path / "out")
