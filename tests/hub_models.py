"""Tiny models of keras-hub with random weights, one of each backbone and each task; nothing is downloaded.

``BACKBONES`` and ``TASKS`` are the tables: a name of ``keras_hub.models`` and what it is made of. A ``Part`` inside a
configuration is another model or layer of keras-hub, which is made first.
"""

import importlib
from dataclasses import dataclass, field

import keras
import numpy as np

VOCABULARY, LENGTH, SIDE = 19, 7, 32


@dataclass(frozen=True)
class Part:
    """A model or layer of keras-hub by its name; below ``keras_hub.src`` with the module, "models.vae.vae_layers:X"."""

    name: str
    options: dict = field(default_factory=dict)

    def make(self):
        keras_hub = importlib.import_module("keras_hub")  # tests are collected without it
        module, _, name = self.name.rpartition(":")
        home = importlib.import_module(f"keras_hub.src.{module}") if module else keras_hub.models
        cls = getattr(home, name, None) or getattr(keras_hub.layers, name)
        return cls(**{k: made(v) for k, v in self.options.items()})


def made(value):
    """``value`` with its parts made."""
    if isinstance(value, Part):
        return value.make()
    return [made(v) for v in value] if isinstance(value, list) else value


def backbone(name, **options):
    """A backbone of the table, with some options changed."""
    return Part(name, BACKBONES[name] | options)


SIZES = {"vocabulary_size": VOCABULARY, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 12}
HEADS = {"num_heads": 2}
GROUPED = {"num_query_heads": 4, "num_key_value_heads": 2}
GEMMA = SIZES | GROUPED | {"head_dim": 4}
EXPERTS = {"num_experts": 3, "top_k": 2}
SMOL = {
    **SIZES,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_layer_enabled_list": [True, False],
    "layer_types": ["full_attention"] * 2,
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 16,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "linear_conv_kernel_dim": 3,
    "partial_rotary_factor": 0.5,
}
T5GEMMA = {
    "vocabulary_size": VOCABULARY,
    **{
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            "hidden_dim": 8,
            "intermediate_dim": 12,
            "num_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        }.items()
    },
    "sliding_window": 4,
}
TOWER = {"patch_size": 8, "hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 12}
PICTURE = {"image_shape": (SIDE, SIDE, 3)}
READER = SIZES | HEADS | {"embedding_dim": 8, "max_sequence_length": LENGTH}
RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 64, 64],  # the first has to be 64
    "stackwise_num_blocks": [1, 2, 1],
    "stackwise_num_strides": [1, 2, 2],
    "block_type": "basic_block",
}
FOUR_STAGES = RESNET | {
    "stackwise_num_filters": [64, 64, 64, 64],
    "stackwise_num_blocks": [1, 1, 1, 1],
    "stackwise_num_strides": [1, 2, 2, 2],
}
HGNET = {
    "depths": [1, 2],
    "embedding_size": 4,
    "hidden_sizes": [8, 12],
    "stem_channels": [3, 4, 4],
    "hidden_act": "relu",
    "use_learnable_affine_block": True,
    "stackwise_stage_filters": [(4, 4, 8, 1, 2, 3), (8, 4, 12, 2, 2, 3)],
    "apply_downsample": [False, True],
    "use_lightweight_conv_block": [False, True],
}
SAM_SIDE = 32

