"""Make the pictures of these pages, one PNG per family of methods: ``make pictures``, or ``python docs/pictures.py``.

They are committed, so that building the pages trains nothing. The network and the digits are those of
examples/digits.py; a network that ``make demo`` has saved is used again. Some pictures are those of other examples.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))

import _common  # first: it loads TensorFlow quietly
import digits
import keras
import numpy as np
from PIL import Image

import innv_ext
from innv_ext.evaluation import perturbation_analysis
from innv_ext.visualization import imshow_grid

for warning in (innv_ext.errors.ConvergenceWarning, innv_ext.errors.DeadNeuronWarning):
    warnings.simplefilter("ignore", warning)  # the pages say when they occur

BOX = {"low": 0, "high": 1}
QUIET = {"progress": False}

FAMILIES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {  # page -> {header: (analyzer, parameters)}
    "gradients": {
        "gradient": ("gradient", {}),
        "input_t_gradient": ("input_t_gradient", {}),
        "smoothgrad": ("smoothgrad", {}),
        "integrated_gradients": ("integrated_gradients", {}),
        "deconvnet": ("deconvnet", {}),
        "guided_backprop": ("guided_backprop", {}),
    },
    "lrp": {
        "lrp.epsilon 0.1": ("lrp.epsilon", {"epsilon": 0.1}),
        "lrp.alpha_2_beta_1": ("lrp.alpha_2_beta_1", {}),
        "lrp.gamma": ("lrp.gamma", {}),
        "lrp.flat": ("lrp.flat", {}),
        "lrp.epsilon_plus": ("lrp.epsilon_plus", {}),
        "lrp.sequential_preset_a_flat": ("lrp.sequential_preset_a_flat", {}),
        "lrp.epsilon_gamma_box": ("lrp.epsilon_gamma_box", BOX),
    },
    "deep_taylor": {
        "deep_taylor": ("deep_taylor", {}),
        "deep_taylor.bounded": ("deep_taylor.bounded", BOX),
    },
    "patterns": {
        "gradient": ("gradient", {}),
        "pattern.net": ("pattern.net", {}),
        "pattern.attribution": ("pattern.attribution", {}),
    },
    "deep_lift": {
        "deep_lift": ("deep_lift", {}),
        "deep_lift, reveal_cancel": ("deep_lift", {"rule": "reveal_cancel"}),
        "deep_shap": ("deep_shap", {}),
        "gradient_shap": ("gradient_shap", {}),
    },
    "prediction": {
        "occlusion": ("occlusion", {"patch": 4, "stride": 1}),
        "lime": ("lime", {"segments": "grid", **QUIET}),
        "kernel_shap": ("kernel_shap", {"segments": "grid", **QUIET}),
        "prediction_difference": ("prediction_difference", {"inner": 3, **QUIET}),
    },
    "rate_distortion": {
        "rc_rde, 10 %": ("rc_rde", {"rate": 0.1, "max_iter": 20, **QUIET}),
        "mr_rde": ("mr_rde", {"rates": (0.05, 0.1, 0.2, 0.4), "max_iter": 20, **QUIET}),
        "ord_rde": ("ord_rde", {"rates": 10, "max_iter": 15, **QUIET}),
        "l_rde": ("l_rde", {"lambda_": 0.1, "max_iter": 20, **QUIET}),
    },
    "caso": {
        "gradient": ("gradient", {}),
        "cafo": ("cafo", QUIET),
        "caso": ("caso", QUIET),
        "smooth_caso": ("smooth_caso", {"augment_by_n": 20, **QUIET}),
    },
    "moreau": {
        "gradient": ("gradient", {}),
        "moreau_grad": ("moreau_grad", {"rho": 0.05, **QUIET}),
        "sparse_moreau_grad": ("sparse_moreau_grad", {"rho": 0.05, "eta": 1.0, **QUIET}),
        "group_sparse_moreau_grad": ("group_sparse_moreau_grad", {"rho": 0.05, "eta": 4.0, "group_size": 4, **QUIET}),
    },
    "grad_cam": {
        "default layer": ("grad_cam", {}),
        "second convolution": ("grad_cam", {"layer": 1}),
        "second, relu=False": ("grad_cam", {"layer": 1, "relu": False}),
    },
}
ORDERINGS = dict.fromkeys(("rc_rde, 10 %", "mr_rde", "ord_rde", "l_rde"), _common.ordering)
EXAMPLES = {  # picture -> (example that draws it, the name that it has there)
    "words": ("transformer_text", "words.png"),
    "patches": ("vit_digits", "maps.png"),
    "time": ("lstm_signals", "time.png"),
}
JUDGED = ("gradient", "input_t_gradient", "lrp.epsilon_plus", "occlusion")


def explained(
    model: keras.Model, x: np.ndarray, training: np.ndarray, chosen: Mapping[str, tuple[str, dict[str, Any]]]
) -> dict[str, np.ndarray]:
    """The maps of ``x`` under their headers; a layer given by its position gets its name."""
    maps = {}
    for header, (name, given) in chosen.items():
        layers = {"layer": model.layers[given["layer"]].name} if "layer" in given else {}
        maps[header] = innv_ext.create_analyzer(name, model, **{**given, **layers}).fit(training).analyze(x)
    return maps


def unsure(outputs: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` images of different predicted classes that the network is least sure of."""
    order = np.argsort(outputs.max(axis=1))
    return order[np.sort(np.unique(outputs[order].argmax(axis=1), return_index=True)[1])][:count]


