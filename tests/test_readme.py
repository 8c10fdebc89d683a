"""The README's code runs, and its table is the registry's."""

import re
from pathlib import Path

import keras
import pytest
import zoo

import innv_ext

README = (Path(__file__).parent.parent / "README.md").read_text()


def small_net(weights, input_shape, classes):
    """Stands in for MobileNetV2, which takes a minute to trace so often; the same kinds of layers and names."""
    layers = keras.layers
    x = inputs = keras.Input(input_shape)
    for name, filters in (("Conv1", 8), ("expand", 12)):
        x = layers.Conv2D(filters, 3, 2, padding="same", use_bias=False, name=name)(x)
        x = layers.ReLU(6.0, name=f"{name}_relu")(layers.BatchNormalization()(x))
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="predictions")(x))


@pytest.mark.parametrize("net", [small_net, pytest.param(None, marks=pytest.mark.slow)], ids=["small", "as written"])
@zoo.quick
def test_code_blocks_run(net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if net is not None:
        monkeypatch.setattr(keras.applications, "MobileNetV2", net)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) >= 4
    exec(compile("\n".join(blocks), "README.md", "exec"), {"__name__": "readme"})
    assert (tmp_path / "relevance.png").stat().st_size > 1000
    assert any(a.name == "my_guided_backprop" for a in innv_ext.list_analyzers())


def test_table_is_the_registry():
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \|", README, flags=re.M)
    own = [(a.name, a.description) for a in innv_ext.list_analyzers() if a.family != "user"]
    assert rows == own
