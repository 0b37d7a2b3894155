"""The ids of a json as people write them, and the numbers that stand for them in loaders and in COCOeval."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from defcn_ext.data.numbers import as_number, as_whole

Id = int | float | str


class Ids:
    """Numbers for ids that may be numbers, text, or both, and the way back.

    Equal numbers are equal: 1, 1.0 and "1" name one thing, unless the file has two of them. An id that is a whole
    number keeps it; one that is not, or whose number is taken, gets a free one. Ids that are all text stay text, if
    `keep_text`.
    """

    def __init__(self, ids: Iterable[Any], *, keep_text: bool = False):
        """
        Args:
            ids: as in the file, each once (see `key`); those that `key` refuses are left out.
        """
        usable = {key(x): x for x in ids if key(x) is not None}
        self._codes: dict[tuple, Id] = {}
        if keep_text and all(isinstance(x, str) for x in usable.values()):
            self._codes = dict(usable)
        else:
            self._number(usable)
        self.original = {self._codes[k]: x for k, x in usable.items() if not _same(self._codes[k], x)}
        by_number: dict[int, list[Id]] = {}
        for k, x in usable.items():
            if (whole := as_whole(x)) is not None:
                by_number.setdefault(whole, []).append(self._codes[k])
        self._by_number = {whole: codes[0] for whole, codes in by_number.items() if len(codes) == 1}

    def _number(self, usable: dict[tuple, Id]) -> None:
        # Numbers before text, so that 7 keeps its 7 where there is a "7" too.
        taken: set[int] = set()
        for k, x in sorted(usable.items(), key=lambda item: isinstance(item[1], str)):
            whole = as_whole(x)
            if whole is not None and whole not in taken:
                taken.add(whole)
                self._codes[k] = whole
        fresh = free_numbers(taken)
        for k in usable:
            if k not in self._codes:
                self._codes[k] = next(fresh)

    def find(self, reference: Any) -> Id | None:
        """What stands for an id that the file refers to, or None if nothing has that id."""
        exact = self._codes.get(key(reference))
        return self._by_number.get(as_whole(reference)) if exact is None else exact


def key(value: Any) -> tuple | None:
    """What two spellings of one id in a file share: equal numbers or equal text; None if it is no id."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return (str if isinstance(value, str) else float, value)
    number = as_number(value)
    return None if number is None else (float, number)


def free_numbers(taken: Iterable[int]) -> Iterator[int]:
    """Numbers from 1 that are not taken: those behind the largest, where int64 has room for them."""
    used = set(taken)
    largest = max(used, default=0)
    return (n for n in itertools.count(max(largest, 0) + 1 if largest < 2**62 else 1) if n not in used)


def _same(code: Id, original: Any) -> bool:
    return type(code) is type(original) and code == original
