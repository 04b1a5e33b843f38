"""Names of control tokens in a row's text are spelled out as text, where a tokenizer would read tokens."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raft_fast.run.errors import UserError

# characters of the last private plane: a name that is held back in a text; the control token itself
_HELD, _OWN = 0x100000, 0x108000
_PRIVATE = re.compile("[\U00100000-\U0010FFFF]")


class Controls:
    """The tokens of a tokenizer that act on a model, by their `names`, and how to read these as mere text."""

    def __init__(self, tokenizer: Any, names: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        self.names = sorted(filter(str.strip, names))
        self.pattern = any_of(self.names)
        self._own = {name: chr(_OWN + at) for at, name in enumerate(self.names)}
        self._held = {name: chr(_HELD + at) for at, name in enumerate(self.names)}
        self._loose = self._ids_by_other_spellings()
        self._speller: Any = None  # made when the first text needs it: that takes a second

    def found_in(self, text: str) -> bool:
        """Whether the tokenizer would read a control token in the text, under its name or in a spelling that
        the tokenizer's normalizer makes the same."""
        if self.pattern.search(text):
            return True
        return bool(self._loose and self._loose.intersection(self.ids(text)))

    def hold(self, texts: Sequence[str]) -> list[str] | None:
        """The texts of a conversation with a private character for every name; None if they hold no name.
        Raises UserError for a name that cannot be read as text."""
        found = next(filter(self.found_in, texts), None)
        if found is None:
            return None
        if not self.tokenizer.is_fast or any(map(_PRIVATE.search, texts)):
            why = "beside private characters of Unicode" if self.tokenizer.is_fast else "in this tokenizer"
            raise UserError(f"a text holds a control token that cannot be read as mere text {why}: "
                            f"{json.dumps(found[:100], ensure_ascii=False)}")
        return [self.pattern.sub(lambda name: self._held[name[0]], text) for text in texts]

    def ids(self, text: str, is_held: bool = False) -> list[int]:
        """Token ids of a text, in which the names that were held back are spelled out."""
        if not is_held:
            return self.tokenizer(text, add_special_tokens=False).input_ids
        own = self.pattern.sub(lambda name: self._own[name[0]], text)
        spelled = own.translate({ord(char): name for name, char in self._held.items()})
        try:
            self._speller = self._speller or _speller(self.tokenizer, self._own)
            return self._speller.encode(spelled, add_special_tokens=False).ids
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of tokenizers
                raise
            raise UserError("a text holds a control token that cannot be read as mere text in this "
                            "tokenizer") from error

    def _ids_by_other_spellings(self) -> set[int]:
        """The control tokens that are looked for in normalized text."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or backend.normalizer is None:
            return set()
        return {at for at, token in self.tokenizer.added_tokens_decoder.items()
                if token.normalized and str(token) in self._own}


def _speller(tokenizer: Any, new: Mapping[str, str]) -> Any:
    """A copy of a fast tokenizer with new names for some tokens, so that their old names are text like any
    other; the ids stay. Merges that would make such a name again are left out."""
    from tokenizers import Tokenizer

    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec |= {"post_processor": None, "truncation": None, "padding": None}
    for token in spec["added_tokens"]:
        token["content"] = new.get(token["content"], token["content"])
    model = spec["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {new.get(piece, piece): at for piece, at in model["vocab"].items()}
    else:
        model["vocab"] = [[new.get(piece, piece), score] for piece, score in model["vocab"]]
    if "merges" in model:
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [pair for pair in pairs if new.keys().isdisjoint([*pair, "".join(pair)])]
    if model.get("unk_token") in new:
        model["unk_token"] = new[model["unk_token"]]
    speller = Tokenizer.from_str(json.dumps(spec))
    if any(speller.token_to_id(char) != tokenizer.convert_tokens_to_ids(name) for name, char in new.items()):
        raise ValueError("its tokens cannot be renamed")
    return speller


def any_of(names: Iterable[str]) -> re.Pattern:
    """One of the names, the longest first; without any, what no text has."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")
