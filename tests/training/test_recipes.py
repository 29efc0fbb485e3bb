"""The real profiles: whole parameter files, the published values, and models of the published sizes."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from saferflow.params import load_params
from saferflow.planner.perturb import unknown
from saferflow.training.adapters import lora
from saferflow.training.architectures import architecture

PROFILES = Path(__file__).parents[2] / "profiles"
PARAMETERS = {"3b": 3_754_622_976, "7b": 8_292_166_656}
"""As the checkpoints' own indices count them."""
VOCABULARY = {"3b": 151_936, "7b": 152_064}


@pytest.mark.parametrize("size", PARAMETERS)
def test_a_profile_builds_a_model_of_the_published_size(size):
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(architecture(size))
    assert model.num_parameters() == PARAMETERS[size]
    assert model.get_input_embeddings().num_embeddings == VOCABULARY[size]
    assert load_params(PROFILES / f"qwen2.5-vl-{size}.yaml").policy.base.endswith(f"{size.upper()}-Instruct")


@pytest.mark.parametrize("size", PARAMETERS)
def test_the_published_values_stand_in_the_profile(size):
    """SaFeR-ToolKit's recipe, arXiv 2603.02635 and its released code."""
    params = load_params(PROFILES / f"qwen2.5-vl-{size}.yaml")
    assert (params.sft.learning_rate, params.dpo.learning_rate, params.grpo.learning_rate) == (1e-5, 5e-7, 1e-6)
    grpo = params.grpo
    assert (grpo.group, grpo.temperature, grpo.top_p, grpo.epochs, grpo.kl) == (4, 1.0, 1.0, 2, 0.01)
    assert (grpo.rollout_batch // grpo.group, grpo.batch_size // grpo.group) == (256, 32)
    assert (grpo.clip_low, grpo.clip_high, grpo.dual_clip, grpo.loss_mean) == (0.2, 0.3, 3.0, "token")
    assert (grpo.adam_betas, grpo.weight_decay, grpo.schedule, grpo.warmup_share) == ((0.9, 0.999), 0.01, "constant", 0)
    assert (grpo.rewards, grpo.term_weights) == ({"toolkit": 1.0}, (0.1, 0.2, 0.7))
    assert (params.policy.min_pixels, params.policy.max_pixels) == (262_144, 4_194_304)
    assert (params.curate.max_prompt_tokens, params.policy.max_completion_tokens) == (4096, 2048)
    assert params.policy.lora is None
    assert params.policy.train_vision
    assert params.plan.pairs_per_prompt == 3
    assert not unknown(params.plan.perturbations)


def test_an_adapter_fits_the_published_architecture():
    from peft import get_peft_model

    from saferflow.params import LoraParams

    policy = load_params(PROFILES / "qwen2.5-vl-3b.yaml").policy
    adapter = LoraParams(rank=64, alpha=128, dropout=0.05, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    with torch.device("meta"):
        whole = Qwen2_5_VLForConditionalGeneration(architecture("3b"))
        model = get_peft_model(whole, lora(policy.model_copy(update={"lora": adapter}), whole))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    layer = 64 * ((2048 + 2048) + 2 * (2048 + 256) + (2048 + 2048))
    assert trained == 36 * layer
