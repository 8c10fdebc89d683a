"""Files as samples: against Pillow and numpy used by hand."""

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from innv_ext.cli import reading
from innv_ext.cli.parser import parse
from innv_ext.cli.preprocessing import Preprocessing
from innv_ext.errors import InvalidInputError


def reader(shape, *options, dtype="float32", data_format="channels_last"):
    x = i = keras.Input(shape, dtype=dtype)
    if len(shape) == 3:
        x = layers.GlobalAveragePooling2D(data_format=data_format)(x)
    words = ["explain", "m.keras", "i", "--analyzer", "a", "--out", "o", *options]
    return reading.make_reader(parse(words), keras.Model(i, x))


def only(found):
    (sample,) = found
    return sample


def by_hand(path, box, size, mode="RGB"):
    """The part of an image in ``box``, resized, uint8 with channels."""
    array = np.asarray(Image.open(path).convert(mode).resize(size, Image.Resampling.BILINEAR, box=box))
    return array if array.ndim == 3 else array[..., None]


def test_images_keep_their_middle_and_their_proportions(files):
    # 20 x 30 pixels for 12 x 16: 20 rows go with 26.67 columns, 1.67 are cut on either side
    side = (30 - 20 * 16 / 12) / 2
    expected = by_hand(files / "photo.png", (side, 0, 30 - side, 20), (16, 12))
    sample = only(reader((12, 16, 3)).samples(files / "photo.png"))
    np.testing.assert_array_equal(sample.shown, expected)
    np.testing.assert_allclose(sample.x, expected / np.float32(255), rtol=1e-6)
    assert sample.image and sample.x.dtype == "float32" and sample.shown.dtype == "uint8"


def test_stretched_images_keep_everything(files):
    sample = only(reader((12, 16, 3), "--resize", "stretch").samples(files / "photo.png"))
    np.testing.assert_array_equal(sample.shown, by_hand(files / "photo.png", (0, 0, 30, 20), (16, 12)))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("name", ["photo.png", "grey.png"])
def test_grey_and_colour_become_what_the_model_takes(files, channels, mode, name):
    sample = only(reader((20, 20, channels), "--resize", "stretch").samples(files / name))
    with Image.open(files / name) as opened:
        size = opened.size
    np.testing.assert_array_equal(sample.shown, by_hand(files / name, (0, 0, *size), (20, 20), mode))


def test_channels_first(files):
    last = only(reader((12, 16, 3), "--mean", "0.1,0.2,0.3").samples(files / "photo.png"))
    first = reader((3, 12, 16), "--mean", "0.1,0.2,0.3", data_format="channels_first")
    found = only(first.samples(files / "photo.png"))
    np.testing.assert_array_equal(found.x, last.x.transpose(2, 0, 1))
    np.testing.assert_array_equal(found.shown, last.shown)


def test_each_of_several_inputs_is_turned_by_its_own_format(tmp_path):
    """A table comes first and says nothing; one picture has its channels first, the other last."""
    table, first, last = keras.Input((3,), name="t"), keras.Input((2, 4, 5), name="f"), keras.Input((4, 5, 2), name="l")
    pooling = {f: layers.GlobalAveragePooling2D(data_format=f"channels_{f}") for f in ("first", "last")}
    pools = [pooling["first"](first), pooling["last"](last)]
    model = keras.Model([table, first, last], layers.Concatenate()([table, *pools]))
    rng, shapes = np.random.default_rng(0), {"t": (3,), "f": (2, 4, 5), "l": (4, 5, 2)}
    x = {name: rng.random((2, *shape)).astype("float32") for name, shape in shapes.items()}
    np.savez(tmp_path / "x.npz", **x)
    words = ["explain", "m.keras", "i", "--analyzer", "a", "--out", "o"]
    found = list(reading.make_reader(parse(words), model).samples(tmp_path / "x.npz"))
    for i, sample in enumerate(found):
        np.testing.assert_array_equal(sample.shown["t"], x["t"][i])
        np.testing.assert_array_equal(sample.shown["f"], x["f"][i].transpose(1, 2, 0))
        np.testing.assert_array_equal(sample.shown["l"], x["l"][i])


