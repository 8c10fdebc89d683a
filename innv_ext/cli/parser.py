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
  innv-ext text reviews.keras "a fine film" --analyzer lrp.epsilon --output film.html

exit codes: 0 fine, 1 an analyzer failed, 2 wrong usage or input, 130 interrupted"""

_INPUTS = """images are turned upright and cut to the middle part that has the proportions of the model's input
(--resize stretch: not cut), resized by Pillow's bilinear filter, turned into grey or RGB as the model needs it, and
scaled from 0..255 to 0..1 (--scale). Models that take any size get the image's own. Arrays (.npy, or .npz with one
array or one named x) are one sample or several; they are fed as they are unless --scale, --mean, --std or --preprocess
is given. Models with several inputs take .npz files with an array for each, by its name."""

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


_TEXT = """examples:
  innv-ext text reviews.keras "a fine film" --analyzer lrp.epsilon
  innv-ext text reviews.keras "a fine film" "boring" --analyzer lrp.epsilon --target 1 --output films.png
  innv-ext text gpt2.keras "to be or" --analyzer input_t_gradient --target " not" --module hub.py --output next.html
  innv-ext text gpt2.keras "to be or" --completion " not to be" --analyzer gradient --module hub.py --output all.png

the model takes strings, by a TextVectorization layer, or is a task of keras-hub with its preprocessor. For those
--module names a file in which "import keras_hub" stands. For models that tell the next token --target is a token."""


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
    general, model = _general(), _model()
    samples = [model, _inputs(), general]
    text = "a picture per image of what mattered in it"
    _add_explain(commands.add_parser("explain", help=text, parents=samples, epilog=_EXPLAIN))
    text = "several analyzers side by side, with metrics"
    _add_compare(commands.add_parser("compare", help=text, parents=samples, epilog=_COMPARE))
    add = commands.add_parser("list", help="the analyzers", parents=[general], epilog=_LIST).add_argument
    add("--family", metavar="F", help="only those of a family: lrp, gradient, rde ...")
    add("--json", action="store_true", help="everything that is known about them, as JSON")
    add("--module", type=Path, metavar="FILE.py", help="run this first: it registers analyzers")
    text = "which rule each node of a model gets"
    _add_analyzer(commands.add_parser("summary", help=text, parents=[model, general], epilog=_SUMMARY))
    text = "the relevance of every token of a text"
    _add_text(commands.add_parser("text", help=text, parents=[model, general], epilog=_TEXT))
    return parser


def _add_text(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("texts", nargs="+", metavar="TEXT", help="texts, which are explained as one batch")
    _add_analyzer(parser)
    add("--target", type=values.neuron, metavar="N|LABEL|TOKEN", help="output to explain (default: the largest)")
    add("--labels", type=Path, metavar="FILE", help="names of the outputs: one a line, or JSON")
    add("--position", type=int, metavar="N", help="of models with an output a token: which token (default: the last)")
    after = "what follows the text: all its tokens are explained; repeated for several texts"
    add("--completion", action="append", metavar="TEXT", help=after)
    add("--words", action="store_true", help="sum the parts of words")
    add("--fit", type=Path, metavar="FILE.txt", help="texts, one a line, for analyzers that learn")
    add("--output", type=Path, metavar="FILE", help=".html, .png, .pdf, .svg or .jpg (default: numbers as text)")


def _add_params(parser: argparse.ArgumentParser, metavar: str, text: str) -> None:
    text = f"{text}; may be repeated"
    parser.add_argument("--param", action="append", default=[], type=values.param, metavar=metavar, help=text)


def _add_analyzer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--analyzer", required=True, metavar="NAME", help="one of `innv-ext list`")
    _add_params(parser, "KEY=VALUE", "parameter of the analyzer, also batch_size, seed, output, on ...")


def _add_explain(parser: argparse.ArgumentParser) -> None:
    _add_analyzer(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    modes = "heatmap (default), graymap, scale_input, mask_input, blend or back_project"
    add("--mode", default="heatmap", metavar="MODE", help=modes)
    add("--npz", action="store_true", help="also write input, map, output and score as NAME.npz")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--analyzers", required=True, type=values.names, metavar="A,B,C", help="names of `innv-ext list`")
    _add_params(parser, "NAME:KEY=VALUE", "parameter of one of the analyzers")
    metrics = "names of list_metrics() in Python (default: a usual set)"
    add("--metrics", type=values.names, metavar="A,B,C", help=metrics)
    add("--output", type=values.neuron, metavar="N|NAME", help="output of a model with several")
    add("--report", type=Path, metavar="FILE.html", help="write everything into one page")
    add("--out", type=Path, metavar="DIR", help="folder for pictures, table and numbers")
    add("--batch-size", type=int, default=32, metavar="N", help="samples at once (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of all that is random (default: %(default)s)")


def _general() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False)
    parser.add_argument("--quiet", action="store_true", help="write nothing but errors and what was asked for")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _model() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model file, .keras or .h5")
    add("--module", type=Path, metavar="FILE.py", help="run this first: it defines custom layers")
    add("--unsafe", action="store_true", help="also load Lambda layers, which run code from the model file")
    return parser


def _inputs() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False)
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="image files, .npy or .npz")
    neuron = "output to explain (default: the largest of each image)"
    add("--neuron", type=values.neuron, metavar="N|LABEL", help=neuron)
    labels = "names of the outputs: one a line, a JSON list or {number: name}"
    add("--labels", type=Path, metavar="FILE", help=labels)
    data = "training data of analyzers that need some; read like images"
    add("--fit", type=Path, metavar="FOLDER|X.npz", help=data)
    add = parser.add_argument_group("preprocessing").add_argument
    add("--scale", type=values.scale, metavar="LOW,HIGH", help="what 0 and 255 become (default: 0,1)")
    add("--mean", type=values.numbers, metavar="M,...", help="subtracted after scaling, per channel")
    add("--std", type=values.positives, metavar="S,...", help="divided by after that, per channel")
    function = "a function preprocess(images) that gets (n, height, width, channels) of 0..255"
    add("--preprocess", metavar="WHAT", help=f"instead: keras.applications.NAME, or FILE.py with {function}")
    add("--resize", choices=("crop", "stretch"), default="crop", help="keep proportions or all of the image")
    return parser
