"""Captioners of transformers come in, go out and come in again bit for bit."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from capjax.data.images import load_pixels
from capjax.data.resize import Resize
from capjax.pretrained import tables
from capjax.pretrained.captioners.export_captioner import write_captioner
from capjax.pretrained.captioners.read import read_captioner
from capjax.pretrained.errors import ExportError
from capjax.pretrained.preprocessing_file import read_preprocessing, write_preprocessing
from capjax.pretrained.vit import huggingface, layouts
from tests.helpers.references import need_torch, need_transformers
from tests.helpers.small_bpe import write_bpe

torch = need_torch()
transformers = need_transformers()
from tests.helpers.transformers_captioners import QUICK, logits, make, save_captioner  # noqa: E402
from tests.helpers.transformers_vits import BASE, DINO, pictures, save  # noqa: E402

SETTINGS = {"num_beams": 3, "length_penalty": 0.6, "early_stopping": "never", "max_length": 11}


@pytest.fixture(scope="module", params=[True, False], ids=["projection", "none"], name="both")
def make_both(request, tmp_path_factory):
    """transformers' model, what was read of it, and the folder that this was written to."""
    folder = tmp_path_factory.mktemp("captioner")
    model = make(projection=request.param, n_inner=50, activation_function="relu")
    model.generation_config.update(**SETTINGS)
    save_captioner(model, folder)
    write_bpe(folder)
    found = read_captioner(folder)
    write_captioner(found, folder / "out")
    return model, found, folder / "out"


def test_what_goes_out_comes_in_again(both):
    _, found, folder = both
    again = read_captioner(folder)
    for name in ("encoder", "fields", "resize", "generation"):
        assert getattr(again, name) == getattr(found, name), name
    assert again.tokenizer.fingerprint == found.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, again.variables, found.variables)
    # Also by the files of the tokenizer that GPT-2 was published with.
    (folder / "tokenizer.json").unlink()
    assert read_captioner(folder).tokenizer.fingerprint == found.tokenizer.fingerprint
    found.tokenizer.save(folder / "tokenizer.json")


def test_transformers_has_its_own_model_again(both):
    first, found, folder = both
    kind = transformers.VisionEncoderDecoderModel
    model, about = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(about.values()), about
    before, after = first.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    # The class token's position goes into it, and the pooler, which is not used, stays behind.
    sums = [n for n in before if n.endswith(("cls_token", "position_embeddings"))]
    changed = {*sums, *(name for name in before if ".pooler." in name)}
    assert len(changed) == 4
    for name in before.keys() - changed:
        assert torch.equal(before[name], after[name]), name
    rows = [sum(tensors[name][0, 0] for name in sums) for tensors in (before, after)]
    torch.testing.assert_close(*rows, rtol=0, atol=0)
    for name, value in SETTINGS.items():
        assert getattr(model.generation_config, name) == value
    images, tokens = pictures((16, 16)), np.arange(14).reshape(2, 7)

    @jax.jit(compiler_options=QUICK)
    def ours(variables, images, tokens):
        return found.module().apply(variables, images, tokens, train=False).logits

    expected = logits(model.eval(), images, tokens)
    difference = np.asarray(ours(found.variables, images, tokens[:, None]))[:, 0] - expected
    assert np.abs(difference).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["AutoTokenizer", "GPT2TokenizerFast"])
def test_the_tokenizer_is_loaded(both, kind):
    _, found, folder = both
    theirs = getattr(transformers, kind).from_pretrained(folder)
    assert theirs.pad_token_id == theirs.bos_token_id == theirs.eos_token_id == 0
    for text in (" a dog", "A  DOG 🐕", "no <|endoftext|> yet", "won't stop ."):
        ids = found.tokenizer.encode(text)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode([0, *ids, 0], skip_special_tokens=True) == text


