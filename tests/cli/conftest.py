"""Small models, images and arrays on disk, and the command line in this process."""

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from innv_ext.cli import main


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder with models, images and arrays."""
    root = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    head = [layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    net = keras.Sequential([keras.Input((12, 16, 3)), layers.Conv2D(4, 3, activation="relu"), *head])
    net.save(root / "net.keras")
    net.save(root / "net.h5")
    (root / "cut.keras").write_bytes((root / "net.keras").read_bytes()[:2000])
    keras.Sequential([keras.Input((5,)), layers.Dense(2, activation="tanh")]).save(root / "table.keras")
    keras.Sequential([keras.Input((9, 2)), layers.Flatten(), layers.Dense(1)]).save(root / "signal.keras")
    keras.Sequential([keras.Input((3, 4, 5, 1)), layers.Flatten(), layers.Dense(2)]).save(root / "volume.keras")
    i = keras.Input((6,), dtype="int32")
    keras.Model(i, layers.Dense(2)(layers.Flatten()(layers.Embedding(7, 3)(i)))).save(root / "tokens.keras")
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 20 * 30).reshape(20, 30)
    Image.fromarray(np.stack([ramp, 255 - ramp, np.roll(ramp, 7)], -1).astype("uint8")).save(root / "photo.png")
    Image.fromarray(rng.integers(0, 256, (40, 25), dtype="uint8")).save(root / "grey.png")
    whole = (root / "photo.png").read_bytes()
    (root / "torn.png").write_bytes(whole[: len(whole) // 2])
    (root / "labels.txt").write_text("cat\ndog\ntabby\n")
    np.savez(root / "x.npz", x=rng.random((3, 12, 16, 3)).astype("float32"), y=np.arange(3))
    return root


@pytest.fixture
def run(files, tmp_path, capsys, monkeypatch):
    """``run("list --json")`` gives (exit code, standard output, standard error); {out} is a fresh folder's path."""
    monkeypatch.chdir(files)

    def call(line):
        capsys.readouterr()
        code = main([word.format(out=tmp_path / "out", tmp=tmp_path) for word in line.split()])
        return code, *capsys.readouterr()

    return call
