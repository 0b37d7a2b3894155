"""The detectors of a comparison, as its command line names them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from defcn_ext.config import UserError

ENTRY = re.compile(r"(?:(?P<label>[^=:/\\]+)=)?(?P<config>.+?\.ya?ml)(?::(?P<changes>.*))?", re.DOTALL)
FORM = "[LABEL=]CONFIG.yaml[:KEY=VALUE;KEY=VALUE...]"


@dataclass(frozen=True)
class Entry:
    """A detector to compare: a config file and changes to it, KEY VALUE one after the other."""

    label: str
    config: str
    changes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.+-]+", "_", self.label.casefold())


def parse_entry(text: str) -> Entry:
    """Reads an entry of the command line. A VALUE may hold anything but a semicolon.

    Raises:
        UserError: it is none.
    """
    match = ENTRY.fullmatch(text)
    if match is None:
        raise UserError(f"{text}: expected {FORM}")
    changes = []
    for pair in filter(None, (match["changes"] or "").split(";")):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{text}: {pair!r} is not KEY=VALUE; expected {FORM}")
        changes += [key.strip(), value.strip()]
    label = (match["label"] or Path(match["config"]).stem).strip()
    return Entry(label, match["config"], tuple(changes))


def parse_entries(texts: Sequence[str], labels: Sequence[str] | None = None) -> list[Entry]:
    """
    Args:
        labels: replace those of the entries.

    Raises:
        UserError: an entry is none, or two have the same label.
    """
    entries = [parse_entry(text) for text in texts]
    if labels:
        if len(labels) != len(entries):
            raise UserError(f"--labels: {len(labels)} for {len(entries)} configs")
        entries = [Entry(label, x.config, x.changes) for label, x in zip(labels, entries)]
    taken: dict[str, Entry] = {}
    for entry in entries:
        other = taken.setdefault(entry.folder, entry)
        if other is not entry:
            same = "the same label" if other.label == entry.label else f"too similar labels, {other.label!r} and"
            raise UserError(f"two configs have {same} {entry.label!r}: give others with LABEL=CONFIG or --labels")
    return entries
