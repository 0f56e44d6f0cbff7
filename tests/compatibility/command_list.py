"""The documented commands, each in a small form on a recorded run.

`{configs}`, `{sweep}` and `{root}` are the small configs, the small sweep file and the repository.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, given in the folder of an unpacked run.

    Attributes:
      name: of the test.
      archive: the run.
      lines: what comes after `python -m`, one command after another; the last one is recorded.
      mentions: texts that it says, on stdout or stderr.
      stdin: what it reads.
      quick: whether it belongs to the quick tests.
    """

    name: str
    archive: str
    lines: tuple[str, ...]
    mentions: tuple[str, ...] = ()
    stdin: str = ""
    quick: bool = False


def _command(name, archive, *lines, **more) -> Command:
    return Command(name, archive, lines, **more)


_MAIN = "capjax.main --config {configs}:mobilenet_frozen --workdir run"
_NEW = (
    "capjax.main --config {configs}:vit_frozen --workdir new --config.num_steps=4 "
    "--config.eval_every=4 --config.log_every=1 --config.optimizer.warmup_steps=1"
)
_CAPTION = "capjax.caption --workdir run"
_SHOW = "capjax.data.show --config {configs}:conv_transformer"
_MADE = "capjax.convert_encoder --config {configs}:mobilenet_frozen --to made.safetensors"
_FOLDER = "{root}/configs/folder_transformer.py"
_FILE = "--config.dataset.file=pictures/captions.csv --config.dataset.cache_dir=cache"
_TUTORIAL = "capjax.import_tutorial --config {root}/configs/coco_show_attend_tell.py"

