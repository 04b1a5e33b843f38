"""An answer in another language or script than the gold one.

Scripts are told apart by Unicode; languages, among twelve in Latin script, by their most frequent
words. That needs a sentence or two of running text: short answers, other languages and close relatives
(Danish and Norwegian) are let through.
"""

import unicodedata
from collections import Counter, defaultdict
from functools import lru_cache

from raft_fast.refinement.checks.case import LOOKED, Case, words
from raft_fast.refinement.facts.remembered import remembered

FOREIGN = 0.05  # share of letters in a script that neither question nor gold answer has
FEWEST = 2.5  # frequent words that make a language sure; one that n languages have counts 1/n
AHEAD = 2.0  # how many times as many as of the next language
FREQUENT = {
    "English": "the of and to is in for that with are this be on as by it from or an a not can will your if "
               "you must have which at when has no may any up all but without only under over before after "
               "between usually always often also their its been other more than should would there such",
    "Swedish": "och att det som är en på av för med till den inte om ett men kan ska från eller vid har i "
               "enligt inom måste även mellan utan du ditt din får bör innan efter alla alltid ofta också "
               "endast samt över under upp mot hur när då så denna detta dessa finns krävs gäller vara blir "
               "nej ja ingen inget men per cirka vanligtvis hos sin sitt man vi de",
    "Danish": "og at det som er en på af for med til den ikke om et men kan skal fra eller ved har i ifølge "
              "inden også mellem uden du hvis bliver må efter alle altid ofte kun samt over under når så "
              "denne dette disse være nej ja ingen intet man vi de",
    "Norwegian": "og at det som er en på av for med til den ikke om et men kan skal fra eller ved har i "
                 "ifølge innen også mellom uten du hvis blir må etter alle alltid ofte bare samt over under "
                 "når så denne dette disse være nei ja ingen man vi de",
    "German": "der die das und ist in zu den von mit für auf dem des ein eine nicht im sich werden als auch "
              "oder bei wird sind nach muss kann einer einen einem vor bis zum zur ohne nur über unter wenn "
              "aber alle immer oft zwischen durch darf müssen können sie es er wie nein ja kein keine am an",
    "Dutch": "de het een en van is dat op te voor met zijn niet aan er om ook als maar bij naar wordt worden "
             "kan moet door uit deze of in tot zonder alleen over onder wanneer alle altijd vaak tussen mag "
             "u je nee ja geen binnen dit die",
    "French": "le la les des et est une un du dans pour que qui sur pas par au avec ce il sont ne vous aux "
              "doit être plus peut ou de en à se si mais sans avant après entre tous toujours souvent aussi "
              "cette ces son sa ses leur votre non oui d'un d'une n'est il elle on",
    "Spanish": "el la los las de y que en un una es por con para del se no su al lo como más o son debe "
               "puede está sin entre pero antes después todos siempre también este esta estos si sí hasta "
               "desde sobre sus le cuando ser hay solo a",
    "Portuguese": "o a os as de e que em um uma é por com para do da se não ao na no mais ou são deve pode "
                  "está sem entre dos das mas antes depois todos sempre também este esta até sobre seu sua "
                  "quando ser há sim",
    "Italian": "il la i gli le di che in un una è per con del della si non al lo come più o sono deve può "
               "nel dei delle ma prima dopo tutti sempre anche questo questa fino senza tra fra e da su "
               "essere alla dal sì no",
    "Polish": "i w na z do nie się jest że to o dla przez od jak po oraz są być przy lub może jego ich tego "
              "które który można a ale bez przed także tylko gdy jeśli tak",
    "Finnish": "ja on ei että se joka myös ovat voi tai kun mutta niin ole jos kuin sekä mukaan ennen noin "
               "olla vain sen tulee ilman jälkeen kaikki aina usein kyllä saa",
}
SPEAKERS: dict[str, list[str]] = defaultdict(list)  # the languages of each of these words
for _name, _text in FREQUENT.items():
    for _word in set(_text.split()):
        SPEAKERS[_word].append(_name)


def language(case: Case) -> str | None:
    """Another language, or letters of a script that does not belong."""
    if foreign := _foreign_script(case.answer, case.gold + case.question):
        return f"has {foreign.title()} letters, the gold answer has none"
    said, expected = guess_language(case.answer), guess_language(case.gold)
    if said and expected and said != expected:
        return f"is in {said}, the gold answer in {expected}"
    return None


@remembered
def guess_language(text: str) -> str | None:
    """The language of a text in Latin script where its frequent words leave no doubt, else None."""
    scores = dict.fromkeys(FREQUENT, 0.0)
    for word in words(text[:LOOKED]):
        speakers = SPEAKERS.get(word, ())
        for language in speakers:
            scores[language] += 1 / len(speakers)
    (name, best), (_, second) = sorted(scores.items(), key=lambda one: one[1], reverse=True)[:2]
    return name if best >= FEWEST and best >= AHEAD * second else None


def _foreign_script(answer: str, known: str) -> str | None:
    scripts: Counter[str] = Counter()
    for letter, count in Counter(answer).items():
        if letter.isalpha():
            scripts[_script(letter)] += count
    total, expected = scripts.total(), {_script(letter) for letter in set(known) if letter.isalpha()}
    for script, count in scripts.most_common():
        if expected and script not in expected and count >= FOREIGN * total:
            return script
    return None


@lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    """LATIN, CYRILLIC, CJK, ...; Japanese is written in three, which count as one."""
    script = unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
    return "CJK" if script in ("HIRAGANA", "KATAKANA") else script
