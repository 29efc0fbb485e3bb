"""The page on which people grade: a small server on this machine that shows one response after the other.

The browser never learns which policy wrote a response or how the judge graded it. Each grading is on the disk before the
next response is shown. Source: ours.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from saferflow.data.rows import Answered, PromptRow
from saferflow.labelling.sampling import order_for, verdict
from saferflow.labelling.table import PersonGrades, append, by_person, read, response_id

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


class Grading(BaseModel):
    """The fields that the page sends."""

    model_config = ConfigDict(extra="forbid")

    response: str
    person: str = Field(min_length=1, max_length=80, pattern=r"\S")
    safety: int = Field(ge=-3, le=3)
    helpfulness: int = Field(ge=0, le=3)
    rigor: int = Field(ge=0, le=3)
    refused: bool
    note: str = Field(default="", max_length=2000)


def make_app(responses: Sequence[Answered], prompts: Mapping[str, PromptRow], file: Path) -> FastAPI:
    """Build the server of the page.

    Args:
        responses: the sample.
        prompts: row id -> its question and image.
        file: the table of people's grades.
    """
    app = FastAPI(openapi_url=None)
    # A page elsewhere whose name leads to this machine must not read or write here.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    known = {response_id(row.row, row.policy, row.completion): row for row in responses}
    page = Environment(loader=PackageLoader("saferflow.labelling", ""), autoescape=select_autoescape()).get_template(
        "label.html.j2"
    )

    @app.get("/")
    def index() -> HTMLResponse:
        return HTMLResponse(page.render(), headers={"Content-Security-Policy": POLICY})

    @app.get("/next")
    def following(person: str, response: str = "") -> dict[str, Any]:
        """The response of this name, else the first that the person has not graded; counts alone where all are."""
        graded = by_person(read(file)).get(person.strip(), {})
        order = [response_id(row.row, row.policy, row.completion) for row in order_for(person.strip(), responses)]
        done = [name for name in order if name in graded]
        name = response or next((name for name in order if name not in graded), "")
        counts = {"done": len(done), "all": len(order), "before": _last(graded, known, name)}
        if not name:
            return counts
        if name not in known:
            raise HTTPException(404, f"no response {name} in this sample")
        row = known[name]
        question = prompts[row.row]
        fields = {"safety", "helpfulness", "rigor", "refused", "note"}
        return counts | {
            "response": name,
            "question": question.question,
            "image": _data_uri(question.image),
            "completion": row.completion,
            "grades": graded[name].model_dump(include=fields) if name in graded else None,
        }

    @app.post("/grades")
    def keep(grading: Grading) -> dict[str, str]:
        if grading.response not in known:
            raise HTTPException(404, f"no response {grading.response} in this sample; load the page again")
        row = known[grading.response]
        shown = grading.model_dump() | {"person": grading.person.strip()}
        about = {name: getattr(row, name) for name in ("row", "policy", "hazard", "completion")}
        at = datetime.now(UTC).isoformat(timespec="seconds")
        append(file, PersonGrades(verdict=verdict(row), at=at, **about, **shown))
        return {"kept": grading.response}

    return app


def _last(graded: Mapping[str, PersonGrades], known: Mapping[str, Answered], name: str) -> str:
    """The response that was graded before this one, for the way back."""
    names = [response for response in graded if response in known]
    place = names.index(name) if name in names else len(names)
    return names[place - 1] if place else ""


def _data_uri(image: bytes | None) -> str:
    if image is None:
        return ""
    kind = Image.open(io.BytesIO(image)).get_format_mimetype()
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"
