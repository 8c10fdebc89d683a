"""Colours for all kinds of colour vision: what red-green-blind readers can tell apart, and what everyone can read."""

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from innv_ext.visualization import blend, graymap, heatmap
from innv_ext.visualization.texts import Token

# Machado, Oliveira, Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency",
# severity 1.0; the matrices act on linear RGB
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
GREEN = (0.0, 1.0, 0.0)
RAMP = np.linspace(-1, 1, 201)


def linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def seen(rgb, vision):
    light = np.clip(linear(np.asarray(rgb, float)) @ VISIONS[vision].T, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def distance(first, second, vision):
    """CIEDE2000; about 2 can just be noticed side by side."""
    first, second = np.broadcast_arrays(seen(first, vision), seen(second, vision))
    return deltaE_ciede2000(rgb2lab(first), rgb2lab(second))


def test_the_simulation_keeps_grey_and_confuses_what_it_should():
    for vision, matrix in VISIONS.items():
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=2e-6)
    red, green = (0.75, 0.35, 0.0), (0.45, 0.5, 0.0)
    assert distance(red, green, "normal") > 3 * distance(red, green, "deuteranopia")


@pytest.mark.parametrize("vision", VISIONS)
def test_positive_and_negative_relevance_differ_for_every_reader(vision):
    colours = heatmap(RAMP[None, None])[0, 0]
    strong = np.abs(RAMP) > 0.15
    positive, negative = colours[strong & (RAMP > 0)], colours[strong & (RAMP < 0)]
    assert distance(positive[:, None], negative[None], vision).min() > 20  # whatever their strengths
    white = distance(colours, (1, 1, 1), vision)
    assert white[RAMP == 0] == 0 and white[strong].min() > 10


@pytest.mark.parametrize("vision", VISIONS)
def test_marks_of_what_is_not_finite_differ_from_every_relevance(vision):
    assert distance(heatmap(RAMP[None, None]), GREEN, vision).min() > 15
    assert distance(graymap(RAMP[None, None]), GREEN, vision).min() > 25
    strength, grey = np.meshgrid(np.linspace(0, 1, 51), np.linspace(0, 1, 11))  # blends with all greys
    assert distance(blend(strength[None], grey[None], sigma=0), GREEN, vision).min() > 10
    assert distance((0.87, 0.87, 0.87), GREEN, vision) > 25  # grey padding of texts


def contrast(ground, writing):
    light = [float(np.dot((0.2126, 0.7152, 0.0722), linear(np.asarray(c, float)))) for c in (ground, writing)]
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("cmap", ["seismic", "PuOr_r", "coolwarm", "hsv"])
def test_writing_is_legible_on_every_ground(cmap):
    for ground in [*heatmap(RAMP[None, None], cmap=cmap)[0, 0], np.array(GREEN)]:
        writing = {"#000000": (0, 0, 0), "#ffffff": (1, 1, 1)}
        chosen = contrast(ground, writing[Token("a", tuple(ground)).writing])
        assert chosen >= 4.5 and chosen == max(contrast(ground, w) for w in writing.values())
