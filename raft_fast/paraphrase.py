"""Paraphrases of trained questions, made once and reviewed:

    python -m raft_fast.paraphrase --data RUN/refine/refined.parquet --output_dir DIR
    python -m raft_fast.evaluate --model RUN/model --paraphrases DIR/paraphrases.jsonl"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row, fingerprint_rows
from raft_fast.data.texts import Message
from raft_fast.engines import Engine, Reply, Sampling
from raft_fast.run.config import parse
from raft_fast.run.errors import UserError, entry
from raft_fast.run.files import write_json, write_jsonl, write_yaml
from raft_fast.run.option import flat
from raft_fast.run.options import DataOptions, EngineOptions, ModelOptions, ParaphraseOptions
from raft_fast.run.progress import Reporter

DESCRIPTION = ("Paraphrase the questions of --data (the rows a model was trained on) for evaluation. "
               "--output_dir defaults to paraphrases/<name of the data>.")
FILE, MAX_NEW_TOKENS, TEMPERATURE = "paraphrases.jsonl", 96, 0.7


@entry
def main() -> None:
    """Read rows, paraphrase, review, print the outcome."""
    kinds = [DataOptions, ModelOptions, EngineOptions, ParaphraseOptions]
    data, model, engines, options = groups = parse("paraphrase", DESCRIPTION, kinds)[1]
    if not data.data:
        raise UserError("--data is missing: name the rows that a model was trained on")
    from raft_fast.data.dataset import read_rows  # heavy: not for --help or a typo
    from raft_fast.engines.load import load_engine
    from raft_fast.models.load import load_encoder

    output_dir, reporter = Path(data.output_dir or f"paraphrases/{Path(data.data).stem}"), Reporter()
    rows = read_rows(data.data, data, data.max_rows, output_dir, reporter)
    write_yaml(flat(groups), output_dir / "config.yaml")
    with reporter.phase("load models"):
        engine = load_engine(options.paraphraser, model, engines=engines)
        encoder = load_encoder(model)
    make(rows, data.data, engine, encoder, options, data.seed, output_dir, reporter)


def make(rows: Sequence[Row], source: str, engine: Engine, encoder: Any, options: ParaphraseOptions,
         seed: int, output_dir: Path, reporter: Reporter) -> Path:
    """Reword each row's last question once and review it, into `output_dir`; returns its paraphrases.jsonl,
    whose lines read as rows (`completion` is the gold answer). `source`: where `rows` were read from.

    Raises UserError if none of the engine's replies can be used."""
    from raft_fast.engines.asking import Part, load_prompt
    from raft_fast.engines.journal import Journal

    prompt = load_prompt("paraphrase", options.prompts)
    sampling = Sampling(MAX_NEW_TOKENS, TEMPERATURE, seed)
    questions = [row.prompt[-1]["content"] for row in rows]
    with Journal(output_dir) as journal, reporter.phase("paraphrase", len(rows), "questions") as advance:
        part = Part("--paraphraser", engine, journal, lambda reply, fresh: advance(fresh, found=not fresh))
        replies = part.ask("paraphrase", [
            [*row.prompt[:-1], Message(role="user", content=prompt.fill(question=question))]
            for row, question in zip(rows, questions, strict=True)], sampling, prompt)
        part.must_have_worked()
    alike = encoder.similarities(questions, [reply.text for reply in replies])
    kept, refused = [], []
    for row, question, reply, similarity in zip(rows, questions, replies, alike, strict=True):
        about = {"row_id": row.row_id, "original": question, "similarity": similarity}
        if reasons := objections(question, reply, similarity, options.paraphrase_tau, prompt.text):
            refused.append({**about, "paraphrase": reply.text, "reasons": reasons})
        else:
            kept.append({**about, "prompt": [*row.prompt[:-1], Message(role="user", content=reply.text)],
                         "completion": row.gold, "category": row.category})
    write_jsonl(refused, output_dir / "refused.jsonl")
    write_json({
        "data": source, "rows": fingerprint_rows(rows), "made_by": engine.identity,
        "prompt": prompt.version, "prompt_text": prompt.text, "sampling": vars(sampling),
        "tau": options.paraphrase_tau, "date": datetime.now(UTC).date().isoformat(),
        "kept": len(kept), "refused": len(refused)}, output_dir / "provenance.json")
    write_jsonl(kept, output_dir / FILE)  # last: the others are complete
    why = f"; {output_dir / 'refused.jsonl'} says why others were refused" if refused else ""
    reporter.say(f"{len(kept)} of {len(rows)} paraphrases kept; written to {output_dir}{why}")
    return output_dir / FILE


def objections(question: str, reply: Reply, similarity: float, tau: float,
               instructions: str = "") -> list[str]:
    """Why a paraphrase cannot be used; empty if it can. Stage 1's checks compare it with the question as they
    compare a rewrite with its gold answer: numbers, references, negation, language, copies, ..."""
    from raft_fast.refinement.checks import Case, Checker

    case = Case(question, question, replace(reply, text=reply.text.strip()), instructions)
    found = Checker()(case)
    reasons = [reason.replace("the gold answer", "the question") for reason in found.values() if reason]
    if found["reply"] or found["empty"]:
        return reasons
    if "?" in question and "?" not in case.answer:
        reasons.append("no longer a question")
    if not similarity >= tau:
        reasons.append(f"similarity {similarity:.3f} is below --paraphrase_tau {tau:g}")
    return reasons


if __name__ == "__main__":
    main()
