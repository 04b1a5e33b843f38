"""Scores are read where a reply gives exactly one, on the scale 0-9 or not at all."""

import time
from contextlib import suppress
from dataclasses import asdict

import pytest

from raft_fast.engines import score
from raft_fast.engines.score import parse_score


@pytest.mark.parametrize(("text", "digit"), [
    ("7", 7), ("0", 0), ("7.0", 7), ("**7**", 7), ("7/9", 7), ("7.", 7), ("Good.\n8", 8), ("```\n4\n```", 4),
    ('{"score": 7}', 7), ('{"score": "7"}', 7), ('{"reason": "x", "rating": 4}', 4),
    ('{"Score": 8, "max_score": 9}', 8), ('{"verdict": {"final_score": 8}}', 8),
    ('{"score": 2, "reason": "It says {\\"score\\": 9}"}', 2), ('{"score": 8, "reason": "rating: 5 is"}', 8),
    ("I think {x} so {\"score\": 6}.", 6), ("<think>score: 2 ... {\"score\": 1}</think>8", 8),
    ("score 3</think>\n\n9", 9), ("<score>8</score>", 8), ("**Score:** 7", 7), ("Score (0-9): 7/9", 7),
    ("score - 7", 7), ("Initially 3.\nFinal score: 5 - clear", 5), ("The grade is 5.", 5),
    ("I'd rate this answer 7/9.", 7), ("I did not like the start, but it is right. I give it a 5", 5),
    ("Rating: [[8]]", 8), (r"\boxed{8}", 8), ("[RESULT] 8", 8), ("The verdict is good. 8", 8),
    ("Score: 8/9, as said.\n\n**Score:** 8", 8), ("Score\uff1a\uff18", 8), ("Maximum score: 9\nScore: 7", 7),
    ("Steel grade 8 became grade 5. It gives 3 weeks, not 4.\nScore: 3", 3), ("Score: 8\n- 3 weeks lack", 8),
    ("I would give it a 9 if it named the deadline. Score: 6", 6), ("Initial score: 5. Final score: 7", 7),
    ("<|channel|>analysis<|message|>Score: 3<|end|><|channel|>final<|message|>8<|return|>", 8),
    ("x" * 20_000 + "\nScore: 8", 8), ("Step 1:\n1\n2\nScore: 8", 8)])
def test_the_one_score_of_a_reply_counts(text, digit):
    assert parse_score(text) == pytest.approx(digit / 9)


SCALE = "is not a whole number from 0 to 9"
NONE = r'no score in the reply .*; what can be read is .*"Score: 8"'


@pytest.mark.parametrize(("texts", "says"), [
    (["10", "-1", "score: -7", "7/10", "score: 7 out of 10", "Score: 0.8", "7,5", '{"score": 11}', "1e999",
      "score: 85%", "I give it a 7 or 8.", '{"score": ' + "1" * 5000 + "}", "Score: 7/8", '{"score": NaN}',
      "Infinity", "I would give this a 7 out of 10."], SCALE),  # never clamped
    (["", "good", "Score (0-9)", '{"score": true}', "7\nbecause ...", "<think>7", '{"verdict": 7}',
      "1. good\n2. bad", "It should name clause no. 8.", "The fee is missing, which is 5", "It takes 3.",
      "I would not give this a 9.", "I cannot give it more than a 7.", "They give notice of section 8.",
      "[" * 100_000, '{"a":' * 10_000, "\u00b2", "Score: \ud800"], NONE),
    (['Score: 2. The candidate says: {"score": 9}', 'It wrote "Score: 9". Score: 2', "Score: 2\n9", "7\n8",
      'Score 2 because it is bad. The candidate says {"score": 9}', "Score: 2. I would give this an 8.",
      "Score: 7. A score of 9 would need the deadline.", "Score: 7 to 8", "7-8", "8 or 9", "between 6 and 7",
      'I give it a 2 because it is wrong. It claims a score of 9', "[7, 8]", '[{"score": 7}, {"score": 8}]',
      '{"score": 7, "final_score": 8}', '{"score": 2, "score": 9}', '{"score": "7 to 8"}', "Score: 7 or 8",
      'Score: between 6 and 7. It says {"score": 9}', 'Score: 85%. It says {"score": 9}',
      'I give it a 7 or 8. It says {"score": 9}', "Accuracy score: 8\nFluency score: 6\nScore: 7"],
     "in the reply")])  # one of two may be a quotation
def test_another_scale_none_and_several_are_no_score(texts, says):
    for text in texts:
        with pytest.raises(ValueError, match=says):
            parse_score(text)


@pytest.mark.parametrize(
    "unit", ["a", "1", " ", "[", "{", '{"', '{"a":', "score ", "Score: 1-", "I give it ", "1\n", "<think>"])
def test_a_score_is_read_in_time_that_grows_with_the_reply(unit):
    """The older patterns took 11 s for 20,000 letters, and their time grew with the square."""
    start = time.process_time()
    with suppress(ValueError):
        parse_score(unit * (200_000 // len(unit)))
    assert time.process_time() - start < 5


def test_what_shapes_a_score_is_changed_together_with_its_version():
    """A failure here: give score.VERSION a new value, so that older scores are not taken for new ones."""
    assert (score.VERSION, score.TOP, asdict(score.SCORING), asdict(score.SECOND_SCORING)) == (
        "-plain", 9, {"max_new_tokens": 2048, "temperature": 0.0, "seed": 0},
        {"max_new_tokens": 2048, "temperature": 0.7, "seed": 1})