COMMANDS = (
    # capjax.main
    _command("train_to_the_end", "mobilenet_frozen", _MAIN, mentions=("from step 40",)),
    _command("train_again", "vit_frozen", _NEW, _NEW, mentions=("nothing to do",)),
    _command(
        "train_in_runs",
        "vit_frozen",
        _NEW.replace("--workdir new", ""),
        mentions=("done: runs/small_configs_vit_frozen",),
    ),
    _command(
        "train_from_another",
        "mobilenet_frozen",
        _MAIN.replace("--workdir run", "--workdir second --config.init_from=run")
        + " --config.init_parts='(\"decoder\",)' --config.init_tokenizer=True"
        + " --config.num_steps=4 --config.eval_every=4 --config.optimizer.warmup_steps=1",
    ),
    _command(
        "train_with_an_encoder_file",
        "mobilenet_frozen",
        _MADE,
        f"capjax.main --config {_FOLDER}:./made.safetensors {_FILE} --workdir made "
        "--config.num_steps=2 --config.eval_every=2 --config.batch_size=4 "
        "--config.optimizer.warmup_steps=1 --config.tokenizer.min_count=1 "
        "--config.evaluation.batch_size=2 --config.evaluation.num_samples=1 "
        "--config.adapter.width=8 --config.decoder.width=8 --config.decoder.num_layers=1",
    ),
    _command(
        "train_on_a_captioner",
        "exported",
        f"capjax.main --config {{root}}/configs/folder_vit_gpt2.py:./captioner {_FILE} "
        "--workdir on --config.optimizer.warmup_steps=1 --config.num_steps=2 "
        "--config.dtype=float32 "
        "--config.eval_every=2 --config.batch_size=4 --config.dataset.max_length=10 "
        "--config.evaluation.batch_size=2",
    ),
    _command("evaluate", "mobilenet_frozen", f"{_MAIN} --mode evaluate"),
    _command(
        "evaluate_otherwise",
        "vit_frozen",
        "capjax.main --config {configs}:vit_frozen --workdir run --mode evaluate --split test "
        "--checkpoint latest --config.decoding.num_beams=2 --config.decoding.length_penalty=0.5 "
        "--config.decoding.early_stopping=never --config.decoding.max_length=7",
    ),
    _command(
        "evaluate_shapes",
        "shapes",
        "capjax.main --config {configs}:shapes --workdir run "
        "--mode evaluate --split heldout --checkpoint 40",
    ),
    _command(
        "main_misspelt",
        "vit_frozen",
        f"{_MAIN} --config.decoder.num_layer=2",
        mentions=("num_layers",),
        quick=True,
    ),
    # A run's own folder has a config since.
    _command("main_no_config", "vit_frozen", "capjax.main --workdir new", mentions=("config",)),
    _command("main_no_file", "vit_frozen", "capjax.main --config none.py", mentions=("none.py",)),
    _command("main_argument", "vit_frozen", f"{_MAIN} more", mentions=("more",)),
    _command("main_flag", "vit_frozen", f"{_MAIN} --workdirs=2", mentions=("workdirs",)),
    _command("main_mode", "vit_frozen", f"{_MAIN} --mode test", mentions=("mode",)),
    _command(
        "main_type", "vit_frozen", f"{_MAIN} --config.batch_size=many", mentions=("batch_size",)
    ),
    _command(
        "main_value", "vit_frozen", f"{_MAIN} --config.batch_size=0", mentions=("batch_size",)
    ),
    _command(
        "main_other_config",
        "mobilenet_frozen",
        f"{_MAIN} --config.decoder.width=16",
        mentions=("decoder.width",),
    ),
    _command(
        "main_other_data",
        "mobilenet_frozen",
        f"{_MAIN} --config.dataset.file=vectors.csv",
        mentions=("vectors.csv",),
    ),
    _command(
        "main_no_split",
        "vit_frozen",
        "capjax.main --config {configs}:vit_frozen --workdir run --mode evaluate --split dev",
        mentions=("dev",),
    ),
    _command(
        "main_no_checkpoint",
        "vit_frozen",
        "capjax.main --config {configs}:vit_frozen --workdir run --mode evaluate --checkpoint 7",
        mentions=("7",),
    ),
    _command(
        "main_no_run",
        "vit_frozen",
        "capjax.main --config {configs}:vit_frozen --workdir none --mode evaluate",
        mentions=("none is no run",),
    ),
    _command(
        "main_processes",
        "vit_frozen",
        f"{_MAIN} --num_processes 2 --process_id 0",
        mentions=("coordinator",),
    ),
    # capjax.caption
    _command(
        "caption",
        "conv_transformer",
        f"{_CAPTION} pictures/9.png pictures/turned.jpg",
        mentions=("pictures/9.png", "pictures/turned.jpg"),
    ),
    _command("caption_json", "vit_frozen", f"{_CAPTION} --json --beam_size 2 pictures/9.png"),
    _command(
        "caption_folder",
        "gru",
        f"{_CAPTION} pictures --length_penalty 0.5 --max_length 6 --batch_size 4 "
        "--checkpoint latest",
    ),
    _command(
        "caption_samples",
        "gru",
        f"{_CAPTION} --temperature 0.8 --seed 3 --checkpoint 40 --json pictures/9.png",
    ),
    _command(
        "caption_names",
        "gru",
        f"{_CAPTION} --json -",
        stdin="pictures/9.png\npictures/alpha.png\nnone.png\n",
        mentions=("none.png",),
    ),
    _command("caption_output", "gru", f"{_CAPTION} --output said/captions.jsonl pictures/9.png"),
    _command(
        "caption_resume",
        "gru",
        f"{_CAPTION} --output said.jsonl pictures/9.png",
        f"{_CAPTION} --output said.jsonl --resume pictures/9.png pictures/alpha.png",
    ),
    _command(
        "caption_resume_other",
        "gru",
        f"{_CAPTION} --output said.jsonl pictures/9.png",
        f"{_CAPTION} --output said.jsonl --resume --beam_size 2 pictures/alpha.png",
        mentions=("num_beams",),
    ),
    _command(
        "caption_draws",
        "patch_transformer",
        f"{_CAPTION} pictures/9.png --attention out --overlay first,last,2 "
        "--views overlay,heat,patches",
    ),
    _command(
        "caption_draws_layers",
        "patch_transformer",
        f"{_CAPTION} pictures/9.png --attention out --attention_by layer",
    ),
    _command(
        "caption_draws_heads",
        "patch_transformer",
        f"{_CAPTION} pictures/9.png --attention out --attention_by head",
    ),
    _command(
        "caption_attended",
        "patch_transformer",
        f"{_CAPTION} pictures/9.png --attended --attention out --json",
    ),
    _command(
        "caption_attended_lines",
        "patch_transformer",
        f"{_CAPTION} pictures/9.png --attended",
        mentions=("attended: ",),
    ),
    _command(
        "caption_model",
        "exported",
        "capjax.caption --model ./captioner pictures/9.png",
        mentions=("pictures/9.png",),
    ),
    _command(
        "caption_damaged",
        "gru",
        f"{_CAPTION} pictures/captions.csv pictures/9.png",
        mentions=("pictures/captions.csv",),
    ),
    _command(
        "caption_no_run",
        "gru",
        "capjax.caption --workdir none pictures/9.png",
        mentions=("none is no run",),
    ),
    _command("caption_nothing", "gru", _CAPTION),
    _command("caption_nobody", "gru", "capjax.caption pictures/9.png"),
    _command("caption_both", "gru", f"{_CAPTION} --model captioner pictures/9.png"),
    _command(
        "caption_model_checkpoint",
        "gru",
        "capjax.caption --model ./captioner --checkpoint best x.png",
    ),
    _command("caption_resume_what", "gru", f"{_CAPTION} --resume x.png", mentions=("--output",)),
    _command(
        "caption_overlay_where",
        "gru",
        f"{_CAPTION} --overlay first x.png",
        mentions=("--attention",),
    ),
    _command(
        "caption_heads_of_gru",
        "gru",
        f"{_CAPTION} --attention out --attention_by head pictures/9.png",
        mentions=("--attention_by head",),
    ),
    _command(
        "caption_beams", "gru", f"{_CAPTION} --beam_size 0 pictures/9.png", mentions=("num_beams",)
    ),
    _command("caption_stdin_twice", "gru", f"{_CAPTION} - -"),
    _command("caption_batch", "gru", f"{_CAPTION} --batch_size 0 x.png"),
    _command("caption_help", "gru", "capjax.caption --help"),
    # capjax.data.show, and other tools
    _command("show", "conv_transformer", _SHOW, mentions=("train", "vocabulary")),
    _command(
        "show_split",
        "conv_transformer",
        f"{_SHOW} --split validation --images 2 --to drawn/some.png",
    ),
    _command(
        "show_folder",
        "mobilenet_frozen",
        f"capjax.data.show --config {_FOLDER} {_FILE} --split test",
    ),
    _command(
        "show_no_file",
        "conv_transformer",
        f"{_SHOW} --config.dataset.file=none.csv",
        mentions=("none.csv",),
    ),
    _command("show_no_split", "conv_transformer", f"{_SHOW} --split dev", mentions=("dev",)),
    _command("convert_encoder", "mobilenet_frozen", _MADE, mentions=("wrote made.safetensors",)),
    _command(
        "convert_encoder_of_none",
        "conv_transformer",
        "capjax.convert_encoder --config {configs}:conv_transformer --to made.safetensors",
        mentions=("conv",),
    ),
    # It was status 1 at c32e60f; a missing flag is wrong usage in every command now.
    _command(
        "convert_encoder_where",
        "mobilenet_frozen",
        "capjax.convert_encoder --config {configs}:mobilenet_frozen",
    ),
    _command(
        "import_tutorial_no_weights",
        "gru",
        f"{_TUTORIAL} --weights none.safetensors --word_map none.json --workdir new",
        mentions=("none.",),
    ),
    _command("import_tutorial_what", "gru", _TUTORIAL, mentions=("weights",)),
    _command(
        "convert_tutorial_untrusted",
        "gru",
        "capjax.pretrained.convert_show_attend_tell none.tar --to x.safetensors",
    ),
    _command("export", "vit_gpt2", "capjax.pretrained.export --workdir run --to exported"),
    _command(
        "export_checkpoint",
        "vit_gpt2",
        "capjax.pretrained.export --workdir run --to exported --checkpoint 40",
    ),
    _command(
        "export_of_none", "conv_transformer", "capjax.pretrained.export --workdir run --to exported"
    ),
    _command(
        "export_over",
        "vit_gpt2",
        "capjax.pretrained.export --workdir run --to pictures",
        mentions=("pictures",),
    ),
    _command("export_where", "vit_gpt2", "capjax.pretrained.export --workdir run"),
    # experiments
    _command("sweep_done", "sweep", "experiments.sweep {sweep} --workdir sweep"),
    _command(
        "sweep_dry",
        "sweep",
        "experiments.sweep {sweep} --workdir sweep --dry_run",
        mentions=("plain", "wide"),
    ),
    _command(
        "sweep_commands",
        "sweep",
        "experiments.sweep {sweep} --workdir new --commands --only 'wide*'",
        mentions=("wide",),
    ),
    _command(
        "sweep_new",
        "sweep",
        "experiments.sweep {sweep} --workdir new --only 'plain*' --config.num_steps=4 "
        "--config.eval_every=4 --config.optimizer.warmup_steps=1",
    ),
    # Commit c32e60f refused it: recorded by the first that makes runs longer.
    _command(
        "sweep_more",
        "sweep",
        "experiments.sweep {sweep} --workdir sweep --config.num_steps=24 --only 'plain*'",
    ),
    _command(
        "sweep_no_file", "sweep", "experiments.sweep none.py --workdir new", mentions=("none.py",)
    ),
    _command("sweep_no_run", "sweep", "experiments.sweep {sweep} --workdir new --only 'none*'"),
    _command(
        "sweep_field",
        "sweep",
        "experiments.sweep {sweep} --workdir new --config.num_step=3",
        mentions=("num_step",),
    ),
    _command("results", "sweep", "experiments.results sweep", mentions=("plain", "CIDEr-D")),
    _command(
        "results_metric",
        "sweep",
        "experiments.results sweep --metric BLEU-4 --resamples 100",
        mentions=("BLEU-4",),
    ),
    _command(
        "results_no_metric", "sweep", "experiments.results sweep --metric BLUE", mentions=("BLUE",)
    ),
    _command("results_no_sweep", "sweep", "experiments.results none", mentions=("none",)),
    _command("report", "sweep", "experiments.report sweep --to page"),
    _command(
        "report_all",
        "sweep",
        "experiments.report sweep --to page --images 0 --pictures links --attention all",
    ),
    _command(
        "report_run",
        "vit_frozen",
        "capjax.main --config {configs}:vit_frozen --workdir run --mode evaluate",
        "experiments.report run --to page",
    ),
    _command("report_no_sweep", "sweep", "experiments.report none --to page", mentions=("none",)),
    _command("report_where", "sweep", "experiments.report sweep"),
    _command("sweep_help", "sweep", "experiments.sweep --help"),
    _command("results_help", "sweep", "experiments.results --help"),
    _command("report_help", "sweep", "experiments.report --help"),
    _command("export_help", "sweep", "capjax.pretrained.export --help"),
    _command("convert_tutorial_help", "sweep", "capjax.pretrained.convert_show_attend_tell --help"),
    _command("quickstart_help", "sweep", "experiments.quickstart --help"),
    _command("pointing_help", "sweep", "experiments.pointing --help"),
    _command("kill_campaign_help", "sweep", "experiments.kill_campaign --help"),
    _command("pointing", "shapes", "experiments.pointing --workdir run --images 2"),
)
