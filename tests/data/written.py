"""Files of rows as tests write them."""

import json

GOOD = {"question": "How high?", "answer": "Three metres."}


def jsonl(path, records):
    """One record a line; bytes and text are written as they are."""
    lines = [one if isinstance(one, bytes) else (one if isinstance(one, str) else json.dumps(one)).encode()
             for one in records]
    path.write_bytes(b"\n".join(lines))
    return str(path)


def texts(rows):
    """(last question, gold answer) of each row."""
    return [(row.prompt[-1]["content"], row.gold) for row in rows]
