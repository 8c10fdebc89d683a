"""Shared set-up: quiet TensorFlow, importable helpers (zoo, twins), no leftovers between tests."""

import io
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
sys.path.insert(0, str(Path(__file__).parent))

import keras
import pytest

from innv_ext import files


@pytest.fixture(autouse=True)
def _seeded():
    """Equal weights in every run, whatever the order of the tests."""
    keras.utils.set_random_seed(0)


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