BACKBONES = {
    # --- text: encoders
    "AlbertBackbone": SIZES | HEADS | {"embedding_dim": 6, "max_sequence_length": LENGTH},
    "BertBackbone": SIZES | HEADS | {"max_sequence_length": LENGTH},
    "DebertaV3Backbone": SIZES | HEADS | {"max_sequence_length": LENGTH, "bucket_size": 4},
    "DistilBertBackbone": SIZES | HEADS | {"max_sequence_length": LENGTH},
    "ESM2Backbone": SIZES | HEADS | {"max_sequence_length": LENGTH},
    "ESMBackbone": SIZES | HEADS | {"max_sequence_length": LENGTH},
    "ElectraBackbone": {
        "vocab_size": VOCABULARY,
        "num_layers": 2,
        "hidden_dim": 8,
        "embedding_dim": 6,
        "intermediate_dim": 12,
        "max_sequence_length": LENGTH,
        **HEADS,
    },
    "FNetBackbone": SIZES | {"max_sequence_length": LENGTH},
    "RobertaBackbone": SIZES | HEADS | {"max_sequence_length": LENGTH},
    "RoformerV2Backbone": SIZES | HEADS | {"head_size": 4},
    "XLMRobertaBackbone": SIZES | HEADS | {"max_sequence_length": LENGTH},
    "XLNetBackbone": SIZES | HEADS,
    # --- text: decoders
    "BloomBackbone": SIZES | HEADS,
    "FalconBackbone": {"num_attention_heads": 2, **SIZES},
    "GPT2Backbone": SIZES | HEADS | {"max_sequence_length": LENGTH},
    "GPTNeoXBackbone": SIZES | HEADS | {"max_sequence_length": LENGTH, "rotary_percentage": 0.5},
    "Gemma3Backbone": GEMMA | {"image_size": 16, "use_sliding_window_attention": True, "sliding_window_size": 4},
    "Gemma3nBackbone": {
        "text_vocab_size": VOCABULARY,
        "text_hidden_size": 8,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "intermediate_size": [12, 12],
        "hidden_activation": "gelu_approximate",
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 4,
        "rope_theta": 10000.0,
        "max_position_embeddings": 16,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 2,
        "altup_num_inputs": 2,
        "laurel_rank": 2,
    },
    "Gemma4Backbone": GEMMA | {"image_size": 16, "sliding_window_size": 4, "sliding_window_pattern": 2},
    "GemmaBackbone": GEMMA | {"final_logit_soft_cap": 30.0, "attention_logit_soft_cap": 50.0},
    "GptOssBackbone": SIZES | GROUPED | EXPERTS | {"head_dim": 4, "sliding_window": 4},
    "Llama3Backbone": SIZES | GROUPED,
    "LlamaBackbone": SIZES | GROUPED,
    "MistralBackbone": SIZES | GROUPED | {"sliding_window": 4},
    "MixtralBackbone": SIZES | GROUPED | EXPERTS | {"sliding_window": 4},
    "OPTBackbone": SIZES | HEADS | {"max_sequence_length": LENGTH},
    "Phi3Backbone": SIZES | GROUPED | {"max_sequence_length": 16, "pretraining_sequence_length": 16},
    "Qwen2Backbone": SIZES | GROUPED,
    "Qwen3Backbone": SIZES | GROUPED | {"head_dim": 4},
    "Qwen3MoeBackbone": SIZES | GROUPED | EXPERTS | {"moe_intermediate_dim": 6, "head_dim": 4},
    "Qwen3_5Backbone": SIZES | GROUPED | {"head_dim": 4} | HYBRID,
    "Qwen3_5MoeBackbone": {
        **{k: v for k, v in SIZES.items() if k != "intermediate_dim"},
        **GROUPED,
        **EXPERTS,
        **HYBRID,
        "head_dim": 4,
        "moe_intermediate_dim": 6,
        "shared_expert_intermediate_size": 6,
    },
    "QwenBackbone": SIZES | GROUPED,
    "QwenMoeBackbone": SIZES
    | GROUPED
    | EXPERTS
    | {"moe_intermediate_dim": 6, "shared_expert_intermediate_dim": 6, "norm_top_k_prob": True},
    "RWKV7Backbone": {
        "hidden_size": 8,
        "head_size": 4,
        "num_layers": 2,
        "vocabulary_size": VOCABULARY,
        "intermediate_dim": 12,
        "gate_lora": 4,
        "mv_lora": 4,
        "aaa_lora": 4,
        "decay_lora": 4,
    },
    "SmolLM3Backbone": SMOL,
    "SmolLMBackbone": SMOL,
    # --- text: encoder and decoder
    "BartBackbone": SIZES | HEADS | {"max_sequence_length": LENGTH},
    "EdRecBackbone": {
        "vocab_size": VOCABULARY,
        "num_layers_enc": 2,
        "num_layers_dec": 2,
        "hidden_dim": 8,
        "intermediate_dim": 12,
        **HEADS,
    },
    "T5Backbone": SIZES | HEADS,
    "T5Gemma2Backbone": T5GEMMA,
    "T5GemmaBackbone": T5GEMMA,
    # --- audio
    "MoonshineBackbone": {
        "vocabulary_size": VOCABULARY,
        "filter_dim": 8,
        "encoder_num_layers": 1,
        "decoder_num_layers": 1,
        "hidden_dim": 8,
        "intermediate_dim": 12,
        "encoder_num_heads": 2,
        "decoder_num_heads": 2,
    },
    "WhisperBackbone": SIZES
    | HEADS
    | {"num_mels": 5, "max_encoder_sequence_length": 12, "max_decoder_sequence_length": LENGTH},
    # --- two towers, and text with pictures
    "BLIP2Backbone": {
        "vision_encoder": Part(
            "BLIP2VisionEncoder",
            {
                **TOWER,
                "image_size": SIDE,
                "use_patch_bias": True,
                "use_class_token": True,
                "use_mha_bias": True,
                "use_mlp_bias": True,
                "dropout_rate": 0.0,
                "layer_norm_epsilon": 1e-6,
                "initializer_range": 0.2,
            },
        ),
        "qformer": Part(
            "BLIP2QFormer",
            {
                "num_query_tokens": 3,
                "num_layers": 2,
                "num_heads": 2,
                "hidden_dim": 8,
                "intermediate_dim": 12,
                "vision_dim": 8,
                "cross_attention_frequency": 2,
                "dropout": 0.0,
                "layer_norm_epsilon": 1e-6,
            },
        ),
        "language_model": Part(
            "BLIP2CustomOPT",
            {
                **SIZES,
                **HEADS,
                "num_query_tokens": 3,
                "dropout": 0.0,
                "max_sequence_length": 16,
                "qformer_hidden_dim": 8,
            },
        ),
    },
    "CLIPBackbone": {
        "vision_encoder": Part("CLIPVisionEncoder", TOWER | PICTURE),
        "text_encoder": Part("CLIPTextEncoder", READER),
        "projection_dim": 6,
    },
    "MetaCLIP2Backbone": {
        "vision_encoder": Part("MetaCLIP2VisionEncoder", TOWER | PICTURE),
        "text_encoder": Part("MetaCLIP2TextEncoder", READER),
        "projection_dim": 6,
    },
    "PaliGemmaBackbone": GEMMA
    | {
        "image_size": SIDE,
        "vit_patch_size": 8,
        "vit_num_heads": 2,
        "vit_hidden_dim": 8,
        "vit_num_layers": 2,
        "vit_intermediate_dim": 12,
    },
    **{f"{name}VisionEncoder": TOWER | PICTURE for name in ("CLIP", "MetaCLIP2", "SigLIP")},
    **{f"{name}TextEncoder": READER for name in ("CLIP", "MetaCLIP2", "SigLIP")},
    "SigLIPBackbone": {
        "vision_encoder": Part("SigLIPVisionEncoder", TOWER | PICTURE),
        "text_encoder": Part("SigLIPTextEncoder", READER),
    },
    # --- vision
    "BASNetBackbone": {"image_encoder": Part("ResNetBackbone", FOUR_STAGES), "num_classes": 1, "projection_filters": 64}
    | {"image_shape": (64, 64, 3)},
    "CSPNetBackbone": PICTURE
    | {
        "stem_filters": 4,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [1, 2],
        "stackwise_strides": [1, 2],
        "stackwise_num_filters": [6, 8],
        "block_type": "dark_block",
        "stage_type": "csp",
        "bottle_ratio": [0.5],
        "expand_ratio": [2.0],
    },
    "DFineBackbone": PICTURE
    | {
        "backbone": Part("HGNetV2Backbone", HGNET | PICTURE | {"out_features": ["stage1", "stage2"]}),
        "decoder_in_channels": [8, 8],
        "encoder_hidden_dim": 8,
        "num_labels": 3,
        "num_denoising": 0,
        "learn_initial_query": False,
        "num_queries": 4,
        "anchor_image_size": (SIDE, SIDE),
        "feat_strides": [4, 8],
        "num_feature_levels": 2,
        "hidden_dim": 8,
        "encoder_in_channels": [8, 12],
        "encode_proj_layers": [1],
        "num_attention_heads": 2,
        "encoder_ffn_dim": 12,
        "num_encoder_layers": 1,
        "hidden_expansion": 0.5,
        "depth_multiplier": 0.5,
        "eval_idx": -1,
        "num_decoder_layers": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 12,
        "decoder_n_points": [2, 2],
        "lqe_hidden_dim": 6,
        "num_lqe_layers": 2,
        "out_features": ["stage1", "stage2"],
        "seed": 0,
    },
    "DINOV2Backbone": TOWER | PICTURE | {"num_register_tokens": 1, "position_embedding_shape": (SIDE, SIDE)},
    "DINOV3Backbone": TOWER | PICTURE | {"num_register_tokens": 1},
    "DeepLabV3Backbone": PICTURE
    | {
        "image_encoder": Part("ResNetBackbone", RESNET | PICTURE),
        "spatial_pyramid_pooling_key": "P3",
        "low_level_feature_key": "P2",
        "upsampling_size": 2,
        "dilation_rates": [2, 3],
        "projection_filters": 4,
    },
    "DeiTBackbone": TOWER | PICTURE,
    "DenseNetBackbone": PICTURE | {"stackwise_num_repeats": [1, 2], "growth_rate": 4},
    "DepthAnythingBackbone": {
        "image_encoder": Part(
            "DINOV2Backbone",
            TOWER | PICTURE | {"patch_size": 4, "num_layers": 4, "position_embedding_shape": (SIDE, SIDE)},
        ),
        "reassemble_factors": [4, 2, 1, 0.5],
        "neck_hidden_dims": [4, 4, 6, 8],
        "fusion_hidden_dim": 6,
        "head_hidden_dim": 4,
        "head_in_index": -1,
        "feature_keys": ["stage1", "stage2", "stage3", "stage4"],
    },
    "EfficientNetBackbone": {
        "stackwise_width_coefficients": [1.0] * 2,
        "stackwise_depth_coefficients": [1.0] * 2,
        "stackwise_kernel_sizes": [3, 3],
        "stackwise_num_repeats": [1, 2],
        "stackwise_input_filters": [8, 8],
        "stackwise_output_filters": [8, 8],
        "stackwise_expansion_ratios": [1, 2],
        "stackwise_squeeze_and_excite_ratios": [0, 0.25],
        "stackwise_strides": [1, 2],
        "stackwise_block_types": ["fused", "unfused"],
        "num_features": 10,
        "input_shape": (SIDE, SIDE, 3),
    },
    "HGNetV2Backbone": HGNET | PICTURE,
    "MiTBackbone": PICTURE
    | {
        "layerwise_depths": [1, 1],
        "num_layers": 2,
        "layerwise_num_heads": [1, 2],
        "layerwise_sr_ratios": [4, 2],
        "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [7, 3],
        "layerwise_strides": [4, 2],
        "hidden_dims": [4, 8],
    },
    "MobileNetBackbone": PICTURE
    | {
        "stackwise_expansion": [[8, 12], [16]],
        "stackwise_num_blocks": [2, 1],
        "stackwise_num_filters": [[8, 8], [12]],
        "stackwise_kernel_size": [[3, 3], [5]],
        "stackwise_num_strides": [[2, 1], [2]],
        "stackwise_se_ratio": [[None, None], [0.25]],
        "stackwise_activation": [["relu", "relu"], ["hard_swish"]],
        "stackwise_padding": [[1, 1], [2]],
        "output_num_filters": 16,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "last_layer_filter": 16,
        "squeeze_and_excite": 0.5,
        "input_num_filters": 8,
    },
    "MobileNetV5Backbone": PICTURE
    | {
        "stackwise_block_types": [["er"], ["uir", "mqa"]],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_filters": [[8], [8, 8]],
        "stackwise_strides": [[2], [2, 1]],
        "stackwise_act_layers": [["relu"], ["gelu", "gelu"]],
        "stackwise_exp_ratios": [[2.0], [2.0, 1.0]],
        "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
        "stackwise_dw_kernel_sizes": [[0], [3, 3]],
        "stackwise_dw_start_kernel_sizes": [[0], [0, 0]],
        "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
        "stackwise_exp_kernel_sizes": [[3], [0, 0]],
        "stackwise_pw_kernel_sizes": [[1], [0, 0]],
        "stackwise_num_heads": [[0], [0, 2]],
        "stackwise_key_dims": [[0], [0, 4]],
        "stackwise_value_dims": [[0], [0, 4]],
        "stackwise_kv_strides": [[0], [0, 2]],
        "stackwise_use_cpe": [[False], [False, False]],
        "stem_size": 4,
        "num_features": 8,
        "use_msfa": True,
        "msfa_output_resolution": 4,
    },
    "PARSeqBackbone": {
        "image_encoder": Part(
            "ViTBackbone", {**{k: v for k, v in TOWER.items() if k != "intermediate_dim"}, "mlp_dim": 12} | PICTURE
        ),
        "vocabulary_size": VOCABULARY,
        "max_label_length": LENGTH - 1,
        "decoder_hidden_dim": 8,
        "num_decoder_layers": 1,
        "num_decoder_heads": 2,
        "decoder_mlp_dim": 12,
    },
    "ResNetBackbone": RESNET | PICTURE,
    "RetinaNetBackbone": {
        "image_encoder": Part("ResNetBackbone", FOUR_STAGES | {"image_shape": (64, 64, 3)}),
        "min_level": 3,
        "max_level": 5,
        "use_p5": False,
        "image_shape": (64, 64, 3),
    },
    "SAM3PromptableConceptBackbone": {
        "vision_encoder": Part(
            "SAM3VisionEncoder",
            {
                "image_shape": (SAM_SIDE, SAM_SIDE, 3),
                "patch_size": 8,
                "num_layers": 2,
                "hidden_dim": 8,
                "intermediate_dim": 12,
                "num_heads": 2,
                "fpn_hidden_dim": 8,
                "fpn_scale_factors": [4.0, 2.0, 1.0, 0.5],
                "pretrain_image_shape": (SAM_SIDE, SAM_SIDE, 3),
                "window_size": 2,
                "global_attn_indexes": [1],
            },
        ),
        "text_encoder": Part("SAM3TextEncoder", {**SIZES, **HEADS, "embedding_dim": 8}),
        "geometry_encoder": Part(
            "SAM3GeometryEncoder",
            {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 12, "num_heads": 2, "roi_size": 3},
        ),
        "detr_encoder": Part(
            "SAM3DetrEncoder", {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 12, "num_heads": 2}
        ),
        "detr_decoder": Part(
            "SAM3DetrDecoder",
            {
                "image_shape": (SAM_SIDE, SAM_SIDE, 3),
                "patch_size": 8,
                "num_layers": 1,
                "hidden_dim": 8,
                "intermediate_dim": 12,
                "num_heads": 2,
                "num_queries": 3,
            },
        ),
        "mask_decoder": Part("SAM3MaskDecoder", {"num_upsampling_stages": 3, "hidden_dim": 8, "num_heads": 2}),
    },
    "SAMBackbone": {
        "image_encoder": Part(
            "ViTDetBackbone",
            {
                "hidden_size": 8,
                "num_layers": 2,
                "intermediate_dim": 12,
                "num_heads": 2,
                "global_attention_layer_indices": [1],
                "patch_size": 8,
                "num_output_channels": 8,
                "window_size": 2,
                "image_shape": (SAM_SIDE, SAM_SIDE, 3),
            },
        ),
        "prompt_encoder": Part(
            "SAMPromptEncoder",
            {
                "hidden_size": 8,
                "image_embedding_size": (SAM_SIDE // 8, SAM_SIDE // 8),
                "input_image_size": (SAM_SIDE, SAM_SIDE),
                "mask_in_channels": 4,
            },
        ),
        "mask_decoder": Part(
            "SAMMaskDecoder",
            {
                "num_layers": 1,
                "hidden_size": 8,
                "intermediate_dim": 12,
                "num_heads": 2,
                "embedding_dim": 8,
                "num_multimask_outputs": 3,
                "iou_head_depth": 2,
                "iou_head_hidden_dim": 8,
            },
        ),
    },
    "SegFormerBackbone": {"image_encoder": Part("MiTBackbone"), "projection_filters": 6},
    "SwinTransformerBackbone": PICTURE
    | {"embed_dim": 4, "depths": (2, 1), "num_heads": (1, 2), "window_size": 4, "patch_size": 4},
    "VGGBackbone": PICTURE | {"stackwise_num_repeats": [1, 2], "stackwise_num_filters": [4, 6]},
    "ViTBackbone": {**{k: v for k, v in TOWER.items() if k != "intermediate_dim"}, "mlp_dim": 12} | PICTURE,
    "ViTDetBackbone": PICTURE
    | {
        "hidden_size": 8,
        "num_layers": 2,
        "intermediate_dim": 12,
        "num_heads": 2,
        "global_attention_layer_indices": [1],
        "patch_size": 8,
        "num_output_channels": 6,
        "window_size": 3,
    },
    "VideoPrismBackbone": {
        "num_frames": 2,
        "patch_size": 8,
        "hidden_dim": 8,
        "intermediate_dim": 12,
        "num_heads": 2,
        "num_spatial_layers": 1,
        "num_temporal_layers": 1,
        "num_auxiliary_layers": 1,
        "vocabulary_size": VOCABULARY,
        "num_text_layers": 1,
        "image_shape": (16, 16, 3),
    },
    "XceptionBackbone": PICTURE | {"stackwise_conv_filters": [[4, 6], [8, 8]], "stackwise_pooling": [True, False]},
}
BACKBONES["SegFormerBackbone"]["image_encoder"] = backbone("MiTBackbone")


CLASSES = {"num_classes": 3}
CLASSIFIERS = "Albert Bert DebertaV3 DistilBert FNet Roberta RoformerV2 XLMRoberta".split()
FILLERS = "Albert Bert DebertaV3 DistilBert FNet Roberta RoformerV2 XLMRoberta".split()
WRITERS = """Bloom Falcon GPT2 GPTNeoX Gemma Gemma3 Gemma3n Gemma4 GptOss Llama Llama3 Mistral Mixtral OPT
    PaliGemma Phi3 Qwen Qwen2 Qwen3 Qwen3Moe QwenMoe Qwen3_5 Qwen3_5Moe RWKV7 SmolLM SmolLM3 BLIP2""".split()
TRANSLATORS = "Bart EdRec T5 T5Gemma T5Gemma2".split()
PICTURES = """CSPNet DeiT DenseNet EfficientNet HGNetV2 MiT MobileNet MobileNetV5 ResNet SwinTransformer VGG ViT
    Xception""".split()
OPTIONS = {
    "HGNetV2ImageClassifier": {"head_filters": 6},
    "MobileNetImageClassifier": {"num_features": 8},
    "MobileNetV5ImageClassifier": {"head_hidden_size": 8},
    "VGGImageClassifier": {"pooling_hidden_dim": 8},
}
FLAN = Part("BLIP2FlanT5", SIZES | HEADS | {"num_query_tokens": 3, "qformer_hidden_dim": 8})
LABELS = Part("PARSeqTokenizer", {"vocabulary": [*"abcdefghijklmnop"]})
TASKS = {
    **{f"{name}TextClassifier": (name, CLASSES) for name in CLASSIFIERS},
    "ESMProteinClassifier": ("ESM", CLASSES),
    **{f"{name}MaskedLM": (name, {}) for name in FILLERS},
    "ESMMaskedPLM": ("ESM", {}),
    "ESM2MaskedPLM": ("ESM2", {}),
    **{f"{name}TextEmbedder": (name, {}) for name in ("Bert", "Gemma3", "Qwen3", "XLMRoberta")},
    **{f"{name}CausalLM": (name, {}) for name in WRITERS},
    **{f"{name}Seq2SeqLM": (name, {}) for name in TRANSLATORS},
    "BLIP2Seq2SeqLM": ("BLIP2", {"backbone": backbone("BLIP2Backbone", language_model=FLAN)}),
    "MoonshineAudioToText": ("Moonshine", {}),
    **{f"{name}ImageClassifier": (name, CLASSES | OPTIONS.get(f"{name}ImageClassifier", {})) for name in PICTURES},
    "PARSeqCausalLM": ("PARSeq", {"preprocessor": Part("PARSeqCausalLMPreprocessor", {"tokenizer": LABELS})}),
    "BASNetImageSegmenter": ("BASNet", {}),
    "DeepLabV3ImageSegmenter": ("DeepLabV3", CLASSES),
    "SAMImageSegmenter": ("SAM", {}),
    "SAM3PromptableConceptImageSegmenter": ("SAM3PromptableConcept", {}),
    "SegFormerImageSegmenter": ("SegFormer", CLASSES),
    "DFineObjectDetector": ("DFine", CLASSES),
    "RetinaNetObjectDetector": ("RetinaNet", CLASSES),
    "DepthAnythingDepthEstimator": ("DepthAnything", {"depth_estimation_type": "relative"}),
}
# what says where a token stands, and whether it counts
NO_SIGNAL = ("_mask", "position_ids", "mask_positions", "labels", "masks", "box_labels")
PICTURES_FROM_NOISE = """FluxBackbone FluxTextToImage StableDiffusion3Backbone StableDiffusion3ImageToImage
    StableDiffusion3Inpaint StableDiffusion3TextToImage""".split()
BASES = """Backbone CausalLM Classifier DepthEstimator FeaturePyramidBackbone ImageClassifier ImageObjectDetector
    ImageSegmenter ImageToImage Inpaint MaskedLM ObjectDetector Seq2SeqLM Task TextClassifier TextEmbedder
    TextToImage""".split()
LEFT_OUT = dict.fromkeys(PICTURES_FROM_NOISE, "makes pictures from noise in many steps: no score of an input")
LEFT_OUT |= dict.fromkeys(BASES, "a base class")
LEFT_OUT["Gemma4AssistantCausalLM"] = "drafts tokens for another model, whose inner states it is fed with"
# all tasks, and the backbones that have none
LISTED = [*TASKS, *(name for name in BACKBONES if name.removesuffix("Backbone") not in {t[0] for t in TASKS.values()})]
# neither biases nor additive positions: all of a score comes from the tokens
WITHOUT_BIAS = """GemmaCausalLM Gemma3CausalLM LlamaCausalLM Llama3CausalLM MistralCausalLM MixtralCausalLM
    Phi3CausalLM Qwen3CausalLM Qwen3MoeCausalLM SmolLMCausalLM SmolLM3CausalLM T5Seq2SeqLM""".split()
# of several outputs, the first of these is explained
OUTPUTS = """pooled_output decoder_sequence_output vision_logits cls_logits logits masks pred_logits scores
    text_embeddings vision_embeddings last_hidden_state image_embeddings stage2 P3 sequence_output depths""".split()


def explained(model):
    """``output=`` for an analyzer of ``model``: None where there is one output."""
    if isinstance(model.output, dict):
        return next(name for name in OUTPUTS if name in model.output)
    return None if not isinstance(model.output, (list, tuple)) else 0


def randomised(model, scale=0.2, seed=0):
    """``model`` with noise on its weights: biases and scales matter, too, and no two are alike."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in weight.dtype and "seed_generator" not in weight.path:
            entries = np.prod(weight.shape[:-1])
            noise = scale * min(1, 4 / max(1, entries) ** 0.5) * rng.normal(size=weight.shape)
            weight.assign(weight + (np.abs(noise) if "variance" in weight.path else noise))
    return model


def build(name):
    """The model of a row of ``BACKBONES`` or ``TASKS``."""
    keras.utils.set_random_seed(0)
    if name in BACKBONES:
        return randomised(backbone(name).make())
    family, options = TASKS[name]
    options = {"backbone": backbone(f"{family}Backbone"), "preprocessor": None} | options
    return randomised(Part(name, options).make())


LATE = 2  # tokens of padding behind the second sample
SIZES_OF = {"encoder_features": 12, "encoder_input_values": 2304, "mask_positions": 2, "boxes": 1, "points": 1}
SIZES_OF |= {"labels": 1, "box_labels": 1}


def inputs(model, batch=2, seed=0):
    """What ``model`` reads, by the names of its inputs; the second sample ends with padding."""
    rng = np.random.default_rng(seed)

    def one(name, spec):
        size = SIZES_OF.get(name, LENGTH)
        shape = (batch, *(size if n is None else n for n in spec.shape[1:]))
        if name.endswith("token_ids"):
            x = rng.integers(1, VOCABULARY, shape)
            x[1:, -LATE:] = 0
        elif name.endswith("_mask"):
            x = np.ones(shape, int)
            x[1:, -LATE:] = 0
        elif name == "position_ids":
            x = np.broadcast_to(np.arange(shape[1]), shape)
        elif name == "segment_ids":
            x = np.broadcast_to(np.arange(shape[1]) > 3, shape)
        elif name == "mask_positions":
            x = np.broadcast_to([1, 3], shape)
        elif name in ("labels", "box_labels"):
            x = np.ones(shape)
        elif name == "masks":
            x = np.zeros((batch, 0, SIDE, SIDE, 1))
        else:
            x = rng.uniform(0, 1, shape)
        return x.astype(spec.dtype)

    specs = model.input
    if isinstance(specs, dict):
        return {name: one(name, spec) for name, spec in specs.items()}
    return [one(spec.name, spec) for spec in specs] if isinstance(specs, list) else one("images", specs)
