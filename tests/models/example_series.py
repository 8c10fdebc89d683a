"""Signals, sound, video, volumes, time series."""

import keras
import numpy as np
from example_attention import encoder_block
from example_images import conv
from example_nets import called, example, several, token_numbers, uniform
from example_text import TransformerBlock
from keras import layers, ops


@example(uniform((24, 1)), relu="all", final="softmax", maps=True, linear=True)
def speaker_recognition():
    def block(y, filters, count):
        short = layers.Conv1D(filters, 1, padding="same")(y)
        for _ in range(count - 1):
            y = layers.Activation("relu")(layers.Conv1D(filters, 3, padding="same")(y))
        y = layers.Add()([layers.Conv1D(filters, 3, padding="same")(y), short])
        return layers.MaxPool1D(pool_size=2, strides=2)(layers.Activation("relu")(y))

    i = keras.Input((24, 1))
    y = layers.AveragePooling1D(pool_size=3, strides=3)(block(block(i, 3, 2), 4, 3))
    y = layers.Dense(5, activation="relu")(layers.Flatten()(y))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@example(uniform((12, 1)), relu="some", final="softmax")
def timeseries_transformer():
    i = keras.Input((12, 1))
    y = i
    for _ in range(2):
        z = layers.Dropout(0.25)(layers.MultiHeadAttention(key_dim=3, num_heads=2, dropout=0.25)(y, y))
        z = y = layers.LayerNormalization(epsilon=1e-6)(z) + y
        z = layers.Dropout(0.25)(layers.Conv1D(4, 1, activation="relu")(z))
        y = layers.LayerNormalization(epsilon=1e-6)(layers.Conv1D(1, 1)(z)) + y
    y = layers.GlobalAveragePooling1D(data_format="channels_first")(y)
    y = layers.Dropout(0.4)(layers.Dense(5, activation="relu")(y))
    return keras.Model(i, layers.Dense(2, activation="softmax")(y))


@example(uniform((12, 1)), relu="all", final="softmax", maps=True, linear=True)
def timeseries_from_scratch():
    i = keras.Input((12, 1))
    y = i
    for _ in range(3):
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(4, 3, padding="same")(y)))
    return keras.Model(i, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling1D()(y)))


class GraphConv(layers.Layer):
    """Messages along fixed edges, summed by node, combined with the node itself."""

    def __init__(self, width, edges, count, **kwargs):
        super().__init__(**kwargs)
        self.width, self.count = width, count
        self.neighbours, self.nodes = edges[:, 1], edges[:, 0]

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.width), name="kernel")

    def aggregate(self, x):
        messages = ops.take(x, self.neighbours, axis=0)
        return ops.segment_sum(messages, ops.convert_to_tensor(self.nodes), num_segments=self.count)

    def call(self, x):  # (nodes, batch, time, features)
        near = ops.matmul(self.aggregate(x), self.kernel)
        return ops.relu(ops.concatenate([ops.matmul(x, self.kernel), near], axis=-1))


class GraphLSTM(layers.Layer):
    """Traffic: a graph convolution at every hour, then one LSTM for all nodes of all samples."""

    def __init__(self, count, edges, ahead, **kwargs):
        super().__init__(**kwargs)
        self.graph, self.lstm = GraphConv(2, edges, count), layers.LSTM(3, activation="relu")
        self.dense = layers.Dense(ahead)
        self.count, self.ahead = count, ahead

    def call(self, x):
        x = ops.transpose(x, [2, 0, 1, 3])  # nodes first
        y = self.graph(x)
        count, batch, steps, width = ops.shape(y)
        y = self.dense(self.lstm(ops.reshape(y, (batch * count, steps, width))))
        return ops.transpose(ops.reshape(y, (count, batch, self.ahead)), [1, 2, 0])


@example(uniform((5, 4, 1)), relu="some", index=(1, 2))
def traffic_forecasting():
    edges = np.array([[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2]])
    i = keras.Input((5, 4, 1))
    return keras.Model(i, GraphLSTM(4, edges, 2)(i))


class DenseGraphConv(layers.Layer):
    """The same with a normalised adjacency matrix in an einsum."""

    def __init__(self, adjacency, width, **kwargs):
        super().__init__(**kwargs)
        self.adjacency, self.dense = adjacency.astype("float32"), layers.Dense(width, activation="relu")

    def call(self, x):
        return self.dense(ops.einsum("nm,btmf->btnf", self.adjacency, x))


