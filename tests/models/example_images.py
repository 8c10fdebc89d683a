"""Pictures to classes, boxes and masks by convolutions."""

import keras
from example_nets import called, example, pixels, uniform
from keras import layers, ops


def conv(filters, size=3, **options):
    return layers.Conv2D(filters, size, **{"padding": "same", **options})


def norm_relu(y):
    return layers.ReLU()(layers.BatchNormalization()(y))


@example(uniform((10, 10, 1)), relu="all", final="softmax", maps=True, linear=True)
def mnist_convnet():
    return keras.Sequential([
        keras.Input((10, 10, 1)), layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(2),
        layers.Conv2D(5, 3, activation="relu"), layers.MaxPooling2D(2), layers.Flatten(), layers.Dropout(0.5),
        layers.Dense(3, activation="softmax"),
    ])  # fmt: skip


@example(pixels(12, 12, 3), relu="all", final="sigmoid", index=0, maps=True)
def fine_tuning():
    """A nested base of inverted residuals behind augmentation and rescaling, called with training=False."""
    i = keras.Input((12, 12, 3))
    y = layers.ReLU(6.0)(layers.BatchNormalization()(conv(4, strides=2, use_bias=False)(i)))
    z = layers.ReLU(6.0)(layers.BatchNormalization()(conv(8, 1, use_bias=False)(y)))
    z = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(z)))
    z = layers.BatchNormalization()(conv(4, 1, use_bias=False)(z))
    base = keras.Model(i, layers.Add()([y, z]), name="base")
    base.trainable = False
    i = keras.Input((12, 12, 3))
    y = layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(i))
    y = base(layers.Rescaling(1 / 127.5, offset=-1)(y), training=False)
    y = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(y))
    return keras.Model(i, layers.Dense(1, activation="sigmoid")(y))


@example(uniform((8, 8, 3)), relu="all", final="softmax", index=(4, 5, 1), maps=True, linear=True)
def unet_segmentation():
    i = keras.Input((8, 8, 3))
    y = previous = norm_relu(conv(4, strides=2)(i))
    y = layers.BatchNormalization()(layers.SeparableConv2D(6, 3, padding="same")(layers.ReLU()(y)))
    y = layers.BatchNormalization()(layers.SeparableConv2D(6, 3, padding="same")(layers.ReLU()(y)))
    y = layers.MaxPooling2D(3, strides=2, padding="same")(y)
    y = previous = layers.Add()([y, conv(6, 1, strides=2)(previous)])
    for filters in (6, 4):
        y = layers.BatchNormalization()(layers.Conv2DTranspose(filters, 3, padding="same")(layers.ReLU()(y)))
        y = layers.UpSampling2D(2)(y)
        previous = y = layers.Add()([y, conv(filters, 1)(layers.UpSampling2D(2)(previous))])
    return keras.Model(i, conv(3, activation="softmax")(y))


@example(uniform((8, 8, 3)), relu="all", index=(2, 6, 2), maps=True, linear=True)
def deeplab_v3_plus():
    def block(y, filters=4, size=3, rate=1):
        return norm_relu(conv(filters, size, dilation_rate=rate, use_bias=False)(y))

    i = keras.Input((8, 8, 3))
    low = block(i)
    deep = layers.MaxPooling2D(2)(block(low))
    y = layers.AveragePooling2D(4)(deep)
    y = layers.UpSampling2D(4, interpolation="bilinear")(block(y, size=1))
    y = block(layers.Concatenate()([y, block(deep, size=1), block(deep, rate=2), block(deep, rate=3)]), size=1)
    y = layers.Concatenate()([layers.UpSampling2D(2, interpolation="bilinear")(y), block(low, 2, 1)])
    return keras.Model(i, layers.Conv2D(3, 1)(block(y)))


