"""The advice on a failed verdict as lines of a terminal: a block at the end of a run, one line in `saferflow status`."""

import textwrap
from collections.abc import Iterator, Sequence

from rich.text import Text

from saferflow.evaluation.advice import Advice, Shortfall
from saferflow.evaluation.misses import Group

SHOWN_GROUPS = 8
"""The most risk sources and hazards that all failed checks together name."""
FEWEST_GROUPS = 2
"""The fewest of them that each failed check names."""
SHOWN_REMEDIES = 5
SHOWN_CODES = 5
WIDEST = 110
"""The most characters of a line of prose; a longer line is hard to read."""


def block(advice: Advice, width: int) -> list[Text]:
    """The failed checks, their rows and the remedies; each command stands on its own line, unbroken."""
    most = max(FEWEST_GROUPS, SHOWN_GROUPS // max(1, sum(bool(shortfall.groups) for shortfall in advice.shortfalls)))
    lines = [line for shortfall in advice.shortfalls for line in _shortfall(shortfall, most, width)]
    lines.append(Text("what to try next, each an experiment beside this checkout:"))
    measures = {shortfall.measure for shortfall in advice.shortfalls if shortfall.measure}
    for remedy in advice.remedies[:SHOWN_REMEDIES]:
        aims = f"for {', '.join(remedy.measures)}; " if len(measures) > 1 else ""
        lines += _remedy(remedy.command, f"{remedy.why} ({aims}from stage {remedy.stage} on)", width)
    lines += _remedy(advice.other_draw.command, advice.other_draw.why, width)
    if more := advice.remedies[SHOWN_REMEDIES:]:
        lines.append(Text(f"  and {len(more)} more in reports/report.html"))
    return lines


def in_one_line(advice: Advice) -> str:
    """The group where the first failed check fails most, and the commands that show more."""
    first = next((shortfall for shortfall in advice.shortfalls if shortfall.missed), None)
    if first is None:
        return "what to try: saferflow run"
    where = f"{first.missed} of {first.asked} rows"
    if first.groups:
        worst = first.groups[0]
        where = f"most of them in {worst.name}, {worst.missed} of {worst.rows} rows"
    return f"{where}: {first.command}; what to try: saferflow run"


def _remedy(command: str, why: str, width: int) -> list[Text]:
    return [Text(f"  {command}", "bold"), *_prose(why, 6, width)]


def _shortfall(shortfall: Shortfall, most: int, width: int) -> Iterator[Text]:
    distance = f": {shortfall.distance}" if shortfall.distance else ""
    yield from _prose(f"{shortfall.name}: {shortfall.detail}{distance}", 2, width, "red")
    if shortfall.measure:
        yield from _prose(
            f"{shortfall.missed} of {shortfall.asked} rows {shortfall.misses}{':' if shortfall.groups else ''}",
            4,
            width,
        )
    yield from _groups(shortfall.groups, most)
    if shortfall.violations:
        codes = ", ".join(f"{code} in {rows}" for code, rows in shortfall.violations[:SHOWN_CODES])
        yield from _prose(f"broken rules (docs/violations.md), in rows: {codes}", 4, width)
    if shortfall.command and (shortfall.missed or not shortfall.measure):
        yield Text(f"    {shortfall.command}", "bold")


def _groups(groups: Sequence[Group], most: int) -> Iterator[Text]:
    shown, rest = groups[:most], groups[most:]
    wide = max((len(group.name) for group in shown), default=0)
    for group in shown:
        yield Text(f"      {group.name:<{wide}}  {group.missed:>3} of {group.rows}")
    if rest:
        names = "1 more group" if len(rest) == 1 else f"{len(rest)} more groups"
        yield Text(f"      and {sum(group.missed for group in rest)} rows of {names}")


def _prose(text: str, indent: int, width: int, style: str = "") -> list[Text]:
    """Lines of prose with an indent."""
    wide = max(40, min(width, WIDEST))
    blank = " " * indent
    broken = textwrap.wrap(
        text, wide, initial_indent=blank, subsequent_indent=blank, break_long_words=False, break_on_hyphens=False
    )
    return [Text(line, style) for line in broken]
