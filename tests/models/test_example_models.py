"""Maps of tiny versions of Keras' code examples: right where the method is defined, refused by a typed error elsewhere.

What right means is in ``example_maps``, which refusals are in ``example_refusals``.
"""

import contextlib

import pytest
from example_maps import ANALYZERS, Case
from example_nets import listed
from example_refusals import REFUSED, refusal

from innv_ext.errors import InnvError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")]
# others have what these have; ``example_maps`` as a script runs all
LEFT_OUT = set("""
    active_learning_reviews bidirectional_lstm_imdb captcha_ocr conv_lstm_next_frame ct_scans_3d custom_train_step
    dcgan_discriminator ddim_unet ddpg_actor ddpm_unet deeplab_v3_plus denoising_autoencoder distilled_temperature
    dual_encoder eeg_signals focal_modulation fully_convolutional gated_residual_columns graph_attention
    imbalanced_fraud learnable_resizer lora_attention masked_language_bert masked_lstm_tagger mel_spectrogram mirnet
    mobile_vit molecule_messages multi_label_bag_of_words named_entities object_detection_vit perceiver
    pretrained_word_embeddings rep_vgg residual_dense_edsr semantic_similarity sequence_to_sequence_lstm
    siamese_contrastive siamese_triplet speaker_recognition speech_transformer stateless_rollout
    supervised_contrastive switch_transformer temporal_fusion_cell text_fnet vae_decoder variable_selection
    video_cnn_rnn video_features_gru video_vivit vit_class_token weather_lstm
""".split())
# the slowest method, on one of each kind
DISTORTION = set("""
    mnist_convnet compact_convolutional_transformer siamese_triplet ct_scans_3d nerf traffic_forecasting antirectifier
""".split())


@pytest.fixture(scope="module", params=[name for name in listed() if name not in LEFT_OUT])
def case(request):
    """One model at a time."""
    return Case(request.param)


@pytest.mark.parametrize("analyzer", ANALYZERS)
def test_a_map_is_right_or_refused(case, analyzer):
    if analyzer == "grad_cam" and not case.one.maps:
        pytest.skip("no feature maps")
    if analyzer == "rc_rde" and not (case.one.name in DISTORTION or refusal(case.one, analyzer)):
        pytest.skip("slow; others stand for it")
    reason = refusal(case.one, analyzer)
    if reason is None:
        assert case.problems(analyzer) == []
    elif not case.one.coupled:
        with pytest.raises(InnvError) as raised:
            case.problems(analyzer)
        assert reason[0].lower() in str(raised.value).lower(), reason[1]
    else:  # an error, or a warning
        with contextlib.suppress(InnvError):
            assert case.problems(analyzer) == [], reason[1]


def test_the_table_of_refusals_has_only_models_that_there_are():
    assert set(REFUSED) | LEFT_OUT | DISTORTION <= set(listed())
