"""Counting what is wrong with a data set, so that each kind of flaw is told once."""

import logging

logger = logging.getLogger(__name__)


class Dirt:
    """Flaws by kind: how many, and where the first one was.

    A kind reads as the end of a sentence that starts with a number, such as "boxes without area: skipped".
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, str] = {}

    def add(self, kind: str, where: object) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind not in self.first:
            self.first[kind] = str(where)

    def lines(self) -> list[str]:
        return [f"{count} {kind} (first: {self.first[kind]})" for kind, count in self.counts.items()]

    def log(self, source: str) -> None:
        """One warning per kind; `source` names the data set or the file."""
        for line in self.lines():
            logger.warning("%s: %s", source, line)

    def join(self, other: "Dirt") -> None:
        """Adds what another one has counted."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.first.setdefault(kind, other.first[kind])
