"""Shared set-up: quiet TensorFlow, importable helpers (zoo, twins), no leftovers between tests."""

import gc
import io
import os
import random
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # on some CPUs off by default: channels_first is not possible then
sys.path.insert(0, str(Path(__file__).parent))

import keras
import numpy as np
import pytest
import tensorflow as tf

from innv_ext import files
from innv_ext.backend.numerics import Compiled

# A trace is run a few times here, which does not pay for its optimisation.
keras.utils.set_random_seed(0)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


class _Tracing:
    """A trace costs as much as five calls step by step: a function is traced when it is called for the fifth time.

    Tests with the mark ``traced`` trace at once, as users do: those of the contract, where every analyzer is shown to
    give the same maps either way, and those that count traces.
    """

    after = 4
    now = False
    build, call = Compiled.__init__, Compiled.__call__


def _build(self, fn, specs, jit_compile):
    _Tracing.build(self, fn, specs, jit_compile)
    self.steps, self.plain = (float("inf") if jit_compile else 0), fn


def _call(self, *args):
    if _Tracing.now or self.steps >= _Tracing.after:
        return _Tracing.call(self, *args)
    self.steps += 1
    return self.plain(*(tf.convert_to_tensor(a, d) for a, d in zip(args, self._dtypes, strict=True)))


Compiled.__init__, Compiled.__call__ = _build, _call


def pytest_configure(config):
    if not keras.layers.LSTM(1, name="any").supports_masking:  # newer Keras: they use a mask, and say that they drop it
        own = "RNN|SimpleRNN|GRU|LSTM|ConvLSTM.D|Bidirectional|TimeDistributed"
        config.addinivalue_line("filterwarnings", f"ignore:Layer .*of type ({own}). was passed an input with a mask")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before the fixtures of a module are made."""
    _Tracing.now = item.get_closest_marker("traced") is not None


def pytest_collection_finish():
    """What was imported stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def traced_late(monkeypatch):
    """As if the test had no mark ``traced``."""
    monkeypatch.setattr(_Tracing, "now", False)


@pytest.fixture
def step_by_step(monkeypatch):
    """Nothing is traced, even in a test with the mark ``traced``."""
    monkeypatch.setattr(_Tracing, "now", False)
    monkeypatch.setattr(_Tracing, "after", float("inf"))


@pytest.fixture(autouse=True)
def _seeded():
    """Equal weights in every run, whatever the order of the tests.

    Initialisers of Keras draw their seeds from ``random``. TensorFlow's own seed is set once, because setting it throws
    away the kernels of all operations.
    """
    random.seed(0)
    np.random.seed(0)


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """What progress writes, on a terminal and at once."""
    stream, console = _Terminal(), files.BARS.console
    for owner, name, value in ((files, "DELAY", 0), (files, "PAUSE", 0), (console, "is_interactive", True),
                               (console, "width", 160), (console, "file", stream)):
        monkeypatch.setattr(owner, name, value)
    return stream
