"""The order of the rows: every row, the longest first in the first epoch, the same after a resume."""

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import RepeatSampler

from saferflow.data.images import open_rgb
from saferflow.data.scenes.corpus import general_rows
from saferflow.params import load_params
from saferflow.training.embedded import build_processor, train_tokenizer
from saferflow.training.order import Balanced, LongestFirst, dealt, lengths

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
row_lengths = st.lists(st.integers(1, 50), min_size=1, max_size=40)


def shuffled(rows):
    """As TRL's GRPO draws them: every prompt four times, whole batches only."""

    def order(epoch):
        return RepeatSampler(range(rows), mini_repeat_count=4, batch_size=2, repeat_count=3, seed=7 + epoch)

    return order


@given(row_lengths, st.integers(1, 10), st.integers(0, 3))
def test_every_epoch_has_the_rows_that_it_would_have_and_only_the_first_is_exchanged(row_lengths, first, epoch):
    order = shuffled(len(row_lengths))
    found = list(LongestFirst(order, lambda: epoch, row_lengths, first))
    plain = list(order(epoch))
    assert sorted(Counter(found).values()) == sorted(Counter(plain).values())
    assert len(found) == len(plain)
    if epoch:
        assert found == plain


@given(row_lengths, st.integers(1, 10))
def test_the_longest_rows_come_first_each_as_often_as_the_order_has_it(row_lengths, first):
    order = shuffled(len(row_lengths))
    found = list(LongestFirst(order, lambda: 0, row_lengths, first))
    begins = list(dict.fromkeys(found))[:first]
    assert (
        sorted((row_lengths[row] for row in begins), reverse=True) == sorted(row_lengths, reverse=True)[: len(begins)]
    )
    assert [found.index(row) for row in begins] == [list(order(0)).index(row) for row in dict.fromkeys(order(0))][
        :first
    ]


def test_a_length_is_that_of_the_texts_and_of_the_image():
    rows = list(general_rows(3, 1, "train"))
    tokenizer = train_tokenizer([text for row in rows for text in (row.question, row.answer)], MICRO.base.vocab_size)
    processor = build_processor(tokenizer, MICRO.policy)
    texts = [(row.question, row.answer) for row in rows]
    bare = lengths(processor, texts, [None] * 3)
    assert bare == [len(tokenizer("".join(pair))["input_ids"]) for pair in texts]
    seen = processor(images=[[open_rgb(rows[0].image)]], text=[processor.image_token])["input_ids"][0]
    with_image = lengths(processor, texts, [rows[0].image, None, None])
    assert with_image == [bare[0] + list(seen).count(processor.image_token_id), *bare[1:]]
    assert with_image[0] > bare[0]


@given(row_lengths, st.integers(1, 4), st.integers(1, 4), st.randoms())
def test_steps_keep_their_rows_and_their_micro_batches_are_about_as_long(row_lengths, parts, size, draw):
    order = list(range(len(row_lengths)))
    draw.shuffle(order)
    found = list(Balanced(order, row_lengths, parts, size))
    step = parts * size
    for start in range(0, len(order), step):
        before, after = order[start : start + step], found[start : start + step]
        assert sorted(before) == sorted(after)
        if len(after) == step:
            tokens = [sum(row_lengths[row] for row in after[i : i + size]) for i in range(0, step, size)]
            assert tokens[0] == max(tokens)
            assert max(tokens) - min(tokens) <= max(row_lengths[row] for row in after)


def test_long_and_short_rows_share_micro_batches():
    assert dealt([0, 1, 2, 3], [10, 10, 1, 1], 2) == [0, 2, 1, 3]