@example(uniform((5, 4, 1)), relu="some", index=2)
def traffic_einsum():
    near = np.eye(4) + np.eye(4, k=1) + np.eye(4, k=-1)
    i = keras.Input((5, 4, 1))
    y = DenseGraphConv(near / near.sum(1, keepdims=True), 2)(i)
    y = layers.LSTM(4)(layers.Reshape((5, 8))(y))
    return keras.Model(i, layers.Dense(4)(y))


@example(uniform((8, 3)), index=0, smooth=True)
def weather_lstm():
    i = keras.Input((8, 3))
    return keras.Model(i, layers.Dense(1)(layers.LSTM(4)(i)))


@example(uniform((12, 1)), relu="all", index=(5, 0), maps=True, linear=True)
def anomaly_autoencoder():
    return keras.Sequential([
        keras.Input((12, 1)), layers.Conv1D(4, 7, padding="same", strides=2, activation="relu"), layers.Dropout(0.2),
        layers.Conv1D(3, 7, padding="same", strides=2, activation="relu"),
        layers.Conv1DTranspose(3, 7, padding="same", strides=2, activation="relu"), layers.Dropout(0.2),
        layers.Conv1DTranspose(4, 7, padding="same", strides=2, activation="relu"),
        layers.Conv1DTranspose(1, 7, padding="same"),
    ])  # fmt: skip


@example(lambda rng, n: rng.uniform(0, 1, (n, 12, 12, 8, 1)), relu="all", final="sigmoid", index=0, maps=True,
         linear=True)  # fmt: skip
def ct_scans_3d():
    i = keras.Input((12, 12, 8, 1))
    y = layers.BatchNormalization()(layers.MaxPool3D(2)(layers.Conv3D(3, 3, activation="relu")(i)))
    y = layers.BatchNormalization()(layers.MaxPool3D(2)(layers.Conv3D(3, 2, activation="relu")(y)))
    y = layers.Dropout(0.3)(layers.Dense(4, activation="relu")(layers.GlobalAveragePooling3D()(y)))
    return keras.Model(i, layers.Dense(1, activation="sigmoid")(y))


class SpeechFront(layers.Layer):
    """Three strided convolutions in front of a transformer."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.convs = [layers.Conv1D(width, 5, strides=2, padding="same", activation="relu") for _ in range(2)]

    def call(self, x):
        for one in self.convs:
            x = one(x)
        return x


class SpeechTransformer(keras.Model):
    """Sound and the tokens so far: encoder, causal decoder, classifier of the next token."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.front, self.encode = SpeechFront(4), TransformerBlock(4)
        self.token, self.place = layers.Embedding(7, 4), layers.Embedding(4, 4)
        self.own, self.cross = TransformerBlock(4, causal=True), layers.MultiHeadAttention(2, 2)
        self.norm, self.last = layers.LayerNormalization(), layers.Dense(7)

    def call(self, inputs):
        sound, tokens = inputs
        encoded = self.encode(self.front(sound))
        y = self.own(self.token(tokens) + self.place(ops.arange(0, ops.shape(tokens)[-1])))
        return self.last(self.norm(y + self.cross(y, encoded)))


@example(several(uniform((12, 3)), token_numbers(4, 7)), relu="some", index=(3, 2), noise=False)
def speech_transformer():
    model = SpeechTransformer()
    model([np.zeros((2, 12, 3), "float32"), np.zeros((2, 4), "int32")])
    return model


@example(uniform((256,)), relu="some", final="softmax")
def mel_spectrogram():
    """Sound as samples: mel bands in the model, then a small convnet."""
    i = keras.Input((256,))
    y = layers.MelSpectrogram(fft_length=64, sequence_stride=32, sampling_rate=2000, num_mel_bins=8, power_to_db=True,
                              min_freq=20)(i)  # fmt: skip
    y = layers.Reshape((8, -1, 1))(y)
    y = layers.GlobalAveragePooling2D()(conv(3, activation="relu")(layers.Rescaling(1 / 80)(y)))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@example(uniform((8, 24, 1)), relu="some", final="softmax", index=(2, 1), maps=True)
