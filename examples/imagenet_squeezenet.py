"""Explain what SqueezeNet v1.0 sees in photos, with many analyzers side by side.

    python examples/imagenet_squeezenet.py --weights squeezenet.npz --labels imagenet_labels.txt --photos cat.jpg

The weights are an .npz archive with the arrays ``<layer>_kernel`` (h, w, in, out) and ``<layer>_bias`` of conv1,
fire2_squeeze, fire2_expand1, fire2_expand3, ..., fire9_expand3 and conv10; the labels are 1000 lines of text. Without
--photos it explains sample photos that come inside scikit-image. ImageNet has no class for some of them (people,
motorcycles); the maps show what the network looks at all the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _common  # first: it loads TensorFlow quietly
import keras
import numpy as np
from keras import layers
from PIL import Image
from skimage import color, data, transform

from innv_ext import list_analyzers
from innv_ext.visualization import imshow_grid

SIZE = 227
MEAN = np.array([104, 117, 123], "float32")  # of the channels blue, green, red
BOUNDS = {"low": 0 - MEAN, "high": 255 - MEAN}  # what preprocessed pixels can be
ANALYZERS = (
    "gradient",
    "smoothgrad",
    "input_t_gradient",
    "integrated_gradients",
    "guided_backprop",
    "lrp.alpha_2_beta_1",
    "lrp.epsilon_gamma_box",
    "deep_taylor.bounded",
    "lrp.sequential_preset_a_flat",
    "lrp.sequential_preset_b_flat",
)
SAMPLES = {
    "chelsea": data.chelsea,
    "coffee": data.coffee,
    "camera": data.camera,
    "motorcycle": lambda: data.stereo_motorcycle()[0],
    "rocket": data.rocket,
    "astronaut": data.astronaut,
}


def build_model() -> keras.Model:
    """SqueezeNet v1.0 (Iandola et al. 2016) without weights."""

    def convolution(x: keras.KerasTensor, name: str, filters: int, size: int, **options: object) -> keras.KerasTensor:
        return layers.Conv2D(filters, size, activation="relu", name=name, **options)(x)

    inputs = x = keras.Input((SIZE, SIZE, 3))
    x = convolution(x, "conv1", 96, 7, strides=2)
    x = layers.MaxPooling2D(3, 2)(x)
    for i, squeeze in zip(range(2, 10), (16, 16, 32, 32, 48, 48, 64, 64), strict=True):
        x = convolution(x, f"fire{i}_squeeze", squeeze, 1)
        narrow = convolution(x, f"fire{i}_expand1", 4 * squeeze, 1)
        wide = convolution(x, f"fire{i}_expand3", 4 * squeeze, 3, padding="same")
        x = layers.Concatenate()([narrow, wide])
        if i in (4, 8):
            x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Dropout(0.5)(x)
    x = layers.ZeroPadding2D(1)(x)
    x = convolution(x, "conv10", 1000, 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Softmax()(x), name="squeezenet")


def load_weights(model: keras.Model, path: Path) -> None:
    """Set the weights by name; every array of the file must be used, every layer found, every shape right."""
    with np.load(path) as archive:
        arrays = dict(archive)
    for layer in model.layers:
        for weight in layer.weights:
            name = f"{layer.name}_{weight.name}"
            if name not in arrays:
                raise ValueError(f"{path} has no array {name!r}.")
            if arrays[name].shape != weight.shape:
                raise ValueError(f"{name!r} in {path} has shape {arrays[name].shape}, expected {tuple(weight.shape)}.")
            weight.assign(arrays.pop(name))
    if arrays:
        raise ValueError(f"{path} has arrays that SqueezeNet does not use: {', '.join(arrays)}.")


def square(photo: np.ndarray) -> np.ndarray:
    """The central square of a grey or RGB photo as 227 x 227 RGB, uint8."""
    if photo.ndim == 2:
        photo = color.gray2rgb(photo)
    side = min(photo.shape[:2])
    top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
    cut = photo[top : top + side, left : left + side]
    return np.rint(255 * transform.resize(cut, (SIZE, SIZE), anti_aliasing=True)).astype("uint8")


def preprocess(photos: np.ndarray) -> np.ndarray:
    """RGB 0..255 to what the network was trained on: BGR minus the mean."""
    return photos[..., ::-1] - MEAN


def usable_analyzers() -> dict[str, dict[str, np.ndarray]]:
    """Names and parameters of the analyzers that need neither training data nor parameters, except for the bounds."""
    found = {}
    for info in list_analyzers():
        needed = set(info.required())
        if not info.needs_fit and needed <= BOUNDS.keys():
            found[info.name] = {name: BOUNDS[name] for name in needed}
    return found


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="SqueezeNet's weights, .npz")
    parser.add_argument("--labels", type=Path, required=True, help="names of the classes, one a line")
    parser.add_argument(
        "--out", type=Path, default=Path("out/imagenet.png"), help="picture to write (default: %(default)s)"
    )
    parser.add_argument(
        "--photos", type=Path, nargs="+", metavar="FILE", help="photos to explain instead of the samples"
    )
    parser.add_argument("--analyzers", default=",".join(ANALYZERS), help="separated by commas (default: %(default)s)")
    arguments = parser.parse_args()
    for path in [arguments.weights, arguments.labels, *(arguments.photos or ())]:
        if not path.is_file():
            parser.error(f"there is no file {path}")
    usable = usable_analyzers()
    names = arguments.analyzers.split(",")
    if unknown := [name for name in names if name not in usable]:
        parser.error(f"no such analyzer, or one that needs more: {', '.join(unknown)}. Choose from {', '.join(usable)}")
    arguments.analyzers = {name: usable[name] for name in names}
    return arguments


def main() -> None:
    """Load the network, classify the photos, explain, print and draw."""
    arguments = parse_arguments()
    model = build_model()
    load_weights(model, arguments.weights)
    class_names = arguments.labels.read_text(encoding="utf-8").splitlines()
    if len(class_names) != 1000:
        raise ValueError(f"{arguments.labels} has {len(class_names)} lines, expected 1000.")

    if arguments.photos:
        names = [path.name for path in arguments.photos]
        photos = [np.asarray(Image.open(path).convert("RGB")) for path in arguments.photos]
    else:
        names, photos = list(SAMPLES), [read() for read in SAMPLES.values()]
    pictures = np.stack([square(photo) for photo in photos])
    x = preprocess(pictures)
    probabilities = model.predict(x, verbose=0)
    for name, row in zip(names, probabilities, strict=True):
        best = np.argsort(-row)[:3]
        print(f"{name}: {', '.join(f'{class_names[i]} {row[i]:.2f}' for i in best)}")

    print(f"\nExplaining {len(x)} photos for their first prediction ...\n")
    results = _common.run_analyzers(model, x, arguments.analyzers)
    print(_common.table(results))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    imshow_grid(
        pictures,
        {title: found.relevance for title, found in results.items()},
        predictions=probabilities.argmax(axis=1),
        probabilities=probabilities.max(axis=1),
        scores=next(iter(results.values())).scores,
        class_names=class_names,
        percentile=99.5,  # of 51,529 pixels few are large: scaled to the maximum the maps would be white
        cell=SIZE / 200,  # one dot per pixel at imshow_grid's 200 dots per inch
        path=arguments.out,
    )
    print(f"\nWrote {arguments.out}.")


if __name__ == "__main__":
    main()
