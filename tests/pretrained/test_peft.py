"""Low-rank adapters in PEFT's folders: what PEFT computes with them, and back."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

import capjax
from capjax.models.captioner import join_frozen, split_frozen
from capjax.models.lora import is_adapter, merge
from capjax.models.lora_fields import Lora
from capjax.pretrained.captioners.peft_adapters import read_adapters, write_adapters
from capjax.pretrained.captioners.read import read_captioner
from capjax.pretrained.errors import ExportError, WeightsError
from tests.helpers.references import need_peft, need_torch, need_transformers

torch = need_torch()
need_transformers()
peft = need_peft()
from tests.helpers.peft_kinds import KINDS, QUIET  # noqa: E402
from tests.helpers.transformers_captioners import QUICK  # noqa: E402
from tests.helpers.transformers_vits import assert_close, pictures  # noqa: E402

pytestmark = QUIET
PARTS = ("encoder", "adapter", "decoder")
EVERY = ("query", "key", "value", "out", "up", "down")
# Modules with a rank of their own.
OWN = {"blip": "qkv", "git": "query", "vit_gpt2": "attn.c_attn"}


@pytest.fixture(scope="module", params=KINDS, name="name")
def make_name(request):
    return request.param


@pytest.fixture(scope="module", name="kind")
def make_kind(name):
    return KINDS[name][0]


@pytest.fixture(scope="module", name="folder")
def make_folder(name, kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner")
    _, save, write_tokenizer = KINDS[name]
    save(kind.make(), folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module", name="found")
def make_found(folder):
    return read_captioner(folder)


def with_adapters(found, lora, seed=0):
    """The module with random adapters, whose B is not zero, and all of its variables."""
    model = found.module().clone(lora=lora)
    like = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), found.resize.shape))
    rng = np.random.default_rng(seed)
    adapters = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype("f"), split_frozen(like, PARTS)[0]
    )
    return model, adapters, join_frozen(adapters, found.variables)


def logits(model, variables, images, tokens):
    apply = jax.jit(
        lambda v, x, t: model.apply(v, x, t, train=False).logits, compiler_options=QUICK
    )
    return np.asarray(apply(variables, images, tokens[:, None]))[:, 0]


def inputs():
    return pictures((16, 16), 2), np.random.default_rng(0).integers(4, 20, (2, 7))


@pytest.mark.parametrize("projections", [EVERY, ("value", "decoder/query")])
def test_peft_computes_the_same_with_what_is_written(kind, found, tmp_path, projections):
    lora = Lora(3, 7.5, 0.1, projections)
    model, adapters, variables = with_adapters(found, lora)
    whole = dataclasses.replace(found, variables=variables)
    assert write_adapters(tmp_path / "out", whole, lora, "theirs") == sorted(
        file.name for file in (tmp_path / "out").iterdir()
    )
    theirs = peft.PeftModel.from_pretrained(kind.make(), tmp_path / "out").eval()
    expected = kind.logits(theirs, *inputs())
    ours = logits(model, variables, *inputs())
    assert_close(ours, expected, relative=1e-4)
    plain = kind.logits(kind.make(), *inputs())
    assert np.abs(expected - plain).max() > 0.1 * np.abs(plain).max()
    # Merged it is the same, without adapters.
    merged = merge(variables, lora.scale)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), merged, found.variables)
    assert_close(logits(found.module(), merged, *inputs()), ours, relative=1e-4)
    # It comes in as it went out.
    again, scale = read_adapters(tmp_path / "out", found)
    assert scale == lora.scale
    jax.tree.map(np.testing.assert_array_equal, again, adapters)


def test_what_peft_writes_is_read(name, kind, folder, found, tmp_path):
    """Every dense layer that PEFT finds, with ranks and factors of some of their own."""
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules="all-linear",
        # It is the embedding, which PEFT does not see.
        exclude_modules=r".*cls\.predictions\.decoder" if name == "blip" else None,
        rank_pattern={OWN[name]: 2},
        alpha_pattern={OWN[name]: 3},
    )
    theirs = peft.get_peft_model(kind.make(), config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for at, parameter in theirs.named_parameters():
            if "lora_" in at:
                parameter.normal_(0, 0.2, generator=generator)
    theirs.save_pretrained(tmp_path)
    run = capjax.load(folder, adapter=tmp_path)
    ours = logits(run.model, run.variables, *inputs())
    assert_close(ours, kind.logits(theirs, *inputs()), relative=1e-4)
    assert not any(map(is_adapter, traverse_util.flatten_dict(run.variables, sep="/")))
    # Written again, it is the same file but for what captions do not need.
    adapters, scale = read_adapters(tmp_path, found)
    whole = dataclasses.replace(found, variables=join_frozen(adapters, found.variables))
    write_adapters(tmp_path / "again", whole, Lora(4, 4 * scale, 0.0, ()), None)
    before, after = (
        safetensors.numpy.load_file(place / "adapter_model.safetensors")
        for place in (tmp_path, tmp_path / "again")
    )
    assert all("pooler" in name for name in before.keys() - after.keys())
    for at, array in after.items():
        np.testing.assert_array_equal(array, before[at])


@pytest.fixture(scope="module", name="written")
def make_written(found, tmp_path_factory):
    """The folder of adapters of some projections."""
    lora = Lora(2, 4.0, 0.0, ("decoder/query",))
    _, _, variables = with_adapters(found, lora)
    whole = dataclasses.replace(found, variables=variables)
    folder = tmp_path_factory.mktemp("adapters") / "out"
    write_adapters(folder, whole, lora, None)
    return folder


def changed(written, folder, tensors=lambda found: found, **fields):
    """A copy of the folder with other fields and tensors."""
    folder.mkdir()
    config = json.loads((written / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    found = safetensors.numpy.load_file(written / "adapter_model.safetensors")
    safetensors.numpy.save_file(tensors(found), folder / "adapter_model.safetensors")
    return folder


REFUSED = {
    "use_dora": (True, "use_dora=True is not supported"),
    "modules_to_save": (["lm_head"], r"modules_to_save=\['lm_head'\] is not supported"),
    "lora_bias": (True, "lora_bias=True is not supported"),
    "bias": ("all", "bias='all' is not supported"),
    "init_lora_weights": ("pissa", "init_lora_weights='pissa' is not supported"),
    "peft_type": ("IA3", "peft_type is 'IA3'"),
    "r": (0, "r=0 must be a whole number"),
    "lora_alpha": ("16", "lora_alpha='16' must be a finite number"),
    "alpha_pattern": ({".*": 3}, r"alpha_pattern has '\.\*', and must have names"),
    "rank_pattern": ([1], r"rank_pattern=\[1\] must be an object of numbers"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_more_than_two_matrices_is_refused(name, found, written, tmp_path, field):
    if name != "blip":
        pytest.skip("one family is enough")
    value, message = REFUSED[field]
    with pytest.raises(WeightsError, match=message):
        read_adapters(changed(written, tmp_path / "copy", **{field: value}), found)


def test_wrong_tensors_are_named(name, found, written, tmp_path):
    def renamed(old, new):
        return lambda tensors: {at.replace(old, new): a for at, a in tensors.items()}

    cases = {
        "which is no dense layer of a": renamed("base_model.model.", "base_model.model.x."),
        "adapters of dense layers alone": renamed("lora_A", "lora_embedding_A"),
        "outputs, and the model's layer": lambda tensors: {
            at: a[:-1] if "lora_B" in at else a for at, a in tensors.items()
        },
        "lacks one of lora_A and lora_B": lambda tensors: dict([*tensors.items()][1:]),
        "has no adapters": lambda tensors: {},
        "are not finite": lambda tensors: {
            at: np.full_like(a, np.inf) for at, a in tensors.items()
        },
    }
    for number, (message, tensors) in enumerate(cases.items()):
        with pytest.raises(WeightsError, match=message):
            read_adapters(changed(written, tmp_path / str(number), tensors), found)
    with pytest.raises(WeightsError, match=r"it has no adapter_config\.json"):
        read_adapters(tmp_path, found)


def test_the_factor_may_be_by_the_root_of_the_rank(found, written, tmp_path):
    _, scale = read_adapters(changed(written, tmp_path / "copy", use_rslora=True), found)
    assert scale == 4 / 2**0.5


def test_what_transformers_lacks_is_not_written(name, found, tmp_path):
    if name != "blip":
        pytest.skip("one family is enough")
    lora = Lora(2, 4.0, 0.0, ("patch_embedding",))
    whole = dataclasses.replace(found, variables=with_adapters(found, lora)[2])
    with pytest.raises(ExportError, match=r"no dense layer .* encoder/patch_embedding"):
        write_adapters(tmp_path / "out", whole, lora, None)
