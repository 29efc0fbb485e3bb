"""Seconds and memory of the search for twins, and how they grow with the rows.

    PYTHONPATH=src python benchmarks/leakage.py --rows 31654 --times 10

Scenes' questions and images, held out 1,000 of them, the others as training rows. Source: ours.
"""

import argparse
import resource
import time
from itertools import cycle, islice

from saferflow.data.leakage import Entry, HeldOut, nearest
from saferflow.data.scenes.corpus import safety_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=31_654)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--drawn", type=int, default=4000, help="rows that are drawn; the others repeat their images")
    asked = parser.parse_args()
    drawn = list(safety_rows(min(asked.drawn, asked.rows), 1, "train"))
    held_out = [Entry("evaluation", row.id, row.question, row.image) for row in safety_rows(1000, 1, "evaluation")]
    seconds = {}
    for rows in (asked.rows, asked.rows * asked.times):
        repeated = islice(cycle(drawn), rows)
        trained = (
            Entry("sft", f"{row.id}.{n}", f"{row.question} ({n})", row.image) for n, row in enumerate(repeated)
        )  # each question is its own text
        started = time.perf_counter()
        index = HeldOut(held_out, 0.75, 11)
        found = nearest(twin for entry in trained for twin in index.twins_of(entry))
        seconds[rows] = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(f"{rows:>9,} rows  {seconds[rows]:7.1f} s  {len(found)} twins  peak memory of the process {peak:.2f} GiB")
    few, many = seconds.values()
    print(f"{asked.times} times the rows take {many / few:.2f} times the time")


if __name__ == "__main__":
    main()
