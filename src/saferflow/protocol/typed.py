"""The rules of fields: what a call says against what its tool declares."""

from collections.abc import Iterator
from functools import cache

from saferflow.protocol.tools import TOOLS, Field
from saferflow.protocol.trace import Call, Line
from saferflow.protocol.violation import Violation, quote


def check_fields(strict: bool, calls: list[Line]) -> Iterator[Violation]:
    """Violations of typed fields; if not `strict`, only values that are wrong where fields are written."""
    for step, line in enumerate(calls, 1):
        tool = TOOLS.get(line.call.tool)
        if tool and tool.fields and (strict or line.call.fields) and not _fits(tool.fields, line.call):
            for code, found, legal in _faults(tool.name, line.call, strict):
                yield Violation(code, step, line.number, found, legal)


def _fits(fields: tuple[Field, ...], call: Call) -> bool:
    """Whether a call is written exactly as its tool declares it, in that order: then there is no fault to look for."""
    if call.text or len(call.fields) != len(fields):
        return False
    for field, (key, value) in zip(fields, call.fields, strict=True):
        if key != field.name or not field.accepts(value):
            return False
    return True


def _faults(name: str, call: Call, strict: bool) -> Iterator[tuple[str, str, tuple[str, ...]]]:
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
            yield "T203", quote(f"{key}={value}"), (f"{key}={field.expects}",)
        seen.add(key)
    if not strict:
        return
    if call.text or not call.fields:
        yield "T205", quote(call.text) or "nothing", shape
    for field in declared.values() if call.fields else ():
        if field.required and field.name not in seen:
            yield "T202", f"no {field.name}", (f"{field.name}={field.expects}",)


@cache
def _declared(name: str) -> tuple[dict[str, Field], tuple[str, ...]]:
    """A tool's fields by name, and how they are written."""
    fields = TOOLS[name].fields
    return {field.name: field for field in fields}, tuple(f"{field.name}={field.expects}" for field in fields)
