"""A policy's chat template for a server that tokenizes by itself: it breaks control tokens in messages.

vLLM renders a conversation to one string and reads control tokens wherever they stand in it; ours reads those of the template
alone (`training/encoding.py`), which needs its own tokenizing. So for vLLM an invisible word joiner is set into each control
token that a message holds, whole or begun at its end; all other text stays as it is. Source: ours.
"""

import json
from pathlib import Path

JOINER = "\u2060"


def write_plain_template(policy: Path, to: Path) -> None:
    """Write the template of a policy's folder, preceded by lines that remove control tokens from messages."""
    added = json.loads((policy / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    tokens = sorted(token["content"] for token in added)
    template = (policy / "chat_template.jinja").read_text(encoding="utf-8")
    to.write_text(plain_messages(tokens) + template, encoding="utf-8")


def plain_messages(tokens: list[str]) -> str:
    """Jinja that removes the tokens from `messages`, and the beginning of a token from the end of a text."""
    begins = {token: [token[:end] for end in range(1, len(token))] for token in tokens}
    tails = sorted({begin for beginnings in begins.values() for begin in beginnings}, key=len, reverse=True)
    breaks = "".join(f" | replace({_quoted(token)}, {_quoted(token[0] + JOINER + token[1:])})" for token in tokens)
    return (
        f"{{%- set tails = [{', '.join(map(_quoted, tails))}] -%}}"
        f"{{%- macro plain(text) -%}}{{{{ text{breaks} }}}}"
        f"{{%- for tail in tails if text.endswith(tail) -%}}{{%- if loop.first -%}}{JOINER}{{%- endif -%}}{{%- endfor -%}}"
        "{%- endmacro -%}"
        "{%- set said = namespace(messages=[], parts=[]) -%}"
        "{%- for message in messages -%}"
        "{%- if message['content'] is string -%}{%- set said.parts = plain(message['content']) -%}"
        "{%- else -%}{%- set said.parts = [] -%}{%- for part in message['content'] or [] -%}"
        "{%- set said.parts = said.parts + ([dict(part, text=plain(part['text']))] if 'text' in part else [part]) -%}"
        "{%- endfor -%}{%- endif -%}"
        "{%- set said.messages = said.messages + [dict(message, role=plain(message['role']), content=said.parts)] -%}"
        "{%- endfor -%}"
        "{%- set messages = said.messages %}"
    )


def _quoted(text: str) -> str:
    """A text as a string literal of Jinja."""
    return json.dumps(text, ensure_ascii=False)
