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
from innv_ext import list_analyzers, list_metrics
from innv_ext.cli import names
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


WRONG = {
    "model": ("explain none.keras photo.png --analyzer gradient --out o", "MODEL: there is no file none.keras"),
    "folder": ("summary saved --analyzer gradient", "saved is a folder with a TensorFlow SavedModel"),
    "no model": ("summary photo.png --analyzer gradient", "neither a .keras archive nor an HDF5 file"),
    "half a model": ("summary cut.keras --analyzer gradient", "cut.keras cannot be loaded as a Keras model: the arc"),
    "weights": ("summary a.weights.h5 --analyzer gradient", "a.weights.h5 holds weights alone: build the model"),
    "analyzer": ("explain net.keras photo.png --analyzer gradiant --out o", "Did you mean 'gradient'"),
    "analyzers": ("compare net.keras photo.png --analyzers lrp.z,lrp.y", "no analyzer 'lrp.y'. Did you mean 'lrp.z'"),
    "metric": ("compare net.keras photo.png --analyzers lrp.z --metrics ginny", "no metric 'ginny'. Did you mean 'gi"),
    "image": ("explain net.keras none.png --analyzer gradient --out o", "IMAGE: there is no file none.png"),
    "no image": ("explain net.keras labels.txt --analyzer gradient --out o", "labels.txt: cannot be read as an image"),
    "no array": ("explain net.keras bad.npy --analyzer gradient --out o", "bad.npy: cannot be read as arrays"),
    "labels": ("explain net.keras photo.png --analyzer gradient --out o --labels no.txt", "--labels: there is no file"),
    "fit": ("compare net.keras photo.png --analyzers lrp.z --fit nowhere", "--fit: there is no file or folder nowhere"),
    "out": ("explain net.keras photo.png --analyzer gradient --out labels.txt/o", "--out"),
    "report": ("compare net.keras photo.png --analyzers lrp.z --report .", "--report: . is a folder"),
    "page": ("text net.keras a --analyzer lrp.z --output a.txt", "--output: the suffix must be one of '.html'"),
    "target": ("text net.keras a --analyzer lrp.z --target fox --labels labels.txt", "--target must be one of 'cat'"),
    "completion": ("text net.keras a b --analyzer lrp.z --completion c", "--completion: one is needed for each TEXT"),
    "learning": ("text net.keras a --analyzer lrp.z --fit nowhere", "--fit: there is no file or folder nowhere"),
}  # fmt: skip


def test_what_is_wrong_at_first_sight_does_not_wait_for_tensorflow(files, tmp_path):
    """All in one process: nothing but the check runs, and nothing is left behind."""
    (tmp_path / "saved").mkdir()
    for name in ("saved/saved_model.pb", "a.weights.h5", "bad.npy"):
        (tmp_path / name).write_bytes(b"nothing")
    for name in ("net.keras", "cut.keras", "photo.png", "labels.txt"):
        os.link(files / name, tmp_path / name)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    code = (
        "import sys; from innv_ext.cli import main; lines = sys.stdin.read().splitlines(); "
        "print([main(line.split()) for line in lines], {'tensorflow', 'keras'} & set(sys.modules))"
    )
    lines = "\n".join(line for line, _ in WRONG.values())
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, input=lines, capture_output=True, text=True, check=True)
    assert done.stdout == f"{[2] * len(WRONG)} set()\n"
    for told, (line, text) in zip(done.stderr.splitlines(), WRONG.values(), strict=True):
        assert told.startswith("innv-ext: error: ") and text in told, line
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_names_are_those_of_the_library():
    assert sorted(names.ANALYZERS) == sorted(row.name for row in list_analyzers() if row.family != "user")
    assert sorted(names.METRICS) == sorted(metric.name for metric in list_metrics())


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
