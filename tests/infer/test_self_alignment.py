"""A model against its own names: all decided, nothing crossed, for families of every kind."""

from __future__ import annotations

from typing import Any

import pytest

import ckptmap
from ckptmap.rules.plan import bind

SMALL: dict[str, Any] = {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4} | {
    "intermediate_size": 72,
    "max_position_embeddings": 40,
}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 72, "decoder_ffn_dim": 72}
TWO = dict(vocab_size=101, d_model=32, encoder_layers=2, decoder_layers=2, **HEADS)
IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 72,
    "image_size": 16,
    "patch_size": 4,
}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", SMALL | {"embedding_size": 16}),
    "bart": ("BartForConditionalGeneration", "BartConfig", TWO | {"max_position_embeddings": 40}),
    "bert": ("BertForMaskedLM", "BertConfig", SMALL),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"vocab_size": 101, "hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {"text_config": SMALL | {"num_hidden_layers": 3}, "vision_config": IMAGE, "projection_dim": 16},
    ),
    "convnext": ("ConvNextModel", "ConvNextConfig", {"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2}),
    "deberta": ("DebertaV2Model", "DebertaV2Config", SMALL | {"relative_attention": True, "pos_att_type": ["p2c"]}),
    "deit": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", IMAGE),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": 101, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 72, "max_position_embeddings": 40},
    ),
    "falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    ),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", SMALL | {"num_key_value_heads": 2, "head_dim": 8}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": 101,
            "n_positions": 36,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", SMALL),
    "llama": ("LlamaForCausalLM", "LlamaConfig", SMALL | {"num_key_value_heads": 2}),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", SMALL | {"num_key_value_heads": 2, "num_local_experts": 4}),
    "mobilenet": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.35}),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 72}
        | {"max_position_embeddings": 40, "word_embed_proj_dim": 32},
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", SMALL | {"num_key_value_heads": 2, "pad_token_id": 0}),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic"},
    ),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", SMALL | {"type_vocab_size": 1}),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "t5": (
        "T5Model",
        "T5Config",
        {
            "vocab_size": 101,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 72,
            "num_layers": 2,
            "num_heads": 4,
        },
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGE),
    "wav2vec2": (
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 72,
            "conv_dim": (8, 8),
        }
        | {
            "conv_stride": (5, 2),
            "conv_kernel": (10, 3),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        },
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        TWO
        | {
            "num_mel_bins": 10,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_own_names_are_decided_whole_under_any_prefix(family: str) -> None:
    import torch
    import transformers

    class_name, config_name, values = FAMILIES[family]
    with torch.device("meta"):
        model = getattr(transformers, class_name)(getattr(transformers, config_name)(**values))
    left = {name: ckptmap.TensorSpec(name, tuple(one.shape), "F32") for name, one in model.state_dict().items()}
    for prefix in ("", "module.", "net.0."):
        right = {prefix + name: ckptmap.TensorSpec(prefix + name, one.shape, "F32") for name, one in left.items()}
        found = ckptmap.remap(left, right)
        plan = bind(found.rules, *({name: one.shape for name, one in side.items()} for side in (left, right)))
        assert all(one.rename and one.right[0] == prefix + one.left[0] for one in plan.equations)
        assert not found.undecided
