"""The two modes of the command line: train a run, evaluate a run."""

import json

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from capjax import build, parallel, workdir
from capjax.data.captions import CaptionTable, EncodedCaptions, encode_captions, unigram_counts
from capjax.data.reading import eval_batches, read_pixels
from capjax.data.sections import open_captions, open_source, train_tokenizer
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.captioning import CaptionBatches, Sampling
from capjax.evaluate.figures import save_figure, training_curve
from capjax.evaluate.results import coco_results, code_version, write_json
from capjax.evaluate.scoring import score_captions
from capjax.load import load
from capjax.metrics import coco
from capjax.models.summary import model_summary
from capjax.train.checkpoint import Checkpoints
from capjax.train.loop import Cadence, EarlyStopping
from capjax.train.loop import train as train_loop
from capjax.train.state import init_state
from capjax.train.step import make_loss_step, make_train_step
from capjax.train.validate import TeacherForced, Validation
from capjax.train.writer import Writer, read_metrics


def train(config: ConfigDict, directory: str) -> None:
    """Trains the run in `directory`, from its latest checkpoint where there is one.

    Raises:
      ConfigError, DataError, WorkdirError: before anything is computed.
    """
    build.check(config)
    with build.checkpoints(directory, config) as checkpoints:
        latest = checkpoints.latest_step()
        if latest is not None:
            workdir.check_same_run(directory, config)
        _train(config, directory, checkpoints, latest)
    curve = workdir.path(directory, "figures", "training.png")
    rows = read_metrics(workdir.path(directory, "metrics.jsonl"))
    save_figure(training_curve(rows, config.early_stopping.metric), curve)
    print(f"done: {directory}; its curves are {curve}")


def _train(
    config: ConfigDict, directory: str, checkpoints: Checkpoints, latest: int | None
) -> None:
    source = {split: open_source(config.dataset, split) for split in ("train", "validation")}
    table = {split: open_captions(config.dataset, source[split]) for split in source}
    tokenizer = train_tokenizer(config.tokenizer, table["train"])
    fingerprints = {
        "tokenizer": tokenizer.fingerprint,
        **{split: source[split].fingerprint for split in source},
    }
    if latest is not None:
        workdir.check_same_data(directory, fingerprints)
    encoded = {split: _encode(config, table[split], tokenizer) for split in source}
    for split, captions in encoded.items():
        print(f"{source[split].name}: {captions.report.summary()}")

    counts = unigram_counts(encoded["train"], tokenizer.vocab_size)
    _print_smart_start(counts, tokenizer.banned_ids)
    bias = build.log_frequencies(counts) if config.decoder.smart_bias else None
    model = build.captioner(config, tokenizer, bias)
    optimizer = build.optimizer(config)
    shape = (config.dataset.image_size,) * 2 + (3,)
    try:
        lengths = (config.dataset.captions_per_image, config.dataset.max_length)
        print(model_summary(model, shape, *lengths))
    except ValueError as error:  # Fields that do not fit each other or the image's size.
        raise build.ConfigError(f"this config makes no model: {error}") from error

    @jax.jit
    def fresh(key):
        return init_state(model.init_params(key, shape), optimizer, ema=config.ema_decay > 0)

    state = fresh(jax.random.key(config.seed))
    stopping = EarlyStopping(**config.early_stopping)
    if latest is None:
        workdir.save(directory, config, tokenizer, fingerprints)
    else:
        state, progress = checkpoints.restore(latest, state)
        stopping.best, stopping.waited = progress["best"], progress["waited"]
        print(f"continuing {directory} from step {latest}")
    state = parallel.replicate(state)
    with Writer(directory, resume_step=latest or 0) as writer:
        train_loop(
            state,
            _train_step(config, model, optimizer),
            parallel.prefetch(
                _train_batches(config, source["train"], encoded["train"], tokenizer, latest or 0)
            ),
            _validation(config, directory, model, tokenizer, source, encoded, table, writer),
            cadence=Cadence(
                config.num_steps, config.log_every, config.eval_every, config.checkpoint_every
            ),
            schedule=build.schedule(config),
            stopping=stopping,
            checkpoints=checkpoints,
            writer=writer,
        )


def _encode(config: ConfigDict, table: CaptionTable, tokenizer: Tokenizer) -> EncodedCaptions:
    section = config.dataset
    return encode_captions(
        table, tokenizer, max_length=section.max_length, over_length=section.over_length
    )


def _train_step(config, model, optimizer):
    step = make_train_step(
        model,
        optimizer,
        seed=config.seed,
        label_smoothing=config.label_smoothing,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
    )
    return parallel.map_devices(step, donate=(0,))


