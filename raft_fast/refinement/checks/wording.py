"""Which language a text is in, and the words of that language: frequent.toml, phrases/LANGUAGE.toml."""

import re
import tomllib
import unicodedata
from collections import Counter, defaultdict
from functools import lru_cache
from importlib import resources

from raft_fast.refinement.checks.case import LOOKED, Case, remembered, words

HERE = resources.files(__package__)
FOREIGN = 0.05  # share of letters in a script that neither question nor gold answer has
FEWEST, AHEAD = 2.5, 2.0  # frequent words that make a language sure; how many times those of the next
FREQUENT: dict[str, str] = tomllib.loads((HERE / "frequent.toml").read_text(encoding="utf-8"))
SPEAKERS: dict[str, list[str]] = defaultdict(list)  # the languages of each frequent word
for _name, _text in FREQUENT.items():
    for _word in dict.fromkeys(_text.split()):
        SPEAKERS[_word].append(_name)


@lru_cache
def phrases() -> dict[str, dict[str, list[str]]]:
    """For each language "section.key" -> regular expressions."""
    files = {file.name.removesuffix(".toml"): tomllib.loads(file.read_text(encoding="utf-8"))
             for file in sorted((HERE / "phrases").iterdir(), key=lambda file: file.name)}
    return {name: {f"{section}.{key}": lists for section, keys in file.items() for key, lists in keys.items()}
            for name, file in files.items()}


@lru_cache(maxsize=256)
def regex(template: str, language: str | None = None) -> re.Pattern[str]:
    """The template, each %(section.key)s in it standing for any phrase of that list: of a language, or of all
    languages if it is None or has no file."""
    known = phrases()
    files = [known[language]] if language in known else [*known.values()]
    return re.compile(template % {
        key: "(?:" + "|".join(dict.fromkeys(one for file in files for one in file[key])) + ")"
        for key in files[0]}, re.IGNORECASE)


@remembered
def guess_language(text: str) -> str | None:
    """The language of a text in Latin script if its frequent words leave no doubt, else None. A word that n
    languages share counts 1/n."""
    scores = dict.fromkeys(FREQUENT, 0.0)
    for word in words(text[:LOOKED]):
        for language in SPEAKERS.get(word, ()):
            scores[language] += 1 / len(SPEAKERS[word])
    (name, best), (_, second) = sorted(scores.items(), key=lambda one: one[1], reverse=True)[:2]
    return name if best >= FEWEST and best >= AHEAD * second else None


def language(case: Case) -> str | None:
    """Another language than the gold answer's, which takes a sentence or two to tell, or a foreign script."""
    scripts: Counter[str] = Counter()
    for letter, count in Counter(filter(str.isalpha, case.answer)).items():
        scripts[_script(letter)] += count
    expected = {_script(letter) for letter in {*case.gold, *case.question} if letter.isalpha()}
    for script, count in scripts.most_common():
        if expected and script not in expected and count >= FOREIGN * scripts.total():
            return f"has {script.title()} letters, the gold answer has none"
    said, gold = guess_language(case.answer), guess_language(case.gold)
    return f"is in {said}, the gold answer in {gold}" if said and gold and said != gold else None


@lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    """LATIN, CYRILLIC, CJK, ...; Japanese is written in three, which count as one."""
    script = unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
    return "CJK" if script in ("HIRAGANA", "KATAKANA") else script
