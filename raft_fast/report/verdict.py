"""A run in one paragraph of plain words, and what it left out; nothing here is an opinion."""

from typing import Any

from raft_fast.report.names import TOO_FEW, judgement
from raft_fast.report.run_files import RunFiles
from raft_fast.report.stage1.notes import notes as about_stage1
from raft_fast.report.text import percent, value

DOMAIN_SAID = {"token_f1": "word overlap with the gold answers (token F1)",
               "similarity": "similarity to them"}


def verdict(run: RunFiles) -> list[str]:
    """Sentences: whether training collapsed, what the domain gained, what general behaviour kept, how sure
    that is."""
    early = [f"Training ended early: {run.collapse['reason']}."] if run.collapse else []
    if not run.evaluation:
        return [*early, "This run has not been evaluated, so nothing can be said about what it gained or "
                "kept."]
    return [*early, *_domain(run.evaluation["domain"]), *_general(run.evaluation)]


def left_out(run: RunFiles) -> list[str]:
    """What a reader must know before trusting the numbers: parts missing, slices, shared roles."""
    return [*_about_answers(run), *_about_training(run),
            *_about_evaluation(run.evaluation),
            *(f"{name} could not be read." for name in run.unreadable)]


def _about_answers(run: RunFiles) -> list[str]:
    if run.config.get("data_source") == "gold":
        return ["It was trained on the gold answers, as they are."]
    return about_stage1(run.summary)


def _domain(domain: dict[str, Any]) -> list[str]:
    metrics = domain["metrics"]
    moves = [f"{said} went from {value(metrics[name]['base']['mean'])} to "
             f"{value(metrics[name]['trained']['mean'])} ({_word(metrics[name])})"
             for name, said in DOMAIN_SAID.items()]
    sentences = [f"On {domain['rows']} held-out questions the {' and the '.join(moves)}."]
    nll = metrics["nll"]
    if nll["base"]["mean"] is not None and nll["trained"]["mean"] is not None:
        sentences.append(f"The gold answers cost the trained model {value(nll['trained']['mean'])} "
                         f"nats a token, the base {value(nll['base']['mean'])} ({_word(nll)}).")
    return sentences


def _general(evaluation: dict[str, Any]) -> list[str]:
    general = evaluation["general"]
    if general is None:
        return ["What it kept of its general behaviour was not measured."]
    metric = general["metrics"]["strict_instruction"]
    base, trained = metric["base"]["mean"], metric["trained"]["mean"]
    if not base or trained is None:
        return [f"On {general['prompts']} IFBench prompts the base follows no instruction at all, "
                "so there is nothing it could have kept."]
    return [f"On {general['prompts']} general prompts (IFBench) it follows {percent(trained)} of "
            f"the instructions, the base {percent(base)}: it kept {percent(metric['retention'])} "
            f"({_word(metric)})."]


def _word(metric: dict[str, Any]) -> str:
    return {"better": "a gain beyond noise", "worse": "a loss beyond noise",
            "same": "no change", "within noise": "within noise"}.get(judgement(metric), TOO_FEW)


def _about_training(run: RunFiles) -> list[str]:
    if not run.steps:
        return ["There is no metrics.jsonl: no training step is reported."]
    notes = []
    if all(step.get("kl_loss") is None for step in run.steps):
        notes.append("Distillation was off: this is plain supervised fine-tuning.")
    bounded = sum(bool(step.get("lambda_bounded")) for step in run.steps)
    if bounded:
        notes.append(f"λ was held at its bound in {bounded} of {len(run.steps)} steps.")
    if run.config.get("load_best_model_at_end"):
        notes.append("The weights are those of the best evaluation during training, which was on held-out "
                     "rows: scores on these are a little too good.")
    skipped = sum(bool(step.get("skipped")) for step in run.steps)
    if skipped:
        notes.append(f"{skipped} steps had no finite gradient and were skipped.")
    return notes


def _about_evaluation(evaluation: dict[str, Any]) -> list[str]:
    if not evaluation:
        return ["There is no evaluation.json: neither model was evaluated."]
    notes = [*_about_replies(evaluation["domain"], "held-out")]
    general = evaluation["general"]
    if general is None:
        return [*notes, f"General behaviour was left out: {evaluation['general_skipped']}."]
    out = general["left_out"]
    if out["prompts"]:
        reasons = "; ".join(f"{name} ({why})" for name, why in out["instructions"].items())
        notes.append(f"{out['prompts']} of {general['prompts_total']} IFBench prompts have an "
                     f"instruction that cannot be verified on this machine: {reasons}.")
    if out["not_in_slice"]:
        notes.append(f"Of the rest, {general['prompts']} were asked and {out['not_in_slice']} were "
                     "not (--general_prompts 0 asks all).")
    return [*notes, *_about_replies(general, "general")]


def _about_replies(part: dict[str, Any], name: str) -> list[str]:
    cut, failed = part["truncated"], part["failed"]
    notes = []
    if any(cut.values()):
        notes.append(f"Answers to {name} prompts cut off at the length limit: base {cut['base']}, "
                     f"trained {cut['trained']}. They are scored as they are.")
    if any(failed.values()):
        notes.append(f"Answers to {name} prompts that failed and have no score: base "
                     f"{failed['base']}, trained {failed['trained']}.")
    return notes
