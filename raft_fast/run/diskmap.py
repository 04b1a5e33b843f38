"""A dictionary that stays out of memory: keys of any length to whole numbers, on a temporary disk file."""

import sqlite3

CACHE_KIB = 4096  # what stays in memory; the rest is in a file that goes away with the process


class DiskMap:
    """bytes -> int. Not safe to use from several threads at once; the owner locks."""

    def __init__(self) -> None:
        # "" is sqlite's name for a private temporary file, deleted when closed
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for line in (f"PRAGMA cache_size = -{CACHE_KIB}", "PRAGMA journal_mode = OFF",
                     "PRAGMA synchronous = OFF",
                     "CREATE TABLE map (key BLOB PRIMARY KEY, value INTEGER) WITHOUT ROWID", "BEGIN"):
            self._table.execute(line)

    def get(self, key: bytes) -> int | None:
        found = self._table.execute("SELECT value FROM map WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def __setitem__(self, key: bytes, value: int) -> None:
        self._table.execute("INSERT OR REPLACE INTO map VALUES (?, ?)", (key, value))

    def __len__(self) -> int:
        return self._table.execute("SELECT count(*) FROM map").fetchone()[0]

    def close(self) -> None:
        self._table.close()
