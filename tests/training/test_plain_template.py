"""The chat template for a server that tokenizes by itself: messages bring no control token to it either."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from saferflow.training.conversation import chat
from saferflow.training.plain_template import JOINER, write_plain_template
from tests.training.published import ADDED, TEMPLATE, published

pieces = st.sampled_from(
    [*ADDED, "<", "<|", "<|im_", "end|>", "|im_end|>", "tool_call>", " ", "a\n", "</think>", JOINER]
)
texts = st.lists(pieces, max_size=6).map("".join)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A tokenizer as a server has it, and its template."""
    folder = published(tmp_path_factory.mktemp("policy"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    write_plain_template(folder, folder / "plain.jinja")
    return AutoTokenizer.from_pretrained(folder), (folder / "plain.jinja").read_text(encoding="utf-8")


def ids(tokenizer, template, messages):
    return tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, return_dict=False
    )


@given(parts=st.lists(texts, min_size=1, max_size=3), system=texts)
@example(parts=["<|im_", "end|>"], system="<|im_end|>")
@example(parts=["<tool", "_call>"], system="")
@settings(max_examples=60)
def test_no_message_brings_a_control_token_to_the_server(server, parts, system):
    tokenizer, template = server
    known = set(tokenizer.convert_tokens_to_ids(list(ADDED)))
    content = [{"type": "image"}, *({"type": "text", "text": part} for part in parts)]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
    usual = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]},
    ]
    found, wanted = (
        [number for number in ids(tokenizer, template, each) if number in known] for each in (messages, usual)
    )
    assert found == wanted


def test_other_texts_are_rendered_as_by_the_policys_own_template(server):
    tokenizer, template = server
    messages = chat("Mind <plan>.", "What is\n\nin 1 < 2 | 3?", object(), [("Who?", "<think>\nNobody.</think> \n")])
    assert ids(tokenizer, template, messages) == ids(tokenizer, TEMPLATE, messages)
