"""What a training step gives on the devices that there are.

test_step.py calls it, and has it run in a process of its own with simulated devices: a JSON line of
losses, the gradient and, of the padded layout, captions for each of its arguments.
"""

import json
import sys

import jax
import numpy as np
import optax

from capjax.data.batches import pack
from capjax.data.tokenizer import train_word_tokenizer
from capjax.evaluate.captioning import BeamSearch, CaptionBatches
from capjax.models.captioner import Captioner, split_frozen
from capjax.models.decoders.bahdanau import BahdanauDecoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.encoders.conv import ConvEncoder
from capjax.models.stacks import stacked, unstacked
from capjax.parallel import devices
from capjax.train.objectives.cross_entropy import CrossEntropy
from capjax.train.objectives.self_critical import SelfCritical
from capjax.train.state import init_state
from capjax.train.step import make_loss_step, make_train_step

B, C, T, V = 16, 3, 6, 23


def flat(tree):
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]).tolist()


def captions(model, variables, images):
    """[text, score] of all images but three, so that devices have uneven shares."""
    tokenizer = train_word_tokenizer(["a b c d e f g h i j k l m n o p q r s"])
    assert (tokenizer.vocab_size, tokenizer.banned_ids) == (V, model.decoder.banned)
    search, method = CaptionBatches(model, tokenizer), BeamSearch(3, 1.0, False, T + 1)
    index = np.where(np.arange(B) < B - 3, np.arange(B), -1).astype(np.int32)
    found = dict(search(variables, [{"image": images, "index": index}], method))
    assert sorted(found) == list(range(B - 3))
    return [[found[index].text, found[index].score] for index in sorted(found)]


def measure(accumulate, layout):
    """Of a layout: "padded", "packed", "packed_frozen", or an objective.

    Objectives are "hard", "self_critical" and, with stacked blocks, "self_critical_stacked".
    """
    names = ("packed", "frozen", "hard", "self_critical")
    packed, freeze, hard, critical = (name in layout for name in names)
    rng = np.random.default_rng(0)
    decoder = TransformerDecoder(V, T, 16, 1 + critical, 2, banned=(0, 1, 3))
    if hard:
        # With the mean of all places nothing is drawn, and devices may be compared.
        decoder = BahdanauDecoder(
            V, 16, 12, attention="hard", attention_dim=8, expected_rate=1.0, banned=(0, 1, 3)
        )
    model = Captioner(ConvEncoder((8,), 1, groups=4), decoder)
    batch = {
        "image": rng.integers(0, 256, (B, 8, 8, 3), np.uint8),
        "tokens": rng.integers(0, V, (B, C, T + 1)).astype(np.int32),
        # Very uneven: the mean of per-device means is another number.
        "lengths": (rng.integers(0, 2, (B, C)) * rng.integers(0, T + 1, (B, C))).astype(np.int32),
    }
    batch["lengths"][:4] = 0
    if packed:
        batch["packing"] = pack(batch["lengths"], T, C * T)
    variables = model.init_variables(jax.random.key(0), (8, 8, 3))
    params, frozen = split_frozen(variables, ("encoder",) if freeze else ())
    optimizer = optax.sgd(1.0)
    objective = CrossEntropy(label_smoothing=0.1, attention_penalty=0.5, entropy_weight=0.3)
    constants = None
    if critical:
        objective = SelfCritical(max_length=T, kl_weight=0.1, bos_id=1, eos_id=2, pad_id=0)
        more, constants = _prepare(objective, params, rng)
        batch |= more
        batch["lengths"] = np.maximum(batch["lengths"], 1)
    state = init_state(params, optimizer, ema=True, frozen=frozen, baseline=hard)
    state = state.replace(constants=constants)
    if "stacked" in layout:
        state = stacked(state, {"decoder": ["blocks_0to1"]})
    state = devices.replicate(state)
    step = devices.map_devices(
        make_train_step(
            model,
            optimizer,
            seed=0,
            objective=objective,
            accumulate=accumulate,
            ema_decay=0.5,
        )
    )
    after, metrics = step(state, devices.shard(batch))
    loss = devices.map_devices(make_loss_step(model))(state.eval_variables, devices.shard(batch))
    gradient = jax.tree.map(
        lambda a, b: np.asarray(a) - b,
        devices.unreplicate(state.params),
        devices.unreplicate(after.params),
    )
    jax.tree.map(np.testing.assert_array_equal, devices.unreplicate(after.frozen), frozen)
    assert not metrics.pop("nonfinite").any()
    _check_that_all_agree(state, step, batch)
    values = {name: float(value[0]) for name, value in metrics.items()}
    if hard:
        values["next_baseline"] = float(after.baseline[0])
    values["devices"] = jax.device_count()
    values["eval_nll"] = float(loss["nll"][0])
    values["gradient"] = {part: flat(tree) for part, tree in unstacked(gradient).items()}
    average = unstacked(devices.unreplicate(after.ema))
    values["ema"] = {part: flat(tree) for part, tree in average.items()}
    if layout == "padded":
        values["captions_said"] = captions(model, state.eval_variables, batch["image"])
    return values


def _prepare(objective, params, rng):
    """What a batch has more with references, and the constants."""
    references = [[np.append(rng.integers(4, V, T), 2).astype(np.int32)] for _ in range(B)]
    more = {
        "references": np.array(references),
        "reference_lengths": np.full((B, 1), T + 1, np.int32),
        "keys": rng.integers(2**32, size=(B, 2), dtype=np.uint32),
    }
    began = jax.tree.map(lambda leaf: 0.5 * leaf, params)
    return more, objective.prepare(references, began, eos_id=2, vocab_size=V)


def _check_that_all_agree(state, step, batch):
    """What is no number on the last device alone stops the update on all."""
    params = jax.tree.map(np.array, state.params)
    params["decoder"]["bias"][-1, 5] = np.nan
    shared = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), params)
    after, metrics = step(state.replace(params=devices.shard(shared)), devices.shard(batch))
    flags = np.asarray(metrics["nonfinite"])
    assert flags.all(axis=0).any()
    assert (flags == flags[0]).all()
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, after.params), params)
    assert (np.asarray(after.step) == 1).all()


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        layout, accumulate = argument.split(":")
        print(json.dumps(measure(int(accumulate), layout)))