def test_arrays_of_channels_first_models(tmp_path):
    x = np.random.default_rng(0).random((2, 3, 4, 5)).astype("float32")
    np.save(tmp_path / "a.npy", x)
    first = reader((3, 4, 5), "--std", "1,2,4", data_format="channels_first")
    found = list(first.samples(tmp_path / "a.npy"))
    expected = x / np.array([1, 2, 4], "float32")[:, None, None]
    np.testing.assert_array_equal([s.x for s in found], expected)
    np.testing.assert_array_equal([s.shown for s in found], expected.transpose(0, 2, 3, 1))


def test_models_of_any_size_get_the_image_as_it_is(files):
    sample = only(reader((None, None, 3)).samples(files / "photo.png"))
    np.testing.assert_array_equal(sample.shown, np.asarray(Image.open(files / "photo.png")))
    narrow = only(reader((None, 15, 3)).samples(files / "photo.png"))
    low = only(reader((10, None, 3)).samples(files / "photo.png"))
    assert narrow.x.shape == low.x.shape == (10, 15, 3)


def test_models_without_channel_axis_take_grey_images(files):
    sample = only(reader((20, 20), "--resize", "stretch").samples(files / "photo.png"))
    assert sample.x.shape == (20, 20) and sample.shown.shape == (20, 20, 1)
    np.testing.assert_allclose(sample.x * 255, sample.shown[..., 0], rtol=1e-6)


def test_grey_images_of_channels_first_models(files):
    i = keras.Input((20, 30))
    x = layers.GlobalAveragePooling2D(data_format="channels_first")(layers.Reshape((1, 20, 30))(i))
    options = parse(["explain", "m.keras", "i", "--analyzer", "a", "--out", "o"])
    sample = only(reading.make_reader(options, keras.Model(i, x)).samples(files / "photo.png"))
    np.testing.assert_allclose(sample.x * 255, np.asarray(Image.open(files / "photo.png").convert("L")), rtol=1e-6)


def test_images_are_turned_upright(tmp_path):
    pixels = np.arange(6, dtype="uint8").reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    sample = only(reader((3, 2, 1)).samples(tmp_path / "turned.png"))
    np.testing.assert_array_equal(sample.shown[..., 0], np.rot90(pixels, -1))


def test_16_bits_keep_their_range(tmp_path):
    pixels = np.array([[0, 257, 25700, 65535]], "uint16")
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    sample = only(reader((1, 4, 1)).samples(tmp_path / "deep.png"))
    np.testing.assert_array_equal(sample.shown[0, :, 0], [0, 1, 100, 255])


def test_models_of_integers_get_bytes(files):
    sample = only(reader((12, 16, 3), dtype="uint8").samples(files / "photo.png"))
    np.testing.assert_array_equal(sample.x, sample.shown)
    assert sample.x.dtype == "uint8"


def test_arrays_are_fed_as_they_are(files, tmp_path):
    x = np.load(files / "x.npz")["x"]
    found = list(reader((12, 16, 3)).samples(files / "x.npz"))
    np.testing.assert_array_equal([s.x for s in found], x)
    np.testing.assert_array_equal([s.shown for s in found], x)
    assert not any(s.image for s in found)
    np.savez(tmp_path / "one.npz", anything=x[0])
    np.testing.assert_array_equal(only(reader((12, 16, 3)).samples(tmp_path / "one.npz")).x, x[0])
    scaled = list(reader((12, 16, 3), "--scale", "-1,1").samples(files / "x.npz"))
    np.testing.assert_allclose([s.x for s in scaled], x * 2 / 255 - 1, rtol=1e-6)


@pytest.mark.parametrize("image", [True, False])
def test_scale_mean_and_std(image):
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 3))
    found = Preprocessing((-2, 3), (0.5, 0, -1), (2,))(x, image)
    expected = [[[(-2 + 5 * v / 255 - m) / 2 for v, m in zip(p, (0.5, 0, -1))] for p in row] for row in x]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == "float32" and x.dtype == "int64"