KINDS = {
    "vit": ("ViTConfig", {**BASE, "hidden_act": "gelu_new"}),
    "deit": ("DeiTConfig", BASE),
    "clip_vision_model": ("CLIPVisionConfig", BASE),
    "siglip_vision_model": ("SiglipVisionConfig", BASE),
    "dinov2": ("Dinov2Config", DINO),
    "dinov2 gated": ("Dinov2Config", {**DINO, "use_swiglu_ffn": True}),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", DINO),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_vision_model_comes_from_transformers_as_it_went_there(both, tmp_path, name):
    _, found, _ = both
    config, given = KINDS[name]
    about = getattr(transformers, config)(**given).to_dict()
    fields, layout = huggingface.read_config(about, "config.json")
    rng = np.random.default_rng(0)
    shapes = tables.shapes(layouts.table(layout), layouts.shapes_of(fields))
    tensors = {part: rng.normal(size=shape).astype("f") for part, shape in shapes.items()}
    encoder = layouts.to_variables(tensors, layout, fields, "model")["params"]
    fields |= {part: found.encoder[part] for part in ("mean", "std")}
    variables = {"params": {**found.variables["params"], "encoder": encoder}}
    captioner = dataclasses.replace(found, encoder=fields, variables=variables)
    write_captioner(captioner, tmp_path / "out")
    section = json.loads((tmp_path / "out" / "config.json").read_text())["encoder"]
    assert section["model_type"] == name.split()[0]
    kind = transformers.VisionEncoderDecoderModel
    model, about = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(about.values()), about
    # Written over by transformers.
    save(model, tmp_path / "out")
    again = read_captioner(tmp_path / "out")
    assert (again.encoder, again.fields) == (fields, found.fields)
    jax.tree.map(np.testing.assert_array_equal, again.variables, variables)


@pytest.mark.parametrize("resize_to", [0, 40])
@pytest.mark.parametrize("keep_aspect", [False, True])
def test_pixels_are_those_of_the_processor(tmp_path, keep_aspect, resize_to):
    resize = Resize(17, resize_to, keep_aspect, "bicubic" if resize_to else "bilinear")
    pixels = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    about = write_preprocessing(resize, *pixels)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    found = read_preprocessing(tmp_path)
    assert (found.mean, found.std) == pixels
    assert found.as_resize().place(50, 37) == resize.place(50, 37)
    # The one by Pillow: with torchvision, enlarged noise differs by up to 7 grey levels.
    kind = getattr(transformers, f"{about['image_processor_type']}Pil")
    processor = kind.from_pretrained(tmp_path)
    for size in ((23, 61), (62, 21), (17, 17)):
        picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        theirs = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        grey = (theirs * np.float32(pixels[1]) + np.float32(pixels[0])) * 255
        assert np.abs(grey - load_pixels(picture, resize)).max() <= 1.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final_norm": False}, "config.encoder.final_norm=False: .* nearest, vit, has final_norm"),
        ({"activation": "silu"}, "config.encoder.activation='silu': .*, vit, has activation='gelu"),
        ({"prefix": 3}, r"config.encoder.prefix=3: .* the nearest, vit, has prefix=1"),
        (
            {"layer_scale": True, "mlp_dim": 41, "prefix": 5},
            r"config.encoder.mlp_dim=41: .* nearest, dinov2_with_registers, has mlp_dim=24",
        ),
    ],
)
def test_an_encoder_that_they_do_not_have_is_refused(change, message):
    fields, _ = huggingface.read_config({"model_type": "vit", **BASE}, "config.json")
    with pytest.raises(ExportError, match=message):
        huggingface.write_config({**fields, **change}, 16)


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [
        ("antialias", False, "True"),
        ("round_crop", True, "False"),
        ("interpolation", "hamming", "'bilinear', 'bicubic'"),
    ],
)
def test_pixels_that_they_can_not_make_are_refused(field, value, instead):
    resize = dataclasses.replace(Resize(16, 20), **{field: value})
    with pytest.raises(ExportError) as caught:
        write_preprocessing(resize, (0.5,) * 3, (0.5,) * 3)
    assert str(caught.value) == (
        f"config.dataset.{field}={value!r} is in no image processor of transformers; it must be "
        f"{instead}"
    )


def test_a_folder_is_written_whole_or_not_at_all(both, tmp_path, monkeypatch):
    _, found, _ = both
    place = tmp_path / "new" / "out"
    decoder = {**found.fields.decoder, "activation": "tanh"}
    wrong = dataclasses.replace(found, fields=dataclasses.replace(found.fields, decoder=decoder))
    with pytest.raises(ExportError, match=r"config\.decoder\.activation='tanh' is none that"):
        write_captioner(wrong, place)

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save", fail)
    with pytest.raises(OSError, match="No space left"):
        write_captioner(found, place)
    assert not [*(tmp_path / "new").iterdir()]
    monkeypatch.undo()
    place.mkdir()
    names = write_captioner(found, place)
    assert sorted(file.name for file in place.iterdir()) == names
    assert place.stat().st_mode & 0o777 == 0o755
    assert [*place.parent.iterdir()] == [place]
    for taken in (place, place / "config.json"):
        with pytest.raises(ExportError, match=f"{taken} is there already; give a folder that is"):
            write_captioner(found, taken)