@example(pixels(12, 12, 3), relu="all", index=0, maps=True, linear=True)
def mini_xception():
    i = keras.Input((12, 12, 3))
    y = previous = norm_relu(conv(4, strides=2)(layers.Rescaling(1 / 255)(i)))
    for filters in (5, 6):
        y = layers.BatchNormalization()(layers.SeparableConv2D(filters, 3, padding="same")(layers.ReLU()(y)))
        y = layers.BatchNormalization()(layers.SeparableConv2D(filters, 3, padding="same")(layers.ReLU()(y)))
        y = layers.MaxPooling2D(3, strides=2, padding="same")(y)
        y = previous = layers.Add()([y, conv(filters, 1, strides=2)(previous)])
    return keras.Model(i, layers.Dense(1)(layers.Dropout(0.25)(layers.GlobalAveragePooling2D()(y))))


@example(pixels(8, 8, 3), final="softmax", smooth=True, maps=True)
def conv_mixer():
    def block(y):
        return layers.BatchNormalization()(layers.Activation("gelu")(y))

    i = keras.Input((8, 8, 3))
    y = block(layers.Conv2D(5, 2, strides=2)(layers.Rescaling(1 / 255)(i)))
    for _ in range(2):
        z = block(layers.DepthwiseConv2D(3, padding="same")(y))
        y = block(layers.Conv2D(5, 1)(layers.Add()([z, y])))
    return keras.Model(i, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


@example(pixels(8, 8, 3), relu="all", final="sigmoid", index=(0, 0, 3), maps=True)
def keypoints():
    i = keras.Input((8, 8, 3))
    y = norm_relu(conv(5, strides=2)(layers.Rescaling(1 / 127.5, offset=-1)(i)))
    y = layers.SeparableConv2D(6, 3, strides=1, activation="relu")(layers.Dropout(0.3)(y))
    return keras.Model(i, layers.SeparableConv2D(8, 2, activation="sigmoid")(y))


class FeaturePyramid(layers.Layer):
    """1 x 1 convolutions of two levels, the upper one upsampled and added to the lower one, a third below."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lateral = [conv(4, 1), conv(4, 1)]
        self.smooth = [conv(4), conv(4)]
        self.further = conv(4, strides=2)
        self.up = layers.UpSampling2D(2)

    def call(self, levels):
        low, high = (one(y) for one, y in zip(self.lateral, levels, strict=True))
        low = low + self.up(high)
        low, high = self.smooth[0](low), self.smooth[1](high)
        return low, high, self.further(ops.relu(high))


class RetinaNet(keras.Model):
    """Heads that are shared by all levels, their outputs reshaped by the batch size and concatenated."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.backbone = [conv(4, strides=2, activation="relu"), conv(5, strides=2, activation="relu")]
        self.pyramid = FeaturePyramid()
        self.classes = keras.Sequential([keras.Input((None, None, 4)), conv(4), layers.ReLU(), conv(2 * 3)])
        self.boxes = keras.Sequential([keras.Input((None, None, 4)), conv(4), layers.ReLU(), conv(2 * 4)])

    def call(self, image):
        low = self.backbone[0](image)
        count = ops.shape(image)[0]
        boxes, classes = [], []
        for level in self.pyramid([low, self.backbone[1](low)]):
            boxes.append(ops.reshape(self.boxes(level), [count, -1, 4]))
            classes.append(ops.reshape(self.classes(level), [count, -1, 3]))
        return ops.concatenate([ops.concatenate(boxes, axis=1), ops.concatenate(classes, axis=1)], axis=-1)


@example(uniform((8, 8, 3)), relu="all", index=(3, 5), maps=True, linear=True)
def retina_net():
    return called(RetinaNet(), (8, 8, 3))


@example(uniform((8, 8, 3)), relu="all", final="softmax", maps=True, linear=True)
def rep_vgg():
    i = keras.Input((8, 8, 3))
    y = norm_relu(conv(4, strides=2)(i))
    for _ in range(2):
        branches = [conv(4, use_bias=False)(y), conv(4, 1, use_bias=False)(y), y]
        y = layers.ReLU()(layers.Add()([layers.BatchNormalization()(b) for b in branches]))
    return keras.Model(i, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


class Involution(layers.Layer):
    """A kernel for each position, made from the position itself, and applied to its neighbours."""

    def __init__(self, channels, size=3, groups=1, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.size, self.groups = channels, size, groups
        self.kernel_of = keras.Sequential([
            layers.Conv2D(channels, 1), layers.BatchNormalization(), layers.ReLU(),
            layers.Conv2D(size * size * groups, 1),
        ])  # fmt: skip

    def build(self, shape):
        self.sides = shape[1:3]
        self.kernel_of.build(shape)
        super().build(shape)

    def call(self, x):
        high, wide = self.sides
        kernel = ops.reshape(self.kernel_of(x), (-1, high, wide, self.size**2, 1, self.groups))
        patches = ops.image.extract_patches(x, self.size, strides=1, padding="same")
        patches = ops.reshape(patches, (-1, high, wide, self.size**2, self.channels // self.groups, self.groups))
        return ops.reshape(ops.sum(kernel * patches, axis=3), (-1, high, wide, self.channels))


@example(uniform((6, 6, 3)), relu="some", index=2, maps=True)
def involution_net():
    i = keras.Input((6, 6, 3))
    y = layers.MaxPooling2D(2)(layers.ReLU()(Involution(3)(i)))
    y = layers.Flatten()(layers.ReLU()(Involution(3)(y)))
    return keras.Model(i, layers.Dense(3)(layers.Dense(6, activation="relu")(y)))


@example(uniform((12, 12, 3)), relu="all", final="softmax", maps=True, linear=True)
def learnable_resizer():
    """A bilinear resize beside residual blocks that are resized too, in front of a small classifier."""
    i = keras.Input((12, 12, 3))
    short = layers.Resizing(8, 8, interpolation="bilinear")(i)
    y = layers.LeakyReLU(0.2)(conv(4, 7)(i))
    y = layers.BatchNormalization()(layers.LeakyReLU(0.2)(conv(4, 1)(y)))
    bottle = layers.Resizing(8, 8, interpolation="bilinear")(y)
    z = layers.LeakyReLU(0.2)(layers.BatchNormalization()(conv(4, use_bias=False)(bottle)))
    y = layers.Add()([bottle, layers.BatchNormalization()(conv(4, use_bias=False)(z))])
    y = layers.Add()([short, conv(3, 7)(y)])
    y = layers.GlobalAveragePooling2D()(conv(4, activation="relu")(y))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@example(uniform((16, 16, 3)), relu="all", index=(7, 3, 2), maps=True, linear=True)
def fully_convolutional():
    """FCN-8s: scores of three depths, upsampled by a transposed and a bilinear step, added."""
    i = keras.Input((16, 16, 3))
    y = layers.MaxPooling2D(2)(conv(4, activation="relu")(i))
    third = layers.MaxPooling2D(2)(conv(4, activation="relu")(y))
    fourth = layers.MaxPooling2D(2)(conv(5, activation="relu")(third))
    y = layers.Dropout(0.5)(conv(6, 1, activation="relu")(fourth))
    y = layers.Conv2DTranspose(3, 3, strides=2, padding="same", use_bias=False)(layers.AveragePooling2D(2)(y))
    y = layers.Add()([y, layers.Conv2D(3, 1)(fourth)])
    y = layers.Conv2DTranspose(3, 3, strides=2, padding="same", use_bias=False)(y)
    y = layers.Add()([y, layers.Conv2D(3, 1)(third)])
    return keras.Model(i, layers.UpSampling2D(4, interpolation="bilinear")(y))


@example(uniform((8, 8, 3)), relu="none", index=2, maps=True, smooth=True)
def focal_modulation():
    """Focal modulation: depthwise contexts of growing size, gated and summed, modulate a query."""
    i = keras.Input((8, 8, 3))
    y = layers.LayerNormalization()(layers.Conv2D(4, 2, strides=2)(i))
    q, context, gates = layers.Dense(4)(y), layers.Dense(4)(y), layers.Dense(3)(y)
    total = 0
    for level in range(2):
        context = layers.DepthwiseConv2D(3 + 2 * level, padding="same", use_bias=False)(context)
        context = layers.Activation("gelu")(context)
        total = total + context * gates[..., level : level + 1]
    context = ops.gelu(ops.mean(context, axis=(1, 2), keepdims=True))
    total = total + context * gates[..., 2:]
    y = layers.Add()([y, layers.Dense(4)(q * layers.Conv2D(4, 1)(total))])
    z = layers.Dense(4)(layers.Dense(6, activation="gelu")(layers.LayerNormalization()(y)))
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Add()([y, z]))))
