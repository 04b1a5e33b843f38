"""A folder as stage 1 leaves it, with every kind of decision in it."""

import json
import random


def write_folder(folder, decisions, **summary):
    """decisions.jsonl and summary.json; a decision may also be a damaged line."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [one if isinstance(one, str) else json.dumps(one) for one in decisions]
    (folder / "decisions.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"tau": 0.8, "judge_stop": 0.8} | summary))
    return folder


def many(count, hostile=""):
    """`count` decisions, the same every time."""
    dice = random.Random(7)
    return [decision(number, dice, hostile) for number in range(count)]


def decision(number, dice, hostile=""):
    """A line of decisions.jsonl with two judges, the second of which fails now and then."""
    similarity = min(0.995, max(0.05, dice.gauss(0.82, 0.14)))
    low = similarity < 0.8
    checks = {"copy": f"{hostile}the same words" if number % 9 == 0 else None,
              "similarity": f"{hostile}similarity {similarity:.3f} is below --tau 0.8" if low else None}
    refused = any(checks.values())
    rounds = [] if refused else [fusion_round(n, dice, hostile) for n in (1, 2)]
    source = "gold" if refused else "fused"
    return {"row_id": f"{hostile}faq-{number:03d}", "similarity": similarity if number else None,
            "category": hostile or "roofs", "prompt": [{"role": "user", "content": f"{hostile}Why?"}],
            "gold": f"{hostile}g", "rewrite": f"{hostile}r", "source": source, "checks": checks,
            "rounds": rounds, "completion": f"{hostile}g" if refused else f"{hostile}f",
            "nll": {"gold": 2.5, "rewrite": 1.5, "fused": None if refused else 1.7},
            "why": f"{hostile}similarity {similarity:.3f} against τ 0.8"}


def fusion_round(number, dice, hostile=""):
    score = dice.random()
    failed = score < 0.2
    return {"round": number, "fused": f"{hostile}f", "similarity": 0.9, "score": score,
            "checks": {"cut_off": None if score > 0.1 else f"{hostile}cut off"},
            "scores": [{"judge": f"{hostile}one", "score": score, "error": None},
                       {"judge": "two", "score": None if failed else score / 2,
                        "error": f"{hostile}no score" if failed else None}]}