def captcha_ocr():
    """Convolutions, columns to steps, two bidirectional LSTMs; what stands in front of the CTC layer."""
    i = keras.Input((8, 24, 1))
    y = layers.MaxPooling2D(2)(conv(3, activation="relu")(i))
    y = layers.MaxPooling2D(2)(conv(4, activation="relu")(y))
    y = layers.Reshape((6, 8))(layers.Permute((2, 1, 3))(y))
    y = layers.Dropout(0.2)(layers.Dense(5, activation="relu")(y))
    y = layers.Bidirectional(layers.LSTM(3, return_sequences=True, dropout=0.25))(y)
    return keras.Model(i, layers.Dense(4, activation="softmax")(y))


@example(several(uniform((4, 5)), lambda rng, n: np.tile([True, True, True, False], (n, 1))), relu="some",
         final="softmax", noise=False, masks=(1,))  # fmt: skip
def video_features_gru():
    """Features of frames and a mask of those that there are."""
    frames, mask = keras.Input((4, 5), name="frames"), keras.Input((4,), dtype="bool", name="mask")
    y = layers.GRU(4, return_sequences=True)(frames, mask=mask)
    y = layers.Dropout(0.4)(layers.GRU(3)(y))
    return keras.Model([frames, mask], layers.Dense(3, activation="softmax")(layers.Dense(4, activation="relu")(y)))


@example(uniform((3, 6, 6, 2)), relu="some", final="softmax")
def video_cnn_rnn():
    i = keras.Input((3, 6, 6, 2))
    y = layers.TimeDistributed(layers.Conv2D(3, 3, activation="relu"))(i)
    y = layers.TimeDistributed(layers.MaxPooling2D(2))(y)
    y = layers.GRU(4)(layers.TimeDistributed(layers.Flatten())(y))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@example(uniform((3, 6, 6, 2)), relu="all", final="softmax", linear=True)
def video_mean_of_frames():
    """A small nested convnet for each frame, and the mean of the frames' features."""
    frame = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(3, 3, activation="relu"),
                              layers.GlobalAveragePooling2D(), layers.Dense(4, activation="relu")])  # fmt: skip
    i = keras.Input((3, 6, 6, 2))
    y = layers.GlobalAveragePooling1D()(layers.TimeDistributed(frame)(i))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


class Tubelets(layers.Layer):
    """Blocks of pixels in time and space as tokens."""

    def __init__(self, width, size, **kwargs):
        super().__init__(**kwargs)
        self.projection = layers.Conv3D(width, size, strides=size, padding="valid")
        self.flatten = layers.Reshape((-1, width))

    def call(self, videos):
        return self.flatten(self.projection(videos))


class Positions(layers.Layer):
    """Adds an embedding of positions that is as long as the input was at building."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.embedding, self.numbers = layers.Embedding(shape[1], self.width), ops.arange(0, shape[1], 1)
        self.embedding.build(())

    def call(self, tokens):
        return tokens + self.embedding(self.numbers)


@example(uniform((4, 8, 8, 1)), final="softmax", smooth=True, maps=False)
def video_vivit():
    i = keras.Input((4, 8, 8, 1))
    y = encoder_block(Positions(6)(Tubelets(6, (2, 4, 4))(i)), 6)
    y = layers.GlobalAvgPool1D()(layers.LayerNormalization(epsilon=1e-6)(y))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@example(uniform((3, 6, 6, 1)), relu="some", final="sigmoid", index=(2, 3, 3, 0))
def conv_lstm_next_frame():
    i = keras.Input((None, 6, 6, 1))
    y = layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True, activation="relu")(i)
    y = layers.BatchNormalization()(y)
    y = layers.ConvLSTM2D(2, 1, padding="same", return_sequences=True, activation="relu")(y)
    return keras.Model(i, layers.Conv3D(1, 3, activation="sigmoid", padding="same")(y))


class Conv2Plus1D(layers.Layer):
    """A convolution in space, then one in time."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.seq = keras.Sequential([
            layers.Conv3D(filters, (1, 3, 3), padding="same"), layers.Conv3D(filters, (3, 1, 1), padding="same"),
        ])  # fmt: skip

    def call(self, x):
        return self.seq(x)


class ResizeVideo(layers.Layer):
    """Frames become samples of an image layer, and frames again."""

    def __init__(self, side, **kwargs):
        super().__init__(**kwargs)
        self.side, self.resize = side, layers.Resizing(side, side)

    def call(self, video):
        shape = ops.shape(video)
        images = self.resize(ops.reshape(video, (-1, *shape[2:])))
        return ops.reshape(images, (-1, shape[1], self.side, self.side, shape[4]))


