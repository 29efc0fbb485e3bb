"""The advice on a failed verdict as lines of a terminal: a block at the end of a run, one line in `saferflow status`."""

import textwrap
from collections.abc import Iterator, Sequence

from rich.text import Text

from saferflow.evaluation.advice import Advice, Shortfall
from saferflow.evaluation.misses import Group

SHOWN_GROUPS = 8
"""Risk sources and hazards that all failed checks together name."""
FEWEST_GROUPS = 2
"""That each of them names all the same."""
SHOWN_REMEDIES = 5
SHOWN_CODES = 5
WIDEST = 110
"""Characters of a line of prose; a longer one is hard to read."""


def block(advice: Advice, width: int) -> list[Text]:
    """What failed, on which rows, and what to try; a command stands on a line of its own and is never broken."""
    most = max(FEWEST_GROUPS, SHOWN_GROUPS // max(1, sum(bool(each.groups) for each in advice.shortfalls)))
    lines = [line for each in advice.shortfalls for line in _shortfall(each, most, width)]
    lines.append(Text("what to try next, each an experiment beside this checkout:"))
    measures = {each.measure for each in advice.shortfalls if each.measure}
    for remedy in advice.remedies[:SHOWN_REMEDIES]:
        aims = f"for {', '.join(remedy.measures)}; " if len(measures) > 1 else ""
        lines += _remedy(remedy.command, f"{remedy.why} ({aims}from stage {remedy.stage} on)", width)
    lines += _remedy(advice.other_draw.command, advice.other_draw.why, width)
    if more := advice.remedies[SHOWN_REMEDIES:]:
        lines.append(Text(f"  and {len(more)} more in reports/report.html"))
    return lines


def in_one_line(advice: Advice) -> str:
    """Where the first of the failed checks failed most, and the commands that say more."""
    shown = next((each for each in advice.shortfalls if each.missed), None)
    if shown is None:
        return "what to try: saferflow run"
    where = f"{shown.missed} of {shown.asked} rows"
    if shown.groups:
        worst = shown.groups[0]
        where = f"most of them in {worst.name}, {worst.missed} of {worst.rows} rows"
    return f"{where}: {shown.command}; what to try: saferflow run"


def _remedy(command: str, why: str, width: int) -> list[Text]:
    return [Text(f"  {command}", "bold"), *_prose(why, 6, width)]


def _shortfall(each: Shortfall, most: int, width: int) -> Iterator[Text]:
    distance = f": {each.distance}" if each.distance else ""
    yield from _prose(f"{each.name}: {each.detail}{distance}", 2, width, "red")
    if each.measure:
        yield from _prose(f"{each.missed} of {each.asked} rows {each.misses}{':' if each.groups else ''}", 4, width)
    yield from _groups(each.groups, most)
    if each.violations:
        codes = ", ".join(f"{code} in {rows}" for code, rows in each.violations[:SHOWN_CODES])
        yield from _prose(f"broken rules (docs/violations.md), in rows: {codes}", 4, width)
    if each.command and (each.missed or not each.measure):
        yield Text(f"    {each.command}", "bold")


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
