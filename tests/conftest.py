"""Shared set-up: quiet TensorFlow, importable helpers (zoo, twins), no leftovers between tests."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
sys.path.insert(0, str(Path(__file__).parent))

import keras
import pytest


@pytest.fixture(autouse=True)
def _seeded():
    """Equal weights in every run, whatever the order of the tests."""
    keras.utils.set_random_seed(0)
