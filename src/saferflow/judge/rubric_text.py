"""Rubrics by name: what a judge behind a server is told of each form that it fills in."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saferflow.errors import ParamsError, problems

CONDENSED = "condensed"
NAMED = (CONDENSED, "released")
"""The rubrics that come with the package."""
Text = Annotated[str, Field(min_length=1)]


class RubricText(BaseModel):
    """The text of each form."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    grades: Text
    """Of the evaluation: safety, helpfulness, rigor, refused."""
    marks: Text
    """Of the released reward."""
    structured: Text
    """Of the structured reward."""

    def digest(self, before: str) -> str:
        """Changes with every edit, so that grades by another text are known to be so.

        Args:
            before: what a judge is told before it.
        """
        texts = "".join(f"\n{text}" for text in (self.grades, self.marks, self.structured))
        return sha256((before + texts).encode()).hexdigest()[:8]

    @classmethod
    def named(cls, name: str) -> Self:
        """The rubric of that name, or of that file.

        Raises:
            ParamsError: the file is missing, is no YAML, or lacks a text; all problems are named.
        """
        path = Path(__file__).with_name(f"{name}.yaml") if name in NAMED else Path(name)
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ParamsError(
                f"rubric {name}: no such file; put it into rubrics/ (rubrics/README.md), or name {' or '.join(NAMED)}"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ParamsError(f"rubric {name} is not YAML: {error}") from None
        except ValidationError as error:
            what = f"rubric {name} does not have the texts grades, marks, structured:"
            raise ParamsError("\n  ".join([what, *problems(error.errors())])) from None
