"""Small random models of Qwen-Image's own classes, and a whole pipeline folder of them."""

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

WIDTH = 24  # of the text encoder
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def small_models():
    """``(transformer, vae)``; the VAE shrinks by 4."""
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    ).eval()
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=16, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True]
    ).eval()
    return transformer, vae


def small_text_model():
    """``(text encoder, tokenizer)``: every byte is a token."""
    torch.manual_seed(0)
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *sorted(ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=list(SPECIAL[1:]))
    size = {"hidden_size": WIDTH, "intermediate_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen2_5_VLConfig(
        text_config={
            **size,
            **heads,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 2,
            "bos_token_id": None,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4},
        },
        vision_config={**size, "depth": 1, "num_heads": 2, "out_hidden_size": WIDTH},
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval(), tokenizer


def small_pipeline(shift=3.0):
    """A whole pipeline with a static shift."""
    transformer, vae = small_models()
    text_encoder, tokenizer = small_text_model()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    pipeline = QwenImagePipeline(scheduler, vae, text_encoder, tokenizer, transformer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
