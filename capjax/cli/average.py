"""The flag --average, of commands that take several --workdir as an ensemble."""

import argparse


def add_average(parser: argparse.ArgumentParser) -> None:
    """Adds the flag."""
    parser.add_argument(
        "--average",
        choices=("probabilities", "log_probabilities"),
        help="what an ensemble averages of each token (default: probabilities)",
    )


def check_average(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the command if the flag is given without an ensemble."""
    if arguments.average and len(arguments.workdir or ()) < 2:
        parser.error("--average is of an ensemble, which has several --workdir")
