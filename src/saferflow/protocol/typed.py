"""The rules of fields: a call's fields against its tool's declaration."""

from collections.abc import Iterable, Iterator
from functools import cache

from saferflow.protocol.tools import TOOLS, Field
from saferflow.protocol.trace import Call
from saferflow.protocol.violation import quote

Fault = tuple[str, str, tuple[str, ...]]
"""(a violation's code, the actual text, the legal alternatives)."""


def field_faults(call: Call, strict: bool) -> Iterable[Fault]:
    """The faults of a call's fields; if not `strict`, only wrong values, and only where the call writes fields."""
    tool = TOOLS.get(call.tool)
    if not tool or not tool.fields or not (strict or call.fields) or _fits(tool.fields, call):
        return ()
    return _faults(tool.name, call, strict)


def _fits(fields: tuple[Field, ...], call: Call) -> bool:
    """Whether a call is written exactly as its tool declares it, in that order: then it has no fault."""
    if call.text or len(call.fields) != len(fields):
        return False
    for field, (key, value) in zip(fields, call.fields, strict=True):
        if key != field.name or not field.accepts(value):
            return False
    return True


def _faults(name: str, call: Call, strict: bool) -> Iterator[Fault]:
    declared, shape = _declared(name)
    seen: set[str] = set()
    for key, value in call.fields:
        field = declared.get(key)
        if key in seen:
            yield "T204", quote(key), shape
        elif field is None:
            if strict:
                yield "T201", quote(key), shape
        elif not field.accepts(value):
            yield "T203", quote(f"{key}={value}"), _written(field)
        seen.add(key)
    if not strict:
        return
    if call.text or not call.fields:
        yield "T205", quote(call.text) or "nothing", shape
    for field in declared.values() if call.fields else ():
        if field.required and field.name not in seen:
            yield "T202", f"no {field.name}", _written(field)


@cache
def _declared(name: str) -> tuple[dict[str, Field], tuple[str, ...]]:
    """A tool's fields by name, and how they are written."""
    fields = TOOLS[name].fields
    return {field.name: field for field in fields}, tuple(written for field in fields for written in _written(field))


@cache
def _written(field: Field) -> tuple[str, ...]:
    """How one field is written."""
    return (f"{field.name}={field.expects}",)
