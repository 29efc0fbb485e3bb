"""Packed rows say what the padded batch says: log-probabilities, gradients, whatever the rows share."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from transformers import Qwen2_5_VLForConditionalGeneration
from trl.trainer.utils import add_fused_lm_head

from saferflow.data.scenes.corpus import general_rows
from saferflow.params import LoraParams, load_params
from saferflow.training import packed as packing
from saferflow.training.adapters import lora
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.packed import pack, packed
from saferflow.training.policy import save_policy

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
CLOSE = 1e-5
GRADIENT = 1e-4
"""Relative, of each parameter's gradient."""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([row.question for row in general_rows(4, 1, "train")], MICRO.base.vocab_size)


@pytest.fixture(scope="module")
def models(tokenizer):
    """The same weights twice: padded, and packed."""
    found = []
    for _ in range(2):
        model = build_model(MICRO.base, tokenizer, seed=1).train()
        add_fused_lm_head(model, temperature=0.8, outputs=FIELDS)
        found.append(model)
    pack(found[1])
    return found


sizes = st.tuples(st.sampled_from([2, 4]), st.sampled_from([2, 4, 6]))
prompts = st.tuples(st.integers(0, 3), st.lists(st.tuples(sizes, st.integers(0, 2)), max_size=2), st.integers(1, 9))
"""What the words are, size and pixels of each image, and how many words."""
batches = st.lists(st.tuples(prompts, st.integers(1, 12)), min_size=1, max_size=5).flatmap(
    lambda rows: st.tuples(
        st.just(rows), st.lists(st.sampled_from(rows), max_size=4), st.sampled_from(["left", "right"])
    )
)


def batch(model, tokenizer, rows, side):
    """Rows of ((words, images, length), completion's length), padded; the prompt's padding may stand before it or after all."""
    config, told, pixels, grids = model.config, [], [], []
    width = (
        config.vision_config.in_channels * config.vision_config.temporal_patch_size * config.vision_config.patch_size**2
    )
    for number, ((words, images, length), said) in enumerate(rows):
        ids = [80 + 10 * words + place % 7 for place in range(length)]
        for (high, wide), seed in images:
            ids += [
                config.vision_start_token_id,
                *[config.image_token_id] * (high * wide // 4),
                config.vision_end_token_id,
            ]
            grids.append((1, high, wide))
            pixels.append(torch.randn(high * wide, width, generator=torch.Generator().manual_seed(seed)))
        told.append(([*ids, 19], [20 + (number * 3 + place) % 50 for place in range(said)]))
    longest = max(len(prompt) + len(completion) for prompt, completion in told)
    padding = tokenizer.pad_token_id
    ids, mask, labels = [], [], []
    for prompt, completion in told:
        free = longest - len(prompt) - len(completion)
        before, after = (free, 0) if side == "left" else (0, free)
        ids.append([padding] * before + prompt + completion + [padding] * after)
        mask.append([0] * before + [1] * (longest - free) + [0] * after)
        labels.append([-100] * (before + len(prompt)) + completion + [-100] * after)
    made = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}
    made["mm_token_type_ids"] = (made["input_ids"] == config.image_token_id).int()
    if grids:
        made |= {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.tensor(grids)}
    return made


def answers(model, inputs, weights):
    model.zero_grad()
    told = model(**inputs, fused_lm_head=True)
    (told.log_probs * weights).sum().backward()
    return told, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(models, inputs):
    weights = torch.randn(inputs["labels"][:, 1:].shape, generator=torch.Generator().manual_seed(1))
    (padded, expected), (told, found) = (answers(model, inputs, weights) for model in models)
    assert (told.label_mask == padded.label_mask).all()
    for name in FIELDS:
        difference = (told[name].float() - padded[name].float()) * padded.label_mask
        assert difference.abs().max() <= CLOSE, name
        assert (told[name][~padded.label_mask] == 0).all()
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= GRADIENT * gradient.norm() + 1e-7, name


@settings(max_examples=40)
@given(batches)
def test_log_probabilities_and_gradients_are_those_of_the_padded_batch(models, tokenizer, drawn):
    rows, again, side = drawn
    assert_same(models, batch(models[0], tokenizer, rows + again, side))


def test_what_rows_share_stands_in_the_packed_row_once(models, tokenizer):
    image = (((4, 6), 1),)
    rows = [((1, image, 5), 3), ((1, image, 5), 7), ((1, (((4, 6), 2),), 5), 2), ((2, (), 4), 2)]
    inputs = batch(models[0], tokenizer, rows, "left")
    made = packed(models[1].model, **inputs)
    prompt = 5 + 1 + 6 + 1 + 1
    assert made.ids.shape[1] == prompt + 3 + 7 + prompt + 2 + 5 + 2
    assert made.sight.lines.shape == (3, prompt + 2)
    assert made.sight.asking.shape == (2, 7)
    assert len(made.pixels) == 2 * 24
    assert made.unpadded_tokens == inputs["attention_mask"].sum()
    assert made.labels.shape[1] == 3 + 7 + 2 + 2


