"""Sampling from one prefill: what `generate` says greedily, the same chances, and rows that leave when they are done."""

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers.cache_utils import DynamicLayer

from saferflow.data.scenes.corpus import general_rows
from saferflow.params import load_params
from saferflow.training.branching import Roomy, _drawn, _until_the_end, sample, unsayable
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.generate import Prompt, complete, ends_of

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")


@pytest.fixture(scope="module")
def parts():
    """A model, its processor, and prompts of different lengths, one of them without an image."""
    rows = list(general_rows(4, 1, "train"))
    tokenizer = train_tokenizer([text for row in rows for text in (row.question, row.answer)], MICRO.base.vocab_size)
    wide = MICRO.base.model_copy(
        update={"initializer_range": 0.6}
    )  # one that does not say the same token again and again
    model = build_model(wide, tokenizer, seed=1).eval()
    processor = build_processor(tokenizer, MICRO.policy)
    images = [rows[0].image, None, rows[2].image, rows[3].image]
    prompts = [
        Prompt("", row.question * (n + 1), image) for n, (row, image) in enumerate(zip(rows, images, strict=True))
    ]
    return model, processor, prompts


def inputs(parts):
    from saferflow.data.images import open_rgb
    from saferflow.training.conversation import chat

    _, processor, prompts = parts
    images = [open_rgb(prompt.image) if prompt.image else None for prompt in prompts]
    turns = [chat(p.system, p.question, image) for p, image in zip(prompts, images, strict=True)]
    texts = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    shown = [[image] for image in images if image is not None]
    return dict(processor(text=texts, images=shown, padding=True, return_tensors="pt"))


def trimmed(row, ends):
    return _until_the_end(row, ends)


@pytest.mark.parametrize("branches", [[0, 1, 2, 3], [0, 0, 0, 2], [3, 1, 1, 0, 2, 3]])
def test_greedily_it_says_what_generate_says(parts, branches):
    """With tokens that end some rows early, so that they leave the batch before the others."""
    model, told = parts[0], inputs(parts)
    whole = model.generate(**told, max_new_tokens=12, do_sample=False, eos_token_id=None)[
        :, told["input_ids"].shape[1] :
    ]
    ends = {whole[0, 2].item(), whole[1, 7].item()}
    expected = [trimmed(whole[branch].tolist(), ends) for branch in branches]
    found = sample(model, told, branches, max_tokens=12, temperature=0, top_p=1, ends=ends)
    assert found == expected
    assert len({len(row) for row in found}) > 1


def test_a_model_under_an_adapter_that_has_learnt_nothing_says_what_the_model_says(parts):
    model, asked = parts[0], inputs(parts)
    drawn = {"max_tokens": 6, "temperature": 0, "top_p": 1, "ends": set()}
    expected = sample(model, asked, [0, 1, 2, 3], **drawn)
    adapter = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["q_proj"])).eval()
    assert sample(adapter, asked, [0, 1, 2, 3], **drawn) == expected


def test_each_token_is_drawn_by_its_chance(parts):
    model, told = parts[0], inputs(parts)
    logits = model(**told).logits[:, -1] / 0.7
    chances = logits.softmax(dim=-1)
    torch.manual_seed(3)
    rows = 4000
    found = sample(model, told, [2] * rows, max_tokens=1, temperature=0.7, top_p=1, ends=set())
    counts = Counter(token for [token] in found)
    top = chances[2].topk(5)
    for chance, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        spread = (rows * chance * (1 - chance)) ** 0.5
        assert abs(counts[token] - rows * chance) < 5 * spread


@settings(max_examples=50)
@given(st.lists(st.floats(-4, 4), min_size=2, max_size=12), st.floats(0.05, 1))
def test_top_p_keeps_the_fewest_tokens_that_have_so_much_chance(logits, top_p):
    told = torch.tensor([logits])
    chances, order = told.softmax(-1)[0].sort(descending=True)
    before = chances.cumsum(0) - chances
    allowed = set(order[before <= top_p + 1e-6].tolist())
    torch.manual_seed(1)
    assert {_drawn(told, 1.0, top_p).item() for _ in range(20)} <= allowed


@given(st.lists(st.integers(0, 5), max_size=8), st.sets(st.integers(0, 5), max_size=2))
def test_a_row_ends_with_its_first_end(row, ends):
    found = _until_the_end([*row, -1, -1], ends)
    assert found == row[: len(found)]
    assert not set(found[:-1]) & ends
    assert len(found) == len(row) or found[-1] in ends


def test_completions_stand_in_the_order_of_the_prompts_each_as_often_as_asked(parts):
    model, processor, prompts = parts
    alone = [next(iter(complete(model, processor, [p], batch_size=1, max_tokens=6)))[0] for p in prompts]
    together = list(complete(model, processor, prompts, batch_size=3, max_tokens=6, samples=2))
    assert together == [[text, text] for text in alone]


def test_no_completion_has_the_token_of_an_image(parts):
    """Though the policy would say nothing else."""
    model, told = parts[0], inputs(parts)
    unsaid = unsayable(model.config)
    likeliest = model.lm_head.register_forward_hook(
        lambda module, args, logits: logits.index_fill(-1, torch.tensor(unsaid), 99.0)
    )
    try:
        torch.manual_seed(1)
        for temperature in (0, 1.0):
            found = sample(model, told, [0, 1, 2, 3] * 4, max_tokens=6, temperature=temperature, top_p=1, ends=set())
            assert not {token for row in found for token in row} & set(unsaid)
    finally:
        likeliest.remove()


def test_the_ends_are_those_of_the_model(parts):
    model, processor, _ = parts
    assert ends_of(model) == {processor.tokenizer.eos_token_id}


moves = st.lists(st.one_of(st.integers(1, 2), st.lists(st.integers(0, 2), min_size=1, max_size=4)), max_size=6)


@given(moves)
def test_a_cache_with_room_holds_what_one_without_holds(moves):
    source = torch.Generator().manual_seed(1)

    def drawn(rows, places):
        return torch.randn(rows, 2, places, 3, generator=source), torch.randn(rows, 2, places, 3, generator=source)

    plain = DynamicLayer()
    plain.update(*drawn(3, 4))
    roomy = Roomy(plain, sum(move for move in moves if isinstance(move, int)))
    for move in moves:
        rows = len(plain.keys)
        if isinstance(move, int):
            told = drawn(rows, move)
            for expected, found in zip(plain.update(*told), roomy.update(*told), strict=True):
                assert torch.equal(expected, found)
        else:
            kept = torch.tensor([row % rows for row in move])
            plain.batch_select_indices(kept)
            roomy.batch_select_indices(kept)
        assert roomy.get_seq_length() == plain.get_seq_length()
        assert torch.equal(roomy.keys, plain.keys)
        assert torch.equal(roomy.values, plain.values)
