"""The command line as a shell user has it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
from cli_pictures import pictures, pixels

import innv_ext
from innv_ext.visualization import imshow_grid

ROOT = Path(innv_ext.__file__).parent.parent
NAMES = ["cat", "dog", "tabby"]


def shell(*words, **options):
    """Run ``python -m innv_ext`` as a user does, without the settings of the tests."""
    env = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND")}
    path = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "innv_ext", *map(str, words)]
    env["PYTHONPATH"] = path
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, **options)


def test_explain_from_the_shell(files, tmp_path):
    """The maps are those of the library, the pictures those of imshow_grid; nothing but the results is written."""
    done = shell(
        "explain", "net.keras", "photo.png", "grey.png", "--analyzer", "lrp.epsilon", "--param", "epsilon=0.1",
        "--scale", "-1,1", "--neuron", "TABBY", "--labels", "labels.txt", "--npz", "--out", tmp_path / "a" / "b",
        cwd=files,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    shown = pictures(files)
    x = shown.astype("float32") * (2 / 255) - 1
    model = keras.models.load_model(files / "net.keras")
    found = innv_ext.create_analyzer("lrp.epsilon", model, epsilon=0.1).explain(x, 2)
    predicted = [NAMES[i] for i in found.output.argmax(axis=1)]
    for i, name in enumerate(("photo", "grey")):
        stem = tmp_path / "a" / "b" / f"{name}_lrp.epsilon"
        with np.load(f"{stem}.npz") as arrays:
            np.testing.assert_allclose(arrays["x"], x[i], atol=1e-6)
            np.testing.assert_allclose(arrays["relevance"], found.attribution[i], atol=1e-5)
            np.testing.assert_allclose(arrays["output"], found.output[i], atol=1e-5)
            assert arrays["target"] == 2 and arrays["score"] == arrays["output"][2]
            maps, score = arrays["relevance"], float(arrays["score"])
        texts = {"predictions": [predicted[i]], "neurons": ["tabby"], "scores": [score]}
        imshow_grid(shown[i][None], {"lrp.epsilon": maps[None]}, **texts, cell=1.6, path=tmp_path / "own.png")
        np.testing.assert_array_equal(pixels(f"{stem}.png"), pixels(tmp_path / "own.png"))
        assert f"{stem}.png: pred: {predicted[i]}, neuron: tabby, score: {score:.4g}\n" in done.stdout
    assert len(list((tmp_path / "a" / "b").iterdir())) == 4 and len(done.stdout.splitlines()) == 2


def test_help_does_not_wait_for_tensorflow():
    code = (
        "import sys; from innv_ext.cli import main; codes = [main(a) for a in (['--help'], ['explain', '--help'], "
        "['--version'], ['explain'])]; heavy = sorted({'tensorflow', 'keras', 'numpy'} & set(sys.modules)); "
        "sys.stderr.write(repr([codes, heavy]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[[0, 0, 0, 2], []]"
    assert done.stdout.endswith(f"innv-ext {innv_ext.__version__}\n") and "examples:" in done.stdout


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}  # else argparse itself meets the closed pipe
    command = [sys.executable, "-m", "innv_ext", "--help"]
    with os.fdopen(writing, "w") as out:
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_command_is_installed_under_its_name():
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r'\[project\.scripts\]\ninnv-ext = "innv_ext\.cli:main"\n', declared)
