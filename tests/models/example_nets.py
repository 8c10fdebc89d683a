"""The list of example models: tiny versions of the architectures of Keras' code examples.

The builders are in the modules ``example_*``; ``make(name)`` builds one with random weights, the same in every run.
"""

import functools
import importlib
import random
import zlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import zoo

MODULES = "images restoration pairs attention text series tables graphs generative special".split()
EXAMPLES = {}


@dataclass(frozen=True, eq=False)
class Example:
    """A model, a function that draws n inputs for it, and facts about it.

    relu : "all" (ReLUs, leaky ones too, and otherwise affine nodes and maxima only), "some", or "none"
    final : "none", "softmax" or "sigmoid": what stands behind the scores
    index : the explained neuron, a tuple for outputs of rank > 2; the last number must not be 0 behind a softmax
    output : name or position, for models with several outputs
    smooth : differentiable everywhere, so that integrated gradients converge fast
    maps : has feature maps in front of which positions are kept, for Grad-CAM
    noise : inputs can be mixed with noise (no tokens), for rate distortion
    coupled : samples see each other
    padded : token 0 is masked, so that it is no reference
    linear : piecewise linear, and 0 where all activations are: LRP-0 is x times gradient
    stepped : jumps (a code of a codebook, an expert), over which no method adds up
    masks : positions of inputs that say what counts, and are not explained
    random : whether weights are replaced by random ones after building
    first : the channels of an input are its first axis
    """

    name: str
    build: Any
    draw: Any
    relu: str = "none"
    final: str = "none"
    index: Any = 1
    output: Any = None
    smooth: bool = False
    maps: bool = False
    noise: bool = True
    coupled: bool = False
    padded: bool = False
    linear: bool = False
    stepped: bool = False
    masks: tuple = ()
    random: bool = True
    first: bool = False

    def inputs(self, n=3, seed=0):
        """n samples in the structure that the model takes."""
        found = self.draw(np.random.default_rng((seed, zlib.crc32(self.name.encode()))), n)
        return keras.tree.map_structure(lambda a: a.astype("float32") if a.dtype.kind == "f" else a, found)


def example(draw, **facts):
    """Add a builder to the list."""

    def add(builder):
        EXAMPLES[builder.__name__] = Example(builder.__name__, builder, draw, **facts)
        return builder

    return add


def uniform(*shapes):
    """Values in (-1, 1): one array, or a list for several shapes."""

    def draw(rng, n):
        found = [rng.uniform(-1, 1, (n, *s)) for s in shapes]
        return found[0] if len(found) == 1 else found

    return draw


def pixels(*shape):
    """Grey values 0..255 as floats."""
    return lambda rng, n: rng.uniform(0, 255, (n, *shape))


def token_numbers(length, vocabulary, padded=False):
    """Token numbers from 1; with ``padded`` rows end in 0, 1, 2 ... zeros."""

    def draw(rng, n):
        x = rng.integers(1, vocabulary, (n, length)).astype("int32")
        for i in range(n if padded else 0):
            x[i, length - i % 3 :] = 0
        return x

    return draw


def several(*draws):
    """A list of inputs, or a dict."""
    return lambda rng, n: [draw(rng, n) for draw in draws]


def called(net, *shapes, dtype="float32"):
    """A subclassed model after its first call, which builds it."""
    xs = [np.zeros((2, *s), dtype) for s in shapes]
    net(xs[0] if len(xs) == 1 else xs)
    return net


@functools.cache
def listed():
    """The names of all example models."""
    for module in MODULES:
        importlib.import_module(f"example_{module}")
    return list(EXAMPLES)


def make(name):
    """(example, model) with random weights."""
    listed()
    one = EXAMPLES[name]
    random.seed(0)  # from which Keras draws seeds; its own function would empty TensorFlow's cache of kernels
    model = one.build()
    return one, zoo.randomise(model, zlib.crc32(name.encode()), bias=0.1) if one.random else model
