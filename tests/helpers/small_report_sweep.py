"""A sweep's folder by hand: two untrained runs, one that failed, one to come."""

import dataclasses
import json
import shutil

import capjax
from capjax.config import build
from capjax.data.reading import eval_batches
from capjax.data.sections import open_captions, open_source
from capjax.evaluate.scoring import image_results, score_captions
from capjax.files.atomic import write_json
from capjax.run.workdir import Workdir
from configs import base
from tests.helpers.small_pictures import write_pictures
from tests.helpers.small_run import write_untrained_run

IMAGES = 12
EVALUATIONS = {"beam": {"num_beams": 2}, "greedy": {"num_beams": 1}}


def write_small_sweep(folder) -> None:
    """Writes `folder`/pictures and `folder`/sweep: runs "whole-seed0", "cropped-seed0", ..."""
    pictures, sweep = folder / "pictures", folder / "sweep"
    pictures.mkdir()
    write_pictures(pictures)
    _move_to_validation(pictures / "captions.csv")
    runs = []
    for number, variant in enumerate(("whole", "cropped", "failed", "waiting")):
        overrides = {"dataset.keep_aspect": variant == "cropped", "decoder.width": 16 << number}
        row = {"name": f"{variant}-seed0", "variant": variant, "seed": 0}
        runs.append(row | {"workdir": f"runs/{row['name']}", "overrides": overrides})
    about = {"file": "some_variants.py", "code": {"capjax": "0.1.0"}, "baseline": "whole"}
    write_json(sweep / "sweep.json", about | {"evaluations": EVALUATIONS, "runs": runs})
    whole, cropped, failed = (sweep / row["workdir"] for row in runs[:3])
    write_untrained_run(whole)
    shutil.copytree(whole, cropped)
    run = capjax.load(str(whole))  # Of both: what differs is how a picture becomes a square.
    for number, directory in enumerate((whole, cropped)):
        config = _take_pictures(directory, pictures, keep_aspect=directory == cropped)
        source = open_source(config.dataset, "validation")
        captions = _captions(run, source, config)
        stems = {}
        for name, fields in EVALUATIONS.items():
            texts = {image_id: caption.text for image_id, caption in captions.items()}
            if name == "greedy":  # The same, but for the first image's.
                texts[next(iter(texts))] = "a red wall"
            elif directory == cropped:  # One that the model does not say.
                texts[list(texts)[-1]] = "a blue picture"
            label = dataclasses.replace(build.beam_search(config.decoding), **fields).label
            stems[name] = f"validation-step0-{label}"
            _write_evaluation(directory, stems[name], config, source, texts, fields)
        _write_metrics(directory / "metrics.jsonl", number)
        known = {"status": "done", "error": None, "seconds": {"train": 30.0, "evaluate": 2.0}}
        known |= {"parameters": 12345, "peak_memory_mib": 800.0, "evaluations": stems}
        write_json(directory / "sweep_run.json", known)
    write_json(failed / "sweep_run.json", {"status": "failed", "error": "out of <b>memory"})


def _move_to_validation(file) -> None:
    """All but the first pictures become validation."""
    rows = file.read_text().splitlines()
    moved = [row.replace(",train", ",validation") for row in rows[1 + 2 * (15 - IMAGES) :]]
    file.write_text("\n".join([*rows[: 1 + 2 * (15 - IMAGES)], *moved]) + "\n")


def _take_pictures(directory, pictures, *, keep_aspect: bool):
    """Has a run's config name the pictures; gives it back."""
    config = Workdir(directory).load_config()
    side = config.dataset.image_size
    config.dataset = base.folder_dataset()
    config.dataset.update(file=str(pictures / "captions.csv"), image_size=side, cache_dir="")
    config.dataset.keep_aspect = keep_aspect
    write_json(directory / "config.json", config.to_dict())
    return config


def _captions(run, source, config):
    """Image id -> caption, of all images in one batch shape."""
    batches = eval_batches(
        source,
        None,
        run.tokenizer,
        batch_size=run.batch_shape(None),
        resize=build.resize(config.dataset),
        num_threads=2,
    )
    return {source[i].image_id: caption for i, caption in run.caption_batches(batches)}


def _write_metrics(file, number: int) -> None:
    rows = [
        {"step": step, "group": "train", "loss": 5.0 / step + number, "step_seconds": 0.5 + number}
        for step in range(1, 21)
    ]
    rows += [
        {"step": step, "group": "validation", "loss": 4 / step + number, "CIDEr-D": step + number}
        for step in (10, 20)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_evaluation(directory, stem, config, source, texts, fields) -> None:
    base_path = str(directory / "evaluation" / stem)
    table = open_captions(config.dataset, source)
    rows = [{"image_id": image_id, "caption": text} for image_id, text in texts.items()]
    write_json(f"{base_path}.captions.json", rows)
    write_json(f"{base_path}.images.json", image_results(table, texts))
    metrics = score_captions(table, texts, meteor=False) | {"loss": 2.5}
    decoding = {"method": "beam search", **config.decoding.to_dict(), **fields}
    record = {"metrics": metrics, "images": len(texts), "step": 0, "decoding": decoding}
    record["source"] = {"name": source.name, "fingerprint": source.fingerprint}
    record |= {"split": "validation", "code": {"capjax": "0.1.0"}, "config": config.to_dict()}
    write_json(f"{base_path}.metrics.json", record)