def draw_family(page: str, model: keras.Model, data: digits.Digits, count: int, path: Path) -> None:
    """The maps of a family, an image a row."""
    outputs = model.predict(data.x_test, verbose=0)
    rows = unsure(outputs, count)
    maps = explained(model, data.x_test[rows], data.x_train, FAMILIES[page])
    imshow_grid(
        data.x_test[rows],
        maps,
        modes={name: mode for name, mode in ORDERINGS.items() if name in maps},
        labels=data.y_test[rows],
        predictions=outputs[rows].argmax(axis=1),
        probabilities=outputs[rows].max(axis=1),
        path=path,
    )


def draw_evaluation(model: keras.Model, data: digits.Digits, count: int, path: Path) -> None:
    """The curves of a perturbation analysis."""
    x = data.x_test[: 20 * count]
    maps = explained(model, x, data.x_train, {name: (name, {}) for name in JUDGED})
    figure = perturbation_analysis(model, x, maps, perturbation="constant", value=0, **QUIET).plot()
    figure.savefig(path, dpi=90, bbox_inches="tight")


def draw_example(name: str, path: Path) -> None:
    """The picture of an example, in 256 colours."""
    example, drawn = EXAMPLES[name]
    with tempfile.TemporaryDirectory() as folder:
        script = HERE.parent / "examples" / f"{example}.py"
        subprocess.run([sys.executable, str(script), "--out", folder], check=True, stdout=subprocess.DEVNULL)
        picture = Image.open(Path(folder) / drawn).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main(arguments: Iterable[str] | None = None) -> None:
    """Load or train the network, then draw the pictures asked for."""
    pages = [*FAMILIES, "evaluation", *EXAMPLES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help=f"which (default: all of {', '.join(pages)})")
    parser.add_argument("--out", type=Path, default=HERE / "pictures", help="folder (default: %(default)s)")
    parser.add_argument("--images", type=int, default=3, metavar="N", help="test images to explain (default: 3)")
    options = parser.parse_args(arguments)
    if unknown := set(options.pages) - set(pages):
        parser.error(f"there is no picture {', '.join(sorted(unknown))}; there are {', '.join(pages)}")
    options.out.mkdir(parents=True, exist_ok=True)

    data, saved = digits.load(), HERE.parent / "out" / "digits.keras"
    saved.parent.mkdir(exist_ok=True)
    model = digits.find_model(saved, data, lambda: digits.train(data), len(data.x_train), retrain=False, least=0.95)
    for page in options.pages or pages:
        path = options.out / f"{page}.png"
        if page in FAMILIES:
            draw_family(page, model, data, options.images, path)
        elif page in EXAMPLES:
            draw_example(page, path)
        else:
            draw_evaluation(model, data, options.images, path)
        print(f"{path}: {path.stat().st_size // 1024} KiB", flush=True)


if __name__ == "__main__":
    main()
