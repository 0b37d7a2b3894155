"""The table of many sizes, on tiny ones."""

import re

from defcn_ext.benchmarks.assignment_grid import benchmark_grid, fastest


def test_a_row_for_each_size_and_number_of_objects():
    table = benchmark_grid(["QualityATSS", "POTO"], [1, 2], 1, sizes=[(64, 96)], classes=[2], images=[1, 2])
    rows = table.splitlines()[2:]
    assert [row.split("|")[1:4] for row in rows] == [
        [f" {rule} ", " 64 x 96 ", f" {count} "] for rule in ("QualityATSS", "POTO") for count in (1, 2)
    ]
    for row in rows:
        low, high = map(float, re.search(r"([\d.]+) - ([\d.]+) \|$", row).groups())
        assert 0 < low <= high


def test_the_least_of_calls_in_turn():
    order = []
    times = fastest([lambda: order.append("a"), lambda: sum(range(200_000))], 2)
    assert order == ["a"] * 3 and 0 <= times[0] < times[1]
