import pytest

from raft_fast.refinement.facts import numbers, references, set_f1


@pytest.mark.parametrize(("text", "expected"), [
    ("See PBL 9 kap. 27 §.", {"pbl", "9:27"}),
    ("Chapter 9, Section 27 of the Planning and Building Act", {"pbl", "9:27"}),
    ("Section 27 of Chapter 9", {"9:27"}),
    ("PBL 9 kap. 3 c § and 4 a-c §§", {"pbl", "9:3c", "§ 4a-c"}),
    ("Miljöbalken 7 kap. 13–18 §§", {"mb", "7:13-18"}),
    ("§ 5 and 42 §", {"§ 5", "§ 42"}),
    ("AB 04 kap. 5 § 23; ABS18 § 22", {"ab 04", "5:23", "abs 18", "§ 22"}),
    ("SFS 2010:900, Ordinance 1998:899, AFS 1999:3",
     {"sfs 2010:900", "sfs 1998:899", "afs 1999:3"}),
    ("EKS and BBR, but not seks", {"eks", "bbr"}),
    ("BBR chapter 3", {"bbr", "chapter 3"}),
    ("SS-EN 1090-2, ISO 9001, (EU) 2016/679, 2010/31/EU",
     {"standard 1090-2", "standard 9001", "eu 2016/679", "eu 2010/31"}),
    ("the Work Environment Act 3 kap. 6 §; Skatteförfarandelagen", {"aml", "3:6",
                                                                    "skatteförfarandelagen"}),
    ("It pays 15,000 SEK in 2024 at scale 1:100.", set()),
])
def test_references(text, expected):
    assert references(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("15,000 SEK", {"15000 sek"}),
    ("1 500 kr", {"1500 sek"}),
    ("SEK 500 or € 20", {"500 sek", "20 eur"}),
    ("4–6 weeks", {"4 week", "6 week"}),
    ("25,000-50,000 SEK", {"25000 sek", "50000 sek"}),
    ("18,000–32,000 SEK/m²", {"18000 sek/m2", "32000 sek/m2"}),
    ("4.5 metres, 2,5 m, 30 m², 30 square metres", {"4.5 m", "2.5 m", "30 m2"}),
    ("30 percent is 30%", {"30 %"}),
    ("a 10-year warranty, 10 år", {"10 year"}),
    ("In 1998 and 0,125", {"1998", "0.125"}),
    ("1. First\n2. Second", set()),
    ("PBL 9 kap. 27 §, SFS 2010:900", set()),
    ("the 2nd C25 house", set()),
])
def test_numbers(text, expected):
    assert numbers(text) == expected


def test_set_f1_by_hand():
    assert set_f1({"a", "b"}, {"a", "c", "d"}) == pytest.approx(2 * (1 / 3) * (1 / 2) / (5 / 6))
    assert set_f1({"a"}, set()) == 0
    assert set_f1(set(), {"a"}) is None
