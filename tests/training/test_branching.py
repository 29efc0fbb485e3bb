"""Sampling from one prefill: what `generate` says greedily, the same chances, whatever was drafted, and rows that leave."""

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
from saferflow.training.branching import _Draw, _drawn, _Rows, _Turn, image_token_ids, sample
from saferflow.training.cache import Branched, Places
from saferflow.training.drafts import Draft, Drafter
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
    """A row up to its first end."""
    stop = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
    return row[:stop]


class Wrong(Drafter):
    """Drafts tokens that nobody says, and is sure of them."""

    def next(self, context):
        return context[-1] % 7 + 3, 1.0


def drafter(kind, model, told, branches, ends):
    """One that knows nothing, one that heard these prompts' greedy completions before, or one that is mostly wrong."""
    if kind == "wrong":
        return Wrong()
    known = Drafter()
    if kind == "knows":
        sample(model, told, branches, max_tokens=12, temperature=0, top_p=1, ends=ends, drafter=known)
    return known


DRAFTERS = ["new", "knows", "wrong"]


@pytest.mark.parametrize("kind", DRAFTERS)
@pytest.mark.parametrize("branches", [[0, 1, 2, 3], [0, 0, 0, 2], [3, 1, 1, 0, 2, 3]])
def test_greedily_it_says_what_generate_says(parts, branches, kind):
    """With tokens that end some rows early, so that they leave the batch before the others."""
    model, told = parts[0], inputs(parts)
    whole = model.generate(**told, max_new_tokens=12, do_sample=False, eos_token_id=None)[
        :, told["input_ids"].shape[1] :
    ]
    ends = {whole[0, 2].item(), whole[1, 7].item()}
    expected = [trimmed(whole[branch].tolist(), ends) for branch in branches]
    known = drafter(kind, model, told, branches, ends)
    found = sample(model, told, branches, max_tokens=12, temperature=0, top_p=1, ends=ends, drafter=known)
    assert found == expected
    assert len({len(row) for row in found}) > 1


def test_a_model_under_an_adapter_that_has_learnt_nothing_says_what_the_model_says(parts):
    model, asked = parts[0], inputs(parts)
    drawn = {"max_tokens": 6, "temperature": 0, "top_p": 1, "ends": set()}
    expected = sample(model, asked, [0, 1, 2, 3], **drawn)
    adapter = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["q_proj"])).eval()
    assert sample(adapter, asked, [0, 1, 2, 3], **drawn) == expected


@pytest.mark.parametrize("top_p", [1, 0.8])
def test_a_draft_changes_nothing_of_what_is_drawn(parts, top_p):
    """Row by row and place by place the same random numbers."""
    model, told = parts[0], inputs(parts)
    branches, ends = [0, 1, 2, 3] * 3, {5, 9, 11}
    found = []
    for kind in DRAFTERS:
        known = drafter(kind, model, told, branches, ends)
        torch.manual_seed(4)
        found.append(
            sample(model, told, branches, max_tokens=20, temperature=0.9, top_p=top_p, ends=ends, drafter=known)
        )
    assert found[0] == found[1] == found[2]
    assert len({tuple(row) for row in found[0]}) > 4


def test_a_draft_that_holds_saves_passes(parts):
    model, told = parts[0], inputs(parts)
    passes = []
    counting = model.register_forward_hook(lambda module, args, output: passes.append(output.logits.shape[1]))
    try:
        known = drafter("knows", model, told, [0, 1], set())
        assert len(passes) == 12  # one for the prompts and the first token, and one for each later token
        del passes[:]
        sample(model, told, [0, 1], max_tokens=12, temperature=0, top_p=1, ends=set(), drafter=known)
    finally:
        counting.remove()
    assert len(passes) < 6
    assert max(passes) > 4


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


class Only:
    """A grammar of its own for row 1: so many of the tokens are allowed."""

    def __init__(self, allowed):
        self.allowed, self.masks = set(allowed), 0

    def __contains__(self, row):
        return row == 1

    def accept(self, row, tokens):
        return row != 1 or set(tokens) <= self.allowed

    def mask(self, rows, width):
        self.masks += 1
        return torch.tensor([[token in self.allowed for token in range(width)]] * len(rows))


def drawn_under(grammar, logits, rows, count, temperature):
    """Of each row so many first tokens, each by numbers of its own."""
    draw = _Draw([], temperature, 1, (rows, count), torch.device("cpu"), grammar)
    texts = _Rows(rows, count + 1, (), Drafter(), None)
    for _ in range(count):
        new = draw.verified(logits.clone(), [_Turn(row, Draft(), row) for row in range(rows)], texts)
        for row, tokens in new.items():
            texts.texts[row] += tokens
    return texts.texts