def test_other_pixels_are_another_image_though_the_words_are_the_same(models, tokenizer):
    rows = [((1, (((2, 2), seed),), 3), 2) for seed in (1, 2, 1)]
    made = packed(models[1].model, **batch(models[0], tokenizer, rows, "left"))
    assert (len(made.sight.lines), len(made.sight.asking)) == (2, 2)


@pytest.fixture
def attentions(monkeypatch):
    """Key heads, query heads and `enable_gqa` of each masked call of torch's attention; the calls go through."""
    calls, plain = [], packing.F.scaled_dot_product_attention

    def attend(query, key, value, attn_mask=None, enable_gqa=False, **kwargs):
        if attn_mask is not None:
            calls.append((key.shape[1], query.shape[1], enable_gqa))
        return plain(query, key, value, attn_mask=attn_mask, enable_gqa=enable_gqa, **kwargs)

    monkeypatch.setattr(packing.F, "scaled_dot_product_attention", attend)
    return calls


def test_a_device_without_a_kernel_for_it_is_not_asked_to_share_keys_under_a_mask(models, tokenizer, attentions):
    """CUDA's fast kernels with a mask want equal heads; the shapes are seen on torch's device without data."""
    sight = packed(models[1].model, **batch(models[0], tokenizer, [((1, (), 5), 3)] * 2, "left")).sight
    sight = packing.Sight(*(getattr(sight, name).to("meta") for name in ("lines", "asking", "seen", "mask", "back")))
    query, key = (torch.empty(1, heads, 6 + 2 * 3, 8, device="meta") for heads in (4, 2))
    packing._attend(None, query, key, key, None, packed=SimpleNamespace(sight=sight))
    assert attentions == [(4, 4, False)]


def test_repeated_keys_give_the_log_probabilities_and_gradients_of_the_padded_batch(tokenizer, attentions, monkeypatch):
    monkeypatch.setattr(packing, "SHARES_KEYS_UNDER_A_MASK", frozenset())
    heads = MICRO.base.model_copy(update={"heads": 4, "kv_heads": 2, "hidden_size": 64})
    pair = [build_model(heads, tokenizer, seed=1).train() for _ in range(2)]
    for model in pair:
        add_fused_lm_head(model, outputs=FIELDS)
    pack(pair[1])
    rows = [((1, (((2, 4), 1),), 5), said) for said in (3, 5, 2)]
    assert_same(pair, batch(pair[0], tokenizer, rows, "left"))
    assert (4, 4, False) in attentions
    assert not any(shares for *_, shares in attentions)


def test_a_row_without_any_label_has_no_part_in_it(models, tokenizer):
    inputs = batch(models[0], tokenizer, [((1, (), 5), 3), ((2, (), 5), 3)], "right")
    inputs["labels"][1] = -100
    assert packed(models[1].model, **inputs).ids.shape[1] == 9
    assert_same(models, inputs)


@pytest.mark.parametrize("what", ["no labels", "an image in the completion", "too few image tokens"])
def test_what_cannot_be_packed_is_left_to_the_padded_way(models, tokenizer, what):
    inputs = batch(models[0], tokenizer, [((1, (((2, 4), 1),), 5), 3)], "right")
    if what == "no labels":
        inputs["labels"][:] = -100
    elif what == "an image in the completion":
        inputs["labels"] = inputs["input_ids"].clone()
        inputs["labels"][:, :3] = -100
    else:
        inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]])
    assert packed(models[1].model, **inputs) is None


def test_generation_is_what_it_was(models, tokenizer):
    inputs = batch(models[0], tokenizer, [((1, (((2, 4), 1),), 5), 3), ((2, (), 3), 3)], "left")
    del inputs["labels"]
    padded, told = (model.generate(**inputs, max_new_tokens=8, do_sample=False) for model in models)
    assert padded.tolist() == told.tolist()


def test_recomputed_activations_give_the_same_gradients(models, tokenizer):
    inputs = batch(models[0], tokenizer, [((1, (((2, 4), 1),), 5), 3)] * 2 + [((2, (), 3), 4)], "left")
    for model in models:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        assert_same(models, inputs)
    finally:
        for model in models:
            model.gradient_checkpointing_disable()


def test_an_adapter_is_trained_alike(tokenizer):
    adapter = LoraParams(rank=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj"))
    found = []
    for _ in range(2):
        model = build_model(MICRO.base, tokenizer, seed=1).train()
        add_fused_lm_head(model, outputs=FIELDS)
        torch.manual_seed(2)
        model = get_peft_model(model, lora(MICRO.policy.model_copy(update={"lora": adapter}), model))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        found.append(model)
    pack(found[1])
    assert_same(found, batch(found[0], tokenizer, [((1, (((2, 4), 1),), 5), 3)] * 3, "left"))


def test_a_saved_policy_says_nothing_of_it(tokenizer, tmp_path):
    model = build_model(MICRO.base, tokenizer, seed=1)
    pack(model)
    save_policy(tmp_path, model, build_processor(tokenizer, MICRO.policy))
    assert "saferflow" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    assert plain.config.text_config._attn_implementation == "sdpa"
