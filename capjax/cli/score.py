"""Scores given captions by their log-probability under a trained model.

capjax score --workdir runs/shapes_transformer --caption "a dog" --caption "a cat" a.jpg b.jpg
capjax score --workdir runs/shapes_transformer --file pairs.csv
capjax score --workdir runs/shapes_transformer --split validation
capjax score --workdir runs/seed0 --workdir runs/seed1 --file pairs.csv

With --caption, the images are ranked by each caption, or by one image the captions. With --file,
each row's caption is scored with its image. With --split, all captions of a split are scored with
all of its images, and the recall of each from the other is printed.
"""

import argparse

from capjax.cli.average import add_average, check_average
from capjax.cli.compilation import add_compilation_cache
from capjax.cli.errors import Parser, reported
from capjax.cli.log import show_log
from capjax.cli.parts import add_parts, import_parts
from capjax.cli.process import run_command, starting


def main(argv: list[str] | None = None) -> None:
    """Reads the flags and scores."""
    show_log()
    parser = Parser(
        prog="capjax score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="*", help="image files, folders of them, or http(s) URLs")
    parser.add_argument(
        "--workdir",
        action="append",
        required=True,
        help="folder of a trained run, or a captioner of transformers; given again, they score "
        "together, as an ensemble",
    )
    add_average(parser)
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    parser.add_argument(
        "--caption", action="append", default=[], help="a caption; give it again for more"
    )
    parser.add_argument(
        "--file", help="instead, a CSV or JSONL file with the columns image and caption"
    )
    parser.add_argument("--split", help="instead, a split of the run's dataset")
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="of --split, only the first N images"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON lines, with each token's log-probability"
    )
    add_compilation_cache(parser)
    add_parts(parser)
    given = parser.parse_args(argv)
    check_average(parser, given)
    if [bool(given.caption), bool(given.file), bool(given.split)].count(True) != 1:
        parser.error("give one of --caption with images, --file, and --split")
    if bool(given.images) != bool(given.caption):
        parser.error("images and --caption belong together")
    if given.first < 0 or (given.first and not given.split):
        parser.error("--first needs --split, and a number of 1 or more")
    import_parts(given.parts)
    with reported():
        # Imported here, so that --help is answered at once.
        with starting():
            from capjax.cli.score_captions import score_captions

        score_captions(given)


if __name__ == "__main__":
    run_command(main)
