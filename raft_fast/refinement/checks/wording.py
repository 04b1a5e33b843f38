"""The phrases of phrases/LANGUAGE.toml as patterns: of a text's language, or of all where it is not known."""

import re
import tomllib
from functools import lru_cache
from importlib import resources

from raft_fast.refinement.checks.language import guess_language
from raft_fast.refinement.facts.remembered import remembered
from raft_fast.refinement.facts.spelled import in_digits

Phrases = dict[str, dict[str, list[str]]]


@lru_cache
def all_phrases() -> dict[str, Phrases]:
    """By language, what its file says."""
    folder = resources.files("raft_fast.refinement.checks") / "phrases"
    return {file.name.removesuffix(".toml"): tomllib.loads(file.read_text(encoding="utf-8"))
            for file in sorted(folder.iterdir(), key=lambda file: file.name)}


def language_of(text: str) -> str | None:
    """A language that there are phrases for, or None."""
    language = guess_language(text)
    return language if language in all_phrases() else None


def any_of(section: str, key: str, language: str | None) -> str:
    """One pattern, without groups, for every phrase under `key` of a section."""
    files = all_phrases()
    chosen = [files[language]] if language else list(files.values())
    phrases = {phrase: None for file in chosen for phrase in file[section][key]}  # each once, in order
    return "(?:" + "|".join(phrases) + ")"


@lru_cache(maxsize=256)
def pattern(section: str, key: str, language: str | None) -> re.Pattern[str]:
    """Finds any of the phrases as whole words."""
    return re.compile(rf"(?<!\w)(?=\w){any_of(section, key, language)}(?!\w)", re.IGNORECASE)


@remembered
def untwisted(text: str) -> str:
    """The text without the denials that turn a bound round, as in "must not exceed 5 m", in digits."""
    return _twisted(language_of(text)).sub(" ", in_digits(text, sure=True))


def twists(text: str) -> bool:
    """Whether a denial turns a bound round."""
    return _twisted(language_of(text)).search(in_digits(text, sure=True)) is not None


@lru_cache(maxsize=32)
def _twisted(language: str | None) -> re.Pattern[str]:
    denial, between = any_of("denial", "words", language), any_of("denial", "between", language)
    phrases = f"(?:{any_of('before', 'low', language)}|{any_of('before', 'high', language)})"
    verbs = any_of("denial", "twisted", language)
    turned = rf"{denial}\s(?:{between}\s)*(?={phrases}(?:\s\w+){{0,2}}[\s:]+\d)"
    return re.compile(rf"(?<!\w)(?:{turned}|{verbs}(?!\w))", re.IGNORECASE)
