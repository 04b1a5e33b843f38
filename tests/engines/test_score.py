"""Scores are read from the end of a reply, on the scale 0-9 or not at all."""

from dataclasses import asdict

import pytest

from raft_fast.engines import score
from raft_fast.engines.score import parse_score


@pytest.mark.parametrize(("text", "digit"), [
    ("7", 7), ("0", 0), ("9", 9), ("7.0", 7), ("**7**", 7), ("7/9", 7), ("7.", 7),
    ('{"score": 7}', 7), ('{"score": "7"}', 7), ('{"reason": "x", "rating": 4}', 4),
    ('```json\n{"score": 3}\n```', 3), ("```\n4\n```", 4),
    ('First {"score": 2}, no: {"score": 7, "detail": {"score": 1}} ok', 7),
    ("I think {x} so {\"score\": 6}.", 6),
    ("<think>score: 2 ... {\"score\": 1}</think>8", 8), ("score 3</think>\n\n9", 9),
    ("<score>8</score>", 8), ("**Score:** 7", 7), ("Score (0-9): 7/9", 7), ("score - 7", 7),
    ("Score 3 at first.\nFinal score: 5 - clear", 5), ("The grade is 5.", 5), ("Good.\n8", 8),
    ("I think it is good. 8", 8), ("It lacks the 3 weeks. **6**", 6), ("I would give this an 8.", 8),
    ("I'd rate this answer 7/9.", 7), ("I did not like the start, but it is right. I give it a 5", 5),
])
def test_the_score_that_ends_the_reply_counts(text, digit):
    assert parse_score(text) == pytest.approx(digit / 9)


@pytest.mark.parametrize("text", [
    "10", "-1", "score: -7", "7/10", "score: 7 out of 10", "0.8", "Score: 0.8", "7.5", "score: 85",
    '{"score": true}', '{"score": 11}', '{"score": [7]}', '{"score": NaN}', "Infinity",
    "It is good. 8.5", "I would give this a 7 out of 10.",
])
def test_another_scale_is_an_error_and_never_clamped(text):
    with pytest.raises(ValueError, match="is not a whole number from 0 to 9"):
        parse_score(text)


@pytest.mark.parametrize("text", [
    "", "good", "Score (0-9)", "score: 85%", "<think>7", '{"verdict": 7}', "1. good\n2. bad",
    "It should name clause no. 8.", "The fee is missing, which is 5", "I would not give this a 9.",
    "I give it a 7 or 8.", "I cannot give it more than a 7.", "They give notice of section 8.",
    "It takes 3."])
def test_no_score_is_an_error_that_quotes_the_reply(text):
    with pytest.raises(ValueError, match=r'no score in the reply .*; what can be read is .*"Score: 8"'):
        parse_score(text)


def test_what_shapes_a_score_is_changed_together_with_its_version():
    """A failure here: give score.VERSION a new value, so that older scores are not taken for new ones."""
    assert (score.VERSION, score.TOP, asdict(score.SCORING), asdict(score.SECOND_SCORING)) == (
        "", 9, {"max_new_tokens": 2048, "temperature": 0.0, "seed": 0},
        {"max_new_tokens": 2048, "temperature": 0.7, "seed": 1})