def test_under_a_grammar_each_token_is_drawn_by_its_share_of_what_is_allowed():
    """Chi-square over 4,000 draws with 3 degrees of freedom: 21.1 is passed in 1 of 10,000 cases; the seed is fixed."""
    logits = torch.tensor([[2.0, 1.5, 1.0, 0.5, 0.0, -0.5]] * 2)
    allowed, draws = [1, 3, 4, 5], 4000
    torch.manual_seed(6)
    counts = Counter(drawn_under(Only(allowed), logits, 2, draws, 1.0)[1])
    assert set(counts) == set(allowed)
    means = (draws * logits[1, allowed].softmax(-1)).tolist()
    assert sum((counts[token] - mean) ** 2 / mean for token, mean in zip(allowed, means, strict=True)) < 21.1


def test_a_row_that_keeps_to_its_grammar_costs_no_mask():
    logits = torch.tensor([[2.0, 1.0, 0.0]] * 2)
    keeps, leaves = Only([0, 2]), Only([1, 2])
    assert drawn_under(keeps, logits, 2, 3, 0) == [[0, 0, 0], [0, 0, 0]]
    assert drawn_under(leaves, logits, 2, 3, 0) == [[0, 0, 0], [1, 1, 1]]
    assert (keeps.masks, leaves.masks) == (0, 3)


@settings(max_examples=50)
@given(st.lists(st.floats(-4, 4), min_size=2, max_size=12), st.floats(0.05, 1))
def test_top_p_keeps_the_fewest_tokens_that_have_so_much_chance(logits, top_p):
    told = torch.tensor([logits])
    chances, order = told.softmax(-1)[0].sort(descending=True)
    before = chances.cumsum(0) - chances
    allowed = set(order[before <= top_p + 1e-6].tolist())
    torch.manual_seed(1)
    numbers = torch.rand(20, 1, dtype=torch.float64)
    assert {_drawn(told, 1.0, top_p, number).item() for number in numbers} <= allowed


def test_completions_stand_in_the_order_of_the_prompts_each_as_often_as_asked(parts):
    model, processor, prompts = parts
    alone = [next(iter(complete(model, processor, [p], batch_size=1, max_tokens=6)))[0] for p in prompts]
    together = list(complete(model, processor, prompts, batch_size=3, max_tokens=6, samples=2))
    assert together == [[text, text] for text in alone]


def test_no_completion_has_the_token_of_an_image(parts):
    """Though the policy would say nothing else."""
    model, told = parts[0], inputs(parts)
    unsaid = image_token_ids(model.config)
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


widths = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=5)


@given(widths, st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_the_cache_holds_what_each_row_keeps_of_a_step(steps, selected):
    """Rows take in different numbers of a step's tokens; the next step writes over the others."""
    source = torch.Generator().manual_seed(1)

    def drawn(width):
        return torch.randn(3, 2, width, 4, generator=source), torch.randn(3, 2, width, 4, generator=source)

    plain = DynamicLayer()
    keys, values = drawn(5)
    plain.update(keys, values)
    places = Places(torch.ones(3, 5, dtype=torch.long), torch.zeros(3, 1, dtype=torch.long), heads=1)
    branched = Branched(plain, places)
    rows = [(keys[row], values[row]) for row in range(3)]
    cached = [0, 0, 0]
    for width, rejected in steps:
        places.advance(cached, width)
        new_keys, new_values = drawn(width)
        seen = branched.update(new_keys, new_values)
        for row in range(3):
            kept = max(1, width - (rejected + row) % 3)
            whole = [
                torch.cat([old, new[row]], dim=-2) for old, new in zip(rows[row], (new_keys, new_values), strict=True)
            ]
            for tensor, expected in zip(seen, whole, strict=True):
                assert torch.equal(tensor[row, :, : expected.shape[-2]], expected)
            assert places.mask[row, 0, -1].sum() == whole[0].shape[-2]
            rows[row] = [each[:, : 5 + cached[row] + kept] for each in whole]
            cached[row] += kept
    indices = torch.tensor(selected)
    branched.batch_select_indices(indices)
    places.select(indices)
    places.advance([cached[row] for row in selected], 1)
    last = torch.zeros(len(selected), 2, 1, 4)
    for tensor, number in zip(branched.update(last, last), (0, 1), strict=True):
        for place, row in enumerate(selected):
            assert torch.equal(tensor[place, :, : 5 + cached[row]], rows[row][number])