@example(uniform((4, 8, 8, 2)), relu="some", index=2, maps=True)
def video_resnet_2plus1d():
    i = keras.Input((4, 8, 8, 2))
    y = layers.ReLU()(layers.BatchNormalization()(Conv2Plus1D(3)(i)))
    y = ResizeVideo(4)(y)
    z = layers.LayerNormalization()(Conv2Plus1D(3)(layers.ReLU()(Conv2Plus1D(3)(y))))
    y = layers.Flatten()(layers.GlobalAveragePooling3D()(layers.Add()([y, z])))
    return keras.Model(i, layers.Dense(3)(y))


class TNet(layers.Layer):
    """PointNet: a small net makes a matrix with which the points are multiplied."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.convs = keras.Sequential([layers.Conv1D(4, 1), layers.BatchNormalization(), layers.ReLU()])
        self.dense = layers.Dense(width * width, activity_regularizer=keras.regularizers.L2(0.001))

    def call(self, x):
        matrix = self.dense(ops.max(self.convs(x), axis=1))
        return ops.matmul(x, ops.reshape(matrix, (-1, self.width, self.width)))


@example(uniform((10, 3)), relu="some", final="softmax", index=2, maps=True)
def pointnet():
    def conv_bn(y, filters):
        return layers.ReLU()(layers.BatchNormalization(momentum=0.0)(layers.Conv1D(filters, 1, padding="valid")(y)))

    i = keras.Input((10, 3))
    y = layers.GlobalMaxPooling1D()(conv_bn(i, 4))
    matrix = layers.Reshape((3, 3))(layers.Dense(9, kernel_initializer="zeros")(layers.Dense(4, activation="relu")(y)))
    y = conv_bn(layers.Dot(axes=(2, 1))([i, matrix]), 4)
    y = layers.GlobalMaxPooling1D()(conv_bn(TNet(4)(y), 5))
    y = layers.Dropout(0.3)(layers.Dense(4, activation="relu")(y))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@example(uniform((16, 2)), relu="all", index=1, maps=True, linear=True)
def eeg_signals():
    i = keras.Input((16, 2))
    y = i
    for filters in (4, 4):
        y = layers.BatchNormalization()(layers.Conv1D(filters, 3, strides=2, padding="same", activation="relu")(y))
    y = layers.Dropout(0.2)(layers.Dense(5, activation="relu")(layers.Flatten()(y)))
    y = layers.LeakyReLU()(layers.Dense(4)(y))
    return keras.Model(i, layers.Dense(3)(y))


@example(uniform((8, 2)), index=1, smooth=True)
def temporal_fusion_cell():
    """A recurrent layer around a cell that a user wrote."""
    i = keras.Input((8, 2))
    return keras.Model(i, layers.Dense(2)(layers.RNN(_MinimalCell(3))(i)))


class _MinimalCell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.state_size = units, units
        self.gate, self.signal = layers.Dense(units, activation="sigmoid"), layers.Dense(units, activation="tanh")

    def call(self, x, states):
        both = ops.concatenate([x, states[0]], axis=-1)
        gate = self.gate(both)
        y = gate * states[0] + (1 - gate) * self.signal(both)
        return y, [y]


@example(uniform((9, 3)), relu="some", index=2)
def wave_net():
    """Gated dilated causal convolutions with skips."""
    i = keras.Input((9, 3))
    y, skips = layers.Conv1D(4, 1)(i), []
    for rate in (1, 2):
        a = layers.Conv1D(4, 2, padding="causal", dilation_rate=rate, activation="tanh")(y)
        b = layers.Conv1D(4, 2, padding="causal", dilation_rate=rate, activation="sigmoid")(y)
        z = layers.Conv1D(4, 1)(layers.Multiply()([a, b]))
        skips.append(z)
        y = layers.Add()([y, z])
    y = layers.GlobalAveragePooling1D()(layers.ReLU()(layers.Add()(skips)))
    return keras.Model(i, layers.Dense(3)(y))


@example(uniform((6, 4)), index=1, smooth=True)
def stateless_rollout():
    """Forecast by feeding the last output back in, a Python loop in call."""
    return called(_Rollout(), (6, 4))


class _Rollout(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cell, self.dense = layers.LSTM(4), layers.Dense(4)

    def call(self, x):
        for _ in range(2):
            following = self.dense(self.cell(x))
            x = ops.concatenate([x[:, 1:], following[:, None]], axis=1)
        return x[:, -1]
