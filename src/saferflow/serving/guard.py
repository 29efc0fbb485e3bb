"""Another chat model behind the gate: it answers where the policy decides `answer`, and is asked nothing elsewhere."""

from dataclasses import dataclass

import httpx
from openai import APIError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient

from saferflow.addresses import api_base, is_local
from saferflow.endpoint.completion import Declined, Fault, ServerError, read_completion
from saferflow.endpoint.transport import CALL
from saferflow.serving.refusal import Refusal
from saferflow.serving.request import Conversation

GUARDED = "answer"
"""The decision of the gate after which the other model answers."""


@dataclass(frozen=True, slots=True)
class OtherAnswer:
    """What the other model says."""

    model: str
    content: str
    finish_reason: str
    tokens: int
    """Of the answer, as its server counts them."""


class GuardedModel:
    """A model behind an OpenAI-compatible server.

    Args:
        url: of the server, usually ending in /v1.
        seconds: that it has for an answer.
    """

    def __init__(self, url: str, model: str, key: str | None, seconds: float):
        self.name, base = model, api_base(url)
        http = DefaultAsyncHttpxClient(trust_env=not is_local(base), timeout=seconds)
        self._client = AsyncOpenAI(base_url=base, api_key=key or "none", timeout=seconds, http_client=http)

    async def answer(self, conversation: Conversation) -> OtherAnswer:
        """Its answer to the messages as they came.

        Raises:
            Refusal: 429 where its server has no room, 502 where it has no answer.
        """
        body = {"model": self.name, "messages": conversation.messages, **conversation.sampling}
        try:
            response = await self._client.post(CALL, cast_to=httpx.Response, body=body)
            completion = read_completion(response.content)
        except APIStatusError as error:
            if error.status_code == 429:
                seconds = error.response.headers.get("retry-after", "")
                wait = int(seconds) if seconds.isdecimal() else 1
                raise Refusal(429, "guarded_model_busy", f"{self.name} has no room; try again", wait) from None
            raise self._failed(f"status {error.status_code}") from None
        except (APIError, Fault, ServerError) as error:
            raise self._failed(type(error).__name__) from None
        except Declined as declined:
            return OtherAnswer(self.name, f"{self.name} declines to answer.", "content_filter", declined.tokens[1])
        return OtherAnswer(self.name, completion.text, "length" if completion.cut else "stop", completion.tokens[1])

    async def close(self) -> None:
        await self._client.close()

    def _failed(self, why: str) -> Refusal:
        return Refusal(502, "guarded_model_failed", f"the gate decided to answer, and {self.name} did not: {why}")
