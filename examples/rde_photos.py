"""Rate-Distortion Explanations of photos: SqueezeNet v1.0, 227 x 227 pixels, 154,587 components.

    python examples/rde_photos.py --weights squeezenet.npz --labels imagenet_labels.txt [--photos cat.jpg]

The files are those of imagenet_squeezenet.py. mr_rde averages maps for --rates rates, up to a third of all components.
ord_rde orders all components at once, on as many rates, up to all components. Macdonald, Besançon and Pokutta (2022)
call this infeasible at such a size, because their matrix would have 154,587 x 154,587 entries; innv_ext keeps one
column per rate instead.

Components that aren't kept are replaced by Gaussian noise. Its mean and variance should be those of the training images
at each component; here there are only a few photos, so it has the mean and variance of each colour channel over all
pixels of all photos (scikit-image's samples, or --photos).

Some minutes per photo. To shrink it: fewer --iterations or --rates, or --features pixel (a third of the components, one
for the three channels of a pixel). The picture shows, per photo, mr_rde and ord_rde as orderings, from the least (blue)
to the most relevant (yellow), some of mr_rde's maps for a single rate (k components kept), and the gradient for
comparison.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import _common  # first: it loads TensorFlow quietly
import imagenet_squeezenet as squeezenet
import keras
import numpy as np
from PIL import Image

import innv_ext
from innv_ext.visualization import imshow_grid

LARGEST = 1 / 3  # share of the components that mr_rde keeps at most; the paper's rates for photos end there, too
SINGLE = 3  # maps for a single rate that are shown
SAMPLES = ("chelsea", "coffee")  # explained without --photos


def read_photos(paths: list[Path] | None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names and pictures of the photos to explain, and all pictures from which the noise is learnt."""
    if paths:
        names = [path.name for path in paths]
        pictures = np.stack([squeezenet.square(np.asarray(Image.open(path).convert("RGB"))) for path in paths])
        return names, pictures, pictures
    pictures = {name: squeezenet.square(read()) for name, read in squeezenet.SAMPLES.items()}
    return list(SAMPLES), np.stack([pictures[name] for name in SAMPLES]), np.stack(list(pictures.values()))


def peak_memory() -> float:
    """Most memory this process had so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def shares(count: int) -> tuple[float, ...]:
    """Evenly spaced rates of mr_rde."""
    return tuple(LARGEST * (i + 1) / count for i in range(count))


def explain(
    model: keras.Model, x: np.ndarray, reference: dict[str, np.ndarray], arguments: argparse.Namespace
) -> dict[str, np.ndarray]:
    """All maps, one photo after the other, with seconds and memory."""
    options = {"max_iter": arguments.iterations, "features": arguments.features, "batch_size": arguments.batch_size}
    analyzers = {
        name: innv_ext.create_analyzer(name, model, rates=rates, **options, **reference)
        for name, rates in (("mr_rde", shares(arguments.rates)), ("ord_rde", arguments.rates))
    }
    maps = {name: np.empty_like(x) for name in analyzers}
    for name, analyzer in analyzers.items():
        for i in range(len(x)):
            start = time.perf_counter()
            found = analyzer.explain(x[i : i + 1])
            seconds = time.perf_counter() - start
            maps[name][i] = found.attribution[0]
            print(
                f"{name}, photo {i + 1}: {seconds:.0f} s, mean distortion {found.extras['objective'].mean():.4g}, "
                f"peak memory {peak_memory():.1f} GiB",
                flush=True,
            )
            if name == "mr_rde":
                single = np.reshape(found.extras["single_rate"], (-1, *x.shape[1:]))
                for j in np.unique(np.linspace(0, len(single) - 1, SINGLE).astype(int)):
                    title = f"k = {found.extras['rates'][0, j]:,}"
                    maps.setdefault(title, np.empty_like(x))[i] = single[j]
    maps["gradient"] = innv_ext.create_analyzer("gradient", model).analyze(x)
    return maps


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="SqueezeNet's weights, .npz")
    parser.add_argument("--labels", type=Path, required=True, help="names of the classes, one a line")
    parser.add_argument(
        "--out", type=Path, default=Path("out/rde_photos.png"), help="picture to write (default: %(default)s)"
    )
    parser.add_argument("--photos", type=Path, nargs="+", metavar="FILE", help="photos instead of two samples")
    for name, default, text in (
        ("rates", 16, "rates of mr_rde and of ord_rde"),
        ("iterations", 20, "of the solvers"),
        ("batch-size", 8, "most photos in one forward pass: more need more memory"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)")
    parser.add_argument(
        "--features",
        choices=("component", "pixel"),
        default="component",
        help="what is kept as one (default: %(default)s)",
    )
    arguments = parser.parse_args()
    for path in [arguments.weights, arguments.labels, *(arguments.photos or ())]:
        if not path.is_file():
            parser.error(f"there is no file {path}")
    for name in ("rates", "iterations", "batch_size"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return arguments


def main() -> None:
    """Load the network, classify the photos, explain, print and draw."""
    arguments = parse_arguments()
    model = squeezenet.build_model()
    squeezenet.load_weights(model, arguments.weights)
    class_names = arguments.labels.read_text(encoding="utf-8").splitlines()
    if len(class_names) != 1000:
        raise ValueError(f"{arguments.labels} has {len(class_names)} lines, expected 1000.")

    names, pictures, everything = read_photos(arguments.photos)
    x, pixels = squeezenet.preprocess(pictures), squeezenet.preprocess(everything)
    reference = {"mean": pixels.mean(axis=(0, 1, 2)), "variance": pixels.var(axis=(0, 1, 2), dtype="float64")}
    probabilities = model.predict(x, verbose=0)
    for i, (name, row) in enumerate(zip(names, probabilities, strict=True)):
        print(f"photo {i + 1}: {name}, {class_names[row.argmax()]} {row.max():.2f}")
    print(
        f"\nExplaining {len(x)} photos for their first prediction: {arguments.rates} rates, {arguments.iterations} "
        f"iterations, {x[0].size if arguments.features == 'component' else x[0, ..., 0].size:,} features ...\n",
        flush=True,
    )
    maps = explain(model, x, reference, arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    imshow_grid(
        pictures,
        maps,
        predictions=probabilities.argmax(axis=1),
        probabilities=probabilities.max(axis=1),
        class_names=class_names,
        modes=dict.fromkeys(("mr_rde", "ord_rde"), _common.ordering),
        reduce="mean",
        percentile=99.5,  # of 51,529 pixels few have large gradients: scaled to the maximum the map would be white
        cell=squeezenet.SIZE / 200,  # one dot per pixel at imshow_grid's 200 dots per inch
        path=arguments.out,
    )
    print(f"\nWrote {arguments.out}.")


if __name__ == "__main__":
    main()
