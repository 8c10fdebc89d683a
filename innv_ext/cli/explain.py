"""``innv-ext explain``: a picture per sample."""

from __future__ import annotations

import itertools
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from keras import tree

from innv_ext.analyzers import Explanation
from innv_ext.analyzers.registry import find
from innv_ext.cli import loading, models
from innv_ext.cli.drawing import Caption, can_be_drawn, check_mode, draw
from innv_ext.cli.files import folder
from innv_ext.cli.reading import Reader, Sample, batches, make_reader, stacked, training_data
from innv_ext.comparison.rows import Data, flat
from innv_ext.files import Progress, write
from innv_ext.visualization.scaling import relay


@dataclass(frozen=True)
class _Output:
    """Where and how the results are written."""

    folder: Path
    options: Namespace
    labels: Mapping[int, str]
    channels_first: Sequence[bool]

    def save(self, name: str, sample: Sample, found: Explanation, i: int) -> None:
        """One PNG for each input that can be drawn, and one .npz if wanted."""
        maps = tree.map_structure(lambda array: array[i], found.attribution)
        for (key, shown, relevance), first in zip(_by_input(sample.shown, maps), self.channels_first, strict=True):
            if can_be_drawn(relevance.ndim):
                has_channels = relevance.ndim > (2 if sample.image else 1)  # grey images may lack the axis
                turned = np.moveaxis(relevance, 0, -1) if first and has_channels else relevance
                self._draw(
                    name if key is None else f"{name}_{key}", shown, turned, sample.image, self.caption(found, i)
                )
        if self.options.npz:
            arrays = {"x" if key is None else f"x_{key}": x for key, x, _ in _by_input(sample.x, maps)}
            arrays |= {"relevance" if key is None else f"relevance_{key}": own for key, _, own in _by_input(maps, maps)}
            arrays |= {"output": found.output[i], "target": found.target[i], "score": found.score[i]}
            write(self.folder / f"{name}.npz", lambda file: np.savez_compressed(file, **arrays))

    def _draw(self, name: str, shown: np.ndarray, relevance: np.ndarray, image: bool, caption: Caption) -> None:
        path, mode = self.folder / f"{name}.png", self.options.mode if image or relevance.ndim == 3 else "heatmap"
        own = (shown, relevance, image, self.options.analyzer, caption, mode)
        write(path, relay(path.name, lambda: draw(*own)))
        if not self.options.quiet:
            sys.stdout.write(f"{path}: {caption}\n")

    def caption(self, found: Explanation, i: int) -> Caption:
        """Predicted and chosen output by name; numbers alone for outputs of several axes."""
        output, target = found.output[i], int(found.target[i])
        prediction = self.named(int(output.argmax())) if output.ndim == 1 and output.size > 1 else None
        if output.size == 1 and isinstance(self.options.neuron, str):  # of two classes the one that was asked for
            neuron = self.named(0)
        elif target < 0 or self.options.neuron is None:
            neuron = None
        elif output.ndim <= 1:
            neuron = self.named(target)
        else:
            neuron = str(tuple(map(int, np.unravel_index(target, output.shape))))
        return Caption(prediction, neuron, float(found.score[i]))

    def named(self, neuron: int) -> str:
        """The label of an output, else its number."""
        return self.labels.get(neuron, str(neuron))


def explain(options: Namespace) -> int:
    """Read everything once to see that it can be read, then explain batch by batch."""
    own = models.definitions(options)
    row, params = find(options.analyzer), dict(options.param)
    models.check_fit(row, options)
    labels = loading.read_labels(options.labels)
    neuron = loading.read_neuron(options.neuron, labels)
    shows_progress = not options.quiet and sys.stderr.isatty()
    with folder(options.out, "--out") as out:
        model = models.load_model(options, own)
        reader = make_reader(options, model)
        shared = models.check_labels(labels, reader.subject, params.get("output"))
        if shared:  # a single neuron: its score is that of the second class
            params["class_names"] = [labels[0], labels[1]]
            neuron = labels[neuron] if isinstance(options.neuron, str) else neuron
            labels = {0: neuron if isinstance(neuron, str) else labels[1]}
        analyzer = models.build(row, model, params, progress=shows_progress)
        counts = [_survey(reader, path, options.mode) for path in options.images]
        if options.fit is not None:
            with models.failures(row.name):
                analyzer.fit(training_data(options.fit, reader, analyzer.batch_size))
        output = _Output(out, options, labels, reader.subject.channels_first)
        names = iter(_names(options.images, counts, row.name))
        with Progress(sum(counts), "explain", shows_progress, "sample") as bar:
            for batch in batches(reader.samples(*options.images), analyzer.batch_size):
                with models.failures(row.name):
                    found = analyzer.explain(stacked(batch), neuron)
                bar.clear()  # for the lines that follow
                for i, sample in enumerate(batch):
                    output.save(next(names), sample, found, i)
                bar.update(len(batch))
    return 0


def _by_input(a: Data, b: Data) -> Iterator[tuple[str | None, np.ndarray, np.ndarray]]:
    """(input, its part of ``a``, its part of ``b``), by names that files may have; the only input has none."""
    names = [re.sub(r"\W", "_", key) for key in a] if isinstance(a, dict) else [None]
    return zip(names, flat(a), flat(b), strict=True)


def _survey(reader: Reader, path: Path, mode: str) -> int:
    """How many samples a file has; all of them are read, so that what is wrong is told before the work."""
    count = 0
    for sample in reader.samples(path):
        check_mode(mode, [len(shape) for shape in sample.shapes], sample.image)
        count += 1
    return count


def _names(paths: Sequence[Path], counts: Sequence[int], analyzer: str) -> list[str]:
    """A file name for every sample, without suffix; files of the same name in several folders get numbers."""
    found: dict[str, None] = {}
    for path, count in zip(paths, counts, strict=True):
        for again in itertools.count(1):
            stem = path.stem if again == 1 else f"{path.stem}-{again}"
            stems = [stem] if count == 1 else [f"{stem}_{i}" for i in range(count)]
            names = [f"{stem}_{analyzer}" for stem in stems]
            if not found.keys() & names:
                break
        found |= dict.fromkeys(names)
    return list(found)
