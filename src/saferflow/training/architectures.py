"""The architectures of the real profiles, so that tests and benchmarks build them without a checkpoint.

Sizes as published in the checkpoints' own config.json (Qwen/Qwen2.5-VL-3B-Instruct, -7B-Instruct).
"""

from transformers import Qwen2_5_VLConfig

VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
TEXT = {
    "max_position_embeddings": 128_000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
    "bos_token_id": 151_643,
    "eos_token_id": 151_645,
}
SIZES = {
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
    },
}


def architecture(size: str) -> Qwen2_5_VLConfig:
    """The configuration of Qwen2.5-VL in a published size, `3b` or `7b`."""
    text = {**TEXT, **SIZES[size]}
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config={**VISION, "out_hidden_size": text["hidden_size"]},
        tie_word_embeddings=size == "3b",
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
    )
