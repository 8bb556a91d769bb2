"""Tiny models of Transformers, made from a configuration: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

VOCABULARY, TOKENS = 24, 8

_BLOCK = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
_TEXT = {**_BLOCK, "vocab_size": VOCABULARY, "max_position_embeddings": 16}
_SPEECH = {
    **_BLOCK,
    "vocab_size": 6,
    "conv_dim": (8, 8),
    "conv_kernel": (8, 4),
    "conv_stride": (4, 2),
    "num_feat_extract_layers": 2,
    "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "ctc_loss_reduction": "mean",
    "mask_time_prob": 0.0,
}

CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", _TEXT),
    "bert tokens": ("BertForTokenClassification", "BertConfig", _TEXT),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**_TEXT, "num_key_value_heads": 2}),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", _SPEECH),
    "wav2vec2 classes": ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", _SPEECH),
    "segformer": (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [8, 8],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "num_attention_heads": [1, 1],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 8,
        },
    ),
    "yolos": (
        "YolosForObjectDetection",
        "YolosConfig",
        {**_BLOCK, "image_size": [16, 16], "patch_size": 8, "num_detection_tokens": 4},
    ),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {**_BLOCK, "image_size": 8, "patch_size": 4, "num_channels": 1},
    ),
}
"""Class, configuration's class, and options."""


def make(name: str, *, dropout: float = 0.0, **options: Any) -> nn.Module:
    """A model of Transformers with three labels, without dropout unless asked for."""
    import transformers

    kind, config, base = CONFIGS[name]
    torch.manual_seed(0)
    options = {**base, **options}
    if name not in ("llama", "wav2vec2"):
        options.setdefault("num_labels", 3)
    settings = getattr(transformers, config)(**options)
    for field in vars(settings):
        if field.endswith(("dropout", "dropout_prob")) or field in ("layerdrop", "drop_path_rate"):
            setattr(settings, field, dropout if "layer" not in field else 0.0)
    model: nn.Module = getattr(transformers, kind)(settings)
    return model


def sentences(n: int, *, seed: int = 0, left: bool = False) -> dict[str, torch.Tensor]:
    """Token ids of different lengths with their mask, padded at the end or at the beginning."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (n, TOKENS), generator=generator)
    lengths = torch.arange(n) % 5 + TOKENS - 4
    mask = torch.arange(TOKENS) < lengths[:, None]
    if left:
        mask = mask.flip(1)
    return {"input_ids": ids * mask, "attention_mask": mask.long()}
