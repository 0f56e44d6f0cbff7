"""Deliberate breakages: what each makes wrong, and the tests that ought to notice.

Chosen at commit c32e60f. `old` is looked for in all of capjax/ and experiments/ and must be there
exactly once, wherever it lies by now.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Breakage:
    """One mistake.

    Attributes:
      name: what is wrong.
      old: text of the code.
      new: what stands in its place.
      tests: arguments of pytest.
    """

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


def _breakage(name: str, old: str, new: str, *tests: str) -> Breakage:
    return Breakage(name, old, new, tests)


_TRAINED = ("tests/compatibility/test_runs.py", "-k", "goes_on or scored")
_CAPTIONS = "tests/compatibility/test_runs.py"

BREAKAGES = (
    # Data.
    _breakage(
        "the order of the data is not by the seed",
        "generator(self._seed, _EPOCH, epoch)",
        "generator(0, _EPOCH, epoch)",
        "tests/data/test_batches.py",
    ),
    _breakage(
        "training reads batches from the first step after a stop",
        "train_batches(first))",
        "train_batches(0))",
        *_TRAINED,
    ),
    _breakage(
        "a tokenizer bans its end token",
        "sorted((self.pad_id, self.bos_id, self.unk_id))",
        "sorted((self.pad_id, self.bos_id, self.unk_id, self.eos_id))",
        "tests/data/test_tokenizer.py",
    ),
    _breakage(
        "unknown words may be said",
        "sorted((self.pad_id, self.bos_id, self.unk_id))",
        "sorted((self.pad_id, self.bos_id))",
        "tests/data/test_tokenizer.py",
    ),
    _breakage(
        "special tokens lie in another order",
        "enumerate((*SPECIAL_TOKENS, *ranked[: max_words or None]))",
        "enumerate((*SPECIAL_TOKENS[::-1], *ranked[: max_words or None]))",
        "tests/data/test_tokenizer.py",
        _CAPTIONS,
        "-k",
        "tokenizer or goes_on",
    ),
    _breakage(
        "pictures are not turned upright",
        "return image if turn is None else image.transpose(turn)",
        "return image",
        "tests/data/test_images.py",
    ),
    _breakage(
        "lengths of captions lack the end token",
        "lengths[row, column] = len(ids)",
        "lengths[row, column] = len(ids) - 1",
        "tests/data/test_batches.py",
    ),
    _breakage(
        "the fingerprint of the data is not compared",
        "if name in saved and saved[name] not in found[name]]",
        "if False]",
        "tests/run/test_workdir.py",
        "tests/run/test_pretrained_runs.py",
        "-k",
        "data",
    ),
    _breakage(
        "a cache of features does not know the encoder's weights",
        '"weights": weights,\n        "view"',
        '"weights": "",\n        "view"',
        *_TRAINED,
    ),
    _breakage(
        "features are not checked when they are read",
        "if zlib.crc32(batch[row]) != self._checksums[image]:",
        "if False:",
        "tests/data/test_feature_cache.py",
    ),
    _breakage(
        "a download has no limit",
        "if len(content) > MAX_BYTES:",
        "if False:",
        "tests/data/test_download.py",
    ),
    _breakage(
        "a file is written in place",
        "        os.replace(temporary, path)",
        '        path.write_bytes(b"".join(content))',
        "tests/run/test_damaged_runs.py",
        "tests/data/test_tokenizer.py",
        "tests/data/test_captions.py",
    ),
    # Training.
    _breakage(
        "the loss is a mean of devices' means",
        "counts = jax.tree.map(lambda count: jnp.maximum(count, 1.0), found)",
        "counts = jax.tree.map(lambda count: jnp.maximum(count * jax.device_count(), 1.0), "
        "batch_counts(model, batch))",
        "tests/train/test_step.py",
    ),
    _breakage(
        "label smoothing gives mass to what is never said",
        "allowed[list(banned)] = 0.0",
        "pass",
        "tests/train/test_loss.py",
    ),
    _breakage(
        "targets that are never said have weight",
        "real &= targets != token",
        "real &= targets != -1",
        "tests/train/test_loss.py",
    ),
    _breakage(
        "gradients are not clipped by their norm",
        "steps += [optax.clip_by_global_norm(clip_norm)] if clip_norm else []",
        "steps += [optax.clip(clip_norm)] if clip_norm else []",
        "tests/train",
        "-k",
        "clip or norm",
    ),
    _breakage(
        "the warm-up is a step longer",
        "optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, total_steps)",
        "optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps + 1, total_steps)",
        *_TRAINED,
    ),
    _breakage(
        "biases and norms decay",
        "lambda path, leaf: rank(path, leaf) > 1, params",
        "lambda path, leaf: rank(path, leaf) > 0, params",
        "tests/train",
        "-k",
        "decay or adamw or optimizer or goes_on",
    ),
    _breakage(
        "biases of stacked blocks decay, which have two axes",
        "return leaf.ndim - any(",
        "return leaf.ndim - 0 * any(",
        "tests/models/test_stacks.py",
    ),
    _breakage(
        "stacked blocks all drop the same numbers",
        'split_rngs={"params": True, "dropout": True}',
        'split_rngs={"params": True, "dropout": False}',
        "tests/models/test_stacks.py",
    ),
    _breakage(
        "the average of the parameters decays slowly from the start",
        "decay = jnp.minimum(decay, (1 + step) / (10 + step))\n    return jax.tree.map",
        "return jax.tree.map",
        "tests/train",
        _CAPTIONS,
        "-k",
        "ema or average or goes_on",
    ),
    _breakage(
        "captions are of the parameters where there is an average",
        'item = "ema" if average else "params"',
        'item = "params"',
        _CAPTIONS,
        "-k",
        "loads and mobilenet_frozen",
    ),
    _breakage(
        "the worst checkpoint is the best",
        "evaluated.sort(key=rank, reverse=True)",
        "evaluated.sort(key=rank)",
        "tests/train/test_checkpoint.py",
    ),
    _breakage(
        "a checkpoint that has changed is taken",
        "if name in sums and _checksum(saved[name]) != sums[name]:",
        "if False:",
        "tests/train/test_checkpoint.py",
    ),
    _breakage(
        "a run with another config goes on",
        "if old.get(name) != new.get(name) and not _is_free(name, free)",
        "if False",
        "tests/run/test_workdir.py",
    ),
    _breakage(
        "dropout is the same in each step",
        "jax.random.fold_in(jax.random.key(seed), state.step)",
        "jax.random.fold_in(jax.random.key(seed), 0)",
        "tests/train/test_step.py",
        _CAPTIONS,
        "-k",
        "step or goes_on",
    ),
    # Models.
    _breakage(
        "captions that are packed see each other",
        "mask = mask & (caption[:, None, :, None] == caption[:, None, None, :])",
        "mask = mask[None, None]",
        "tests/models/test_decoder_laws.py",
    ),
    _breakage(
        "a caption sees its future",
        "            mask = jnp.tril(jnp.ones((length, length), bool))",
        "            mask = jnp.ones((length, length), bool)",
        "tests/models/test_decoder_laws.py",
    ),
    _breakage(
        "the cache is seen one place too far",
        "seen = jnp.arange(cache[0].shape[3]) <= position\n        # Images",
        "seen = jnp.arange(cache[0].shape[3]) <= position + 1\n        # Images",
        "tests/models/test_decoder_laws.py",
    ),
    _breakage(
        "a GRU's update gate is the other way round",
        "(1 - update) * new + update * state",
        "update * new + (1 - update) * state",
        _CAPTIONS,
        "-k",
        "loads and gru",
    ),
    _breakage(
        "an LSTM's gates lie in another order",
        "i, f, g, o = jnp.split(gates, 4, axis=-1)",
        "i, g, f, o = jnp.split(gates, 4, axis=-1)",
        _CAPTIONS,
        "-k",
        "loads and lstm_hard",
    ),
    _breakage(
        "hard attention draws when it captions",
        "context = at(jnp.argmax(log_weights, axis=-1))",
        "context = mean()",
        _CAPTIONS,
        "-k",
        "loads and lstm_hard",
    ),
    _breakage(
        "a frozen encoder trains",
        'stages = config.encoder.get("trainable", ())',
        'stages = ("all",)',
        "tests/config/test_encoder_configs.py",
        _CAPTIONS,
        "-k",
        "loads and mobilenet_frozen or trainable",
    ),
    # Decoding.
    _breakage(
        "the length penalty counts a token less",
        "lengths = np.arange(1, steps + 1, dtype=np.float64)",
        "lengths = np.maximum(np.arange(steps, dtype=np.float64), 1)",
        "tests/decode/test_beam.py",
    ),
    _breakage(
        "beams keep their place when they are sorted anew",
        "per_beam = jax.tree.map(lambda leaf: take(leaf, live.beams), carry.per_beam)",
        "per_beam = carry.per_beam",
        "tests/decode/test_beam.py",
    ),
    _breakage(
        "what was cut counts as finished",
        "finished=(ends.lengths > 0) & (ends.tokens == eos_id),",
        "finished=ends.lengths > 0,",
        "tests/decode/test_beam.py",
    ),
    _breakage(
        "attention is not the best beam's own",
        "take(maps, beam[:, None])[:, 0])",
        "take(maps, 0 * beam[:, None])[:, 0])",
        "tests/decode/test_beam.py",
    ),
    # Scores and figures.
    _breakage(
        "a class token is drawn",
        "inside = caption.attention[:, :, caption.prefix :]",
        "inside = caption.attention[:, :, : caption.attention.shape[2] - caption.prefix]",
        "tests/evaluate/test_attention_maps.py",
    ),
    _breakage(
        "BLEU's reference is the shortest",
        'eff="closest"',
        'eff="shortest"',
        "tests/metrics/test_coco.py",
        "tests/experiments/test_resampling.py",
    ),
    _breakage(
        "CIDEr-D of one image has an idf of its own",
        "_, cider = Cider().compute_score(gts, res)",
        "cider = np.array([Cider().compute_score({k: gts[k]}, {k: res[k]})[0] for k in gts])",
        "tests/metrics/test_coco.py",
    ),
    _breakage(
        "negations are not cut in two",
        '_NOT = f"(?i:n){_ANY_APOS}(?i:t)"',
        '_NOT = f"(?i:n){_ANY_APOS}(?i:q)"',
        "tests/metrics/test_ptb.py",
    ),
    # Files of others, and sweeps.
    _breakage(
        "a torch file may execute code",
        'map_location="cpu", weights_only=True)\n    except Exception as error:  # A damaged',
        'map_location="cpu", weights_only=False)\n    except Exception as error:  # A damaged',
        "tests/test_nothing_is_executed.py",
    ),
    _breakage(
        "results of another config are shown",
        "outdated = any(",
        "outdated = not any(() for _ in ()) and False and any(",
        "tests/experiments/test_sweep_files.py",
        "tests/experiments/test_results.py",
    ),
    _breakage(
        "p does not count what was observed",
        "return (1 + as_far) / (1 + len(swapped))",
        "return as_far / len(swapped)",
        "tests/experiments/test_resampling.py",
    ),
)