def _train_batches(config, source, encoded, tokenizer, first_step):
    # Here, because it needs TensorFlow and evaluation does not.
    from capjax.data.pipeline import train_batches

    return train_batches(
        source,
        encoded,
        tokenizer,
        batch_size=config.batch_size,
        captions_per_image=config.dataset.captions_per_image,
        image_size=config.dataset.image_size,
        seed=config.seed,
        first_step=first_step,
        length_bucket=config.dataset.length_bucket or None,
        packed=config.dataset.packed,
        num_threads=config.dataset.num_threads,
    )


def _eval_batches(config, source, encoded, tokenizer):
    return eval_batches(
        source,
        encoded,
        tokenizer,
        batch_size=config.evaluation.batch_size,
        image_size=config.dataset.image_size,
        num_threads=config.dataset.num_threads,
    )


def _validation(config, directory, model, tokenizer, source, encoded, table, writer):
    split = source["validation"]
    count = min(config.evaluation.num_samples, len(split))
    search = build.beam_search(config.decoding)
    samplers = [
        (
            f"temperature_{temperature:g}",
            CaptionBatches(
                model,
                tokenizer,
                Sampling(temperature, search.max_length, config.seed),
                attention=True,
            ),
        )
        for temperature in config.evaluation.temperatures
    ]
    size = config.dataset.image_size
    return Validation(
        loss_step=parallel.map_devices(make_loss_step(model)),
        search=CaptionBatches(model, tokenizer, search),
        samplers=samplers,
        batches=lambda: _eval_batches(config, split, encoded["validation"], tokenizer),
        table=table["validation"],
        samples=np.array([read_pixels(split, index, size) for index in range(count)]),
        scorers=build.scorers(config),
        writer=writer,
        figures=workdir.path(directory, "figures"),
    )


def _print_smart_start(counts: np.ndarray, banned: tuple[int, ...]) -> None:
    """What the first loss is to be beside: no knowledge, and the words' frequencies alone."""
    allowed = np.delete(counts, list(banned))
    share = allowed[allowed > 0] / allowed.sum()
    print(
        f"vocabulary {len(counts)}: a uniform guess costs {np.log(len(counts)):.3f} nats a token, "
        f"the train split's frequencies {-(share * np.log(share)).sum():.3f}"
    )


def evaluate(
    config: ConfigDict, directory: str, *, split: str, checkpoint: str
) -> dict[str, float]:
    """Captions and scores a split; writes the results and prints the metrics, one JSON line last.

    Fields of `workdir.FREE` are `config`'s; the rest must be the run's own.
    """
    build.check(config)
    workdir.check_same_run(directory, config)
    run = load(directory, checkpoint)
    source = open_source(config.dataset, split)
    table = open_captions(config.dataset, source)
    encoded = _encode(config, table, run.tokenizer)
    params = parallel.replicate(run.params)
    search = build.beam_search(config.decoding)
    forced = TeacherForced(parallel.map_devices(make_loss_step(run.model)), params)
    batches = forced.watch(_eval_batches(config, source, encoded, run.tokenizer))
    captioned = CaptionBatches(run.model, run.tokenizer, search)(params, batches)
    captions = {
        table.image_ids[index]: caption
        for index, caption in tqdm(captioned, total=len(source), desc=f"caption {source.name}")
    }
    stem = workdir.path(directory, "evaluation", f"{split}-step{run.step}-{search.label}")
    write_json(f"{stem}.captions.json", coco_results(captions))

    texts = {image_id: caption.text for image_id, caption in captions.items()}
    metrics = {**forced.metrics(), **score_captions(table, texts, build.scorers(config))}
    metrics["finished"] = float(np.mean([caption.finished for caption in captions.values()]))
    notes = {} if "METEOR" in metrics else {"METEOR": f"not computed: {coco.why_no_meteor()}"}
    write_json(
        f"{stem}.metrics.json",
        {
            "metrics": metrics,
            "notes": notes,
            "split": split,
            "source": {"name": source.name, "fingerprint": source.fingerprint},
            "images": len(source),
            "step": run.step,
            "decoding": {"method": "beam search", **config.decoding.to_dict()},
            "tokenizer": run.tokenizer.fingerprint,
            "seed": config.seed,
            "code": code_version(),
            "config": config.to_dict(),
        },
    )
    for name, note in notes.items():
        print(f"{name} {note}")
    print(f"wrote {stem}.captions.json and {stem}.metrics.json")
    print(json.dumps({name: round(value, 4) for name, value in metrics.items()}))
    return metrics