def test_a_preprocessing_function_gets_a_copy_with_channels_last(files, tmp_path):
    (tmp_path / "own.py").write_text("def preprocess(images):\n    images += 1\n    return images[..., ::-1]\n")
    options = ("--preprocess", str(tmp_path / "own.py"))
    for own in (reader((12, 16, 3), *options), reader((3, 12, 16), *options, data_format="channels_first")):
        sample = only(own.samples(files / "photo.png"))
        plain = only(reader((12, 16, 3)).samples(files / "photo.png")).shown
        np.testing.assert_array_equal(sample.shown, plain)
        expected = plain[..., ::-1].astype("float32") + 1
        turned = expected.transpose(2, 0, 1) if own.subject.channels_first[0] else expected
        np.testing.assert_array_equal(sample.x, turned)


@pytest.mark.parametrize("name", ["vgg16", "VGG16", "mobilenet_v2", "MobileNetV2"])
def test_preprocessing_of_keras(files, name):
    sample = only(reader((12, 16, 3), "--preprocess", f"keras.applications.{name}").samples(files / "photo.png"))
    module = keras.applications.vgg16 if "16" in name else keras.applications.mobilenet_v2
    np.testing.assert_array_equal(sample.x, module.preprocess_input(sample.shown.astype("float32")))


def test_batches_hold_samples_of_one_shape():
    shapes = [(2,), (2,), (2,), (3,), (2,)]
    samples = [reading.Sample(np.zeros(s), np.zeros(s), False) for s in shapes]
    assert [[s.x.shape for s in batch] for batch in reading.batches(samples, 2)] == [[(2,)] * 2, [(2,)], [(3,)], [(2,)]]
    assert list(reading.batches([], 2)) == []


def test_training_data_of_a_folder_can_be_read_again(files, tmp_path):
    own = reader((12, 16, 3))
    for name in ("b/photo.png", "a/grey.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((files / name.split("/")[1]).read_bytes() if name.endswith("png") else b"")
    data = reading.training_data(tmp_path, own, 8)
    expected = [only(own.samples(files / name)).x for name in ("grey.png", "photo.png")]
    for _ in range(2):
        (batch,) = data
        np.testing.assert_array_equal(batch, expected)
    assert [len(b) for b in reading.training_data(files / "x.npz", own, 2)] == [2, 1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="no images"):
        reading.training_data(tmp_path / "empty", own, 2)
    with pytest.raises(InvalidInputError, match="no file or folder"):
        reading.training_data(tmp_path / "nowhere", own, 2)


def test_floating_point_images_and_odd_channels_are_refused(files, tmp_path):
    Image.fromarray(np.zeros((2, 2), "float32")).save(tmp_path / "deep.tif")
    with pytest.raises(InvalidInputError, match=r"deep\.tif: has floating-point"):
        list(reader((2, 2, 1)).samples(tmp_path / "deep.tif"))
    with pytest.raises(InvalidInputError, match="5 channels"):
        list(reader((2, 2, 5)).samples(files / "photo.png"))
    with pytest.raises(InvalidInputError, match="no images"):
        list(reader((2, 2, 2, 2)).samples(files / "photo.png"))


def test_arrays_that_cannot_be_read_are_named(files, tmp_path):
    np.savez(tmp_path / "two.npz", a=[1], b=[2])
    np.save(tmp_path / "objects.npy", np.array([None, 1]), allow_pickle=True)
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "nan.npy", np.full((12, 16, 3), np.nan))
    np.save(tmp_path / "shape.npy", np.zeros((2, 16, 12, 3)))
    np.save(tmp_path / "none.npy", np.zeros((0, 12, 16, 3)))
    cases = {
        "two.npz": "arrays .*'a', 'b'", "objects.npy": "read as arrays", "torn.npy": "read as arrays", "nan.npy": "NaN",
        "shape.npy": "the model takes", "none.npy": "nothing to explain",
    }  # fmt: skip
    for name, text in cases.items():
        with pytest.raises(InvalidInputError, match=f"{name}: .*{text}"):
            list(reader((12, 16, 3)).samples(tmp_path / name))
