"""The options and their help; nothing here needs TensorFlow."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import innv_ext
from innv_ext.cli import values
from innv_ext.errors import InvalidInputError

_SIGNED = ("--scale", "--mean")  # their values may begin with a minus, which argparse takes for an option

_MAIN = """examples:
  innv-ext list
  innv-ext explain model.keras cat.jpg --analyzer lrp.epsilon_plus --out maps
  innv-ext compare model.keras *.jpg --analyzers gradient,lrp.z,deep_taylor --report report.html
  innv-ext summary model.keras --analyzer lrp.epsilon_plus

exit codes: 0 fine, 1 an analyzer failed, 2 wrong usage or input, 130 interrupted"""

_INPUTS = """images are turned upright and cut to the middle part that has the proportions of the model's input
(--resize stretch: not cut), resized by Pillow's bilinear filter, turned into grey or RGB as the model needs it, and
scaled from 0..255 to 0..1 (--scale). Models that take any size get the image's own. Arrays (.npy, or .npz with one
array or one named x) are one sample or several; they are fed as they are unless --scale, --mean, --std or --preprocess
is given."""

_EXPLAIN = f"""examples:
  innv-ext explain model.keras cat.jpg dog.jpg --analyzer gradient --out maps
  innv-ext explain model.keras cat.jpg --analyzer lrp.epsilon --param epsilon=0.01 --neuron 3 --out maps
  innv-ext explain resnet.keras cat.jpg --analyzer lrp.epsilon_plus --preprocess keras.applications.resnet50 \\
      --labels imagenet.txt --neuron tabby --mode blend --out maps
  innv-ext explain model.keras cat.jpg --analyzer pattern.net --fit photos/ --scale -1,1 --out maps --npz
  innv-ext explain signals.keras x.npy --analyzer integrated_gradients --out maps

{_INPUTS}"""

_COMPARE = f"""examples:
  innv-ext compare model.keras cat.jpg dog.jpg --analyzers gradient,smoothgrad,lrp.z --report report.html
  innv-ext compare model.keras x.npz --analyzers lrp.epsilon,deep_taylor.bounded --param lrp.epsilon:epsilon=0.01 \\
      --param deep_taylor.bounded:low=0 --param deep_taylor.bounded:high=1

{_INPUTS}"""

_LIST = """examples:
  innv-ext list
  innv-ext list --family lrp
  innv-ext list --json"""

_SUMMARY = """examples:
  innv-ext summary model.keras --analyzer lrp.epsilon_plus
  innv-ext summary model.keras --analyzer lrp --param rule=gamma --param input_layer_rule=flat"""


class _Parser(argparse.ArgumentParser):
    """Errors are raised, so that all of them end as one line."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Name the help beside what is wrong."""
        raise InvalidInputError(f"{message} (see {self.prog} --help)")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line.

    Raises
    ------
    InvalidInputError
        for unknown, missing or malformed ones
    SystemExit
        for --help and --version, when they have been written
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in _SIGNED and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return _parser().parse_args(joined)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="innv-ext", description="Explain what a trained Keras model looked at.", epilog=_MAIN)
    parser.add_argument("--version", action="version", version=f"innv-ext {innv_ext.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    general, model, inputs = _general(), _model(), _inputs()
    _add_explain(
        commands.add_parser(
            "explain",
            help="a picture per image of what mattered in it",
            parents=[model, inputs, general],
            epilog=_EXPLAIN,
        )
    )
    _add_compare(
        commands.add_parser(
            "compare",
            help="several analyzers side by side, with metrics",
            parents=[model, inputs, general],
            epilog=_COMPARE,
        )
    )
    listed = commands.add_parser("list", help="the analyzers", parents=[general], epilog=_LIST)
    listed.add_argument("--family", metavar="F", help="only those of a family: lrp, gradient, rde ...")
    listed.add_argument("--json", action="store_true", help="everything that is known about them, as JSON")
    listed.add_argument("--module", type=Path, metavar="FILE.py", help="run this first: it registers analyzers")
    summary = commands.add_parser(
        "summary", help="which rule each node of a model gets", parents=[model, general], epilog=_SUMMARY
    )
    _add_analyzer(summary)
    return parser


def _add_analyzer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--analyzer", required=True, metavar="NAME", help="one of `innv-ext list`")
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        type=values.param,
        metavar="KEY=VALUE",
        help="parameter of the analyzer, also batch_size, seed, output, on ...; may be repeated",
    )


def _add_explain(parser: argparse.ArgumentParser) -> None:
    _add_analyzer(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--mode",
        default="heatmap",
        metavar="MODE",
        help="heatmap (default), graymap, scale_input, mask_input, blend or back_project",
    )
    parser.add_argument("--npz", action="store_true", help="also write input, map, output and score as NAME.npz")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--analyzers", required=True, type=values.names, metavar="A,B,C", help="names of `innv-ext list`"
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        type=values.param,
        metavar="NAME:KEY=VALUE",
        help="parameter of one of the analyzers; may be repeated",
    )
    parser.add_argument(
        "--metrics", type=values.names, metavar="A,B,C", help="names of list_metrics() in Python (default: a usual set)"
    )
    parser.add_argument("--output", type=values.neuron, metavar="N|NAME", help="output of a model with several")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write everything into one page")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for pictures, table and numbers")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="samples at once (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random (default: %(default)s)")


def _general() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False)
    parser.add_argument("--quiet", action="store_true", help="write nothing but errors and what was asked for")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _model() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False)
    parser.add_argument("model", type=Path, metavar="MODEL", help="model file, .keras or .h5")
    parser.add_argument("--module", type=Path, metavar="FILE.py", help="run this first: it defines custom layers")
    parser.add_argument(
        "--unsafe", action="store_true", help="also load Lambda layers, which run code from the model file"
    )
    return parser


def _inputs() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, .npy or .npz")
    parser.add_argument(
        "--neuron", type=values.neuron, metavar="N|LABEL", help="output to explain (default: the largest of each image)"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="names of the outputs: one a line, a JSON list or {number: name}"
    )
    parser.add_argument(
        "--fit", type=Path, metavar="FOLDER|X.npz", help="training data of analyzers that need some; read like images"
    )
    group = parser.add_argument_group("preprocessing")
    group.add_argument("--scale", type=values.scale, metavar="LOW,HIGH", help="what 0 and 255 become (default: 0,1)")
    group.add_argument("--mean", type=values.numbers, metavar="M,...", help="subtracted after scaling, per channel")
    group.add_argument("--std", type=values.positives, metavar="S,...", help="divided by after that, per channel")
    group.add_argument(
        "--preprocess",
        metavar="WHAT",
        help="instead: keras.applications.NAME, or FILE.py with a function preprocess(images) that gets "
        "(n, height, width, channels) of 0..255",
    )
    group.add_argument(
        "--resize", choices=("crop", "stretch"), default="crop", help="keep proportions or all of the image"
    )
    return parser
