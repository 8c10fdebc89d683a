"""``training_batches``: the same samples from arrays, data sets and generators; refusals that name the batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import innv_ext
from innv_ext.errors import InvalidInputError

X = np.arange(21, dtype="float32").reshape(7, 3)


class Batches(keras.utils.PyDataset):
    """Pairs (inputs, targets) of at most three samples."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[3 * i : 3 * i + 3], np.zeros(len(X[3 * i : 3 * i + 3]))


@pytest.fixture(scope="module")
def analyzer():
    return innv_ext.create_analyzer("gradient", keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))


@pytest.fixture(scope="module")
def two():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joined = keras.layers.Dense(2)(keras.layers.Concatenate()([a, b]))
    return innv_ext.create_analyzer("gradient", keras.Model([a, b], joined))


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (lambda: X, [3, 3, 1]),
        (lambda: [X], [3, 3, 1]),
        (X.tolist, [3, 3, 1]),
        (lambda: keras.ops.convert_to_tensor(X), [3, 3, 1]),
        (Batches, [3, 3, 1]),
        (lambda: tf.data.Dataset.from_tensor_slices((X, np.zeros(7))).batch(5), [5, 2]),
        (lambda: iter([X[:4], X[4:4], X[4:]]), [4, 3]),
    ],
    ids=["array", "list of one array", "nested list", "tensor", "PyDataset", "tf.data", "iterator"],
)
def test_all_forms_of_data_bring_the_same_samples(analyzer, given, sizes):
    found = [part for (part,) in analyzer.training_batches(given(), 3)]
    assert [len(part) for part in found] == sizes
    np.testing.assert_array_equal(np.concatenate(found), X)
    assert all(part.dtype == np.float32 for part in found)


def test_several_inputs_come_together(two):
    b = X[:, :2] + 100
    for given in ([X, b], {"a": X, "b": b}, iter([[X[:4], b[:4]], {"b": b[4:], "a": X[4:]}])):
        parts = [np.concatenate(p) for p in zip(*two.training_batches(given, 4), strict=True)]
        np.testing.assert_array_equal(parts[0], X)
        np.testing.assert_array_equal(parts[1], b)


def test_the_default_size_is_the_analyzers_and_at_least_256(analyzer):
    rows = np.zeros((600, 3))
    assert [len(a) for (a,) in analyzer.training_batches(rows)] == [256, 256, 88]
    assert [len(a) for (a,) in analyzer.training_batches(rows, least=1)] == [32] * 18 + [24]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([X[:3], X[3:]], r"cannot be read as one array.*iter\(batches\)"),
        (iter([X[:3], np.full((2, 3), np.nan)]), "Batch 1 of the training data.*NaN"),
        (iter([X[:3], X[:3, :2]]), r"Batch 1 of the training data.*shape \(3, 2\)"),
        (X[:0], "empty"),
        (iter([]), "empty"),
        (3, "arrays or an iterable of batches, got int"),
    ],
    ids=["list of batches", "NaN", "shape", "no sample", "no batch", "a number"],
)
def test_other_data_are_refused(analyzer, given, message):
    with pytest.raises(InvalidInputError, match=message):
        list(analyzer.training_batches(given, 3))


def test_a_batch_size_of_zero_is_refused(analyzer):
    with pytest.raises(InvalidInputError, match="batch_size"):
        analyzer.training_batches(X, 0)
