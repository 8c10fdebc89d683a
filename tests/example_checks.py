"""What the tests of the examples share: running one as a user does, and looking at what it wrote."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

ROOT = Path(__file__).resolve().parents[1]


def run(script, *arguments, cwd, code=0):
    """Run an example without the settings that the tests make for themselves."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TF_CPP", "KERAS_", "PYTEST"))}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    done = subprocess.run(command, check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def main_of(example, *arguments, cwd, monkeypatch, capfd):
    """What an example prints when it is called in this process, where a test may have shortened its lists."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr("sys.argv", [f"{example.__name__}.py", *map(str, arguments)])
    example.main()
    out, errors = capfd.readouterr()
    noise = ("it/s", "s/it", "tf.function retracing")  # bars, and what TensorFlow says of many networks in one process
    assert not [line for line in errors.splitlines() if line.strip() and not any(word in line for word in noise)]
    return out


def check_picture(path, cells, longest):
    """Large enough for (rows, columns) of pictures, with many colours, red and blue ones among them."""
    red, green, blue = (np.rint(imread(path)[..., i] * 255).astype(int) for i in range(3))
    height, width = red.shape
    assert cells[0] * 100 < height < longest
    assert cells[1] * 100 < width < longest
    assert len(np.unique((red * 256 + green) * 256 + blue)) > 100
    assert np.mean((red > 200) & (green < 100) & (blue < 100)) > 0.005
    assert np.mean((blue > 200) & (green < 100) & (red < 100)) > 0.0005


def markdown_rows(text):
    """The cells of a markdown table, without its header."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def pixels(picture, colour):
    """How many pixels have this colour, about."""
    return (np.abs(picture - np.array(to_rgb(colour)) * 255) < 20).all(axis=2).sum()
