"""The end of a run: its model card, its report, the table on the terminal, the upload."""

from pathlib import Path
from typing import Any

from raft_fast.evaluation.during_training import collapse_of
from raft_fast.report.cards import write_model_card
from raft_fast.report.page import write_run_report
from raft_fast.report.results import print_table
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import push, repository
from raft_fast.run.files import read_json
from raft_fast.run.options import Options
from raft_fast.run.progress import Reporter


def finish(run_dir: Path, options: Options, reporter: Reporter) -> dict[str, float]:
    """Model card and report from what the run has written; prints the table; uploads with --push_to_hub.
    Returns the numbers of the evaluation."""
    evaluation = read_json(run_dir / "evaluation.json", "restore it, or delete it to evaluate again")
    write_model_card(run_dir)
    report = write_run_report(run_dir)
    print_table(evaluation)
    reporter.say(f"model  {run_dir / 'model'}\nreport {report}")
    if collapse := collapse_of(run_dir):
        reporter.say(f"warning: training ended early: {collapse}")
    if name := repository(options.watch, run_dir):
        with reporter.phase("upload"):
            address = upload(run_dir, name, options.watch.hub_private_repo)
        reporter.say(f"hub    {address}")
    return numbers(evaluation)


def upload(run_dir: Path, name: str, private: bool, message: str = "Trained with raft-fast") -> str:
    """Upload RUN/model to the repository `name`; returns its address. Raises UserError if training
    collapsed, or the hub refuses."""
    if collapse := collapse_of(run_dir):
        raise UserError(f"--hub_model_id {name}: not uploaded, because training ended early ({collapse}); "
                        f"look at {run_dir / 'report.html'} first, then hf upload {name} {run_dir / 'model'}")
    return push(run_dir / "model", name, private, message)


def numbers(evaluation: dict[str, Any]) -> dict[str, float]:
    """The means in an evaluation.json, flat: eval_domain_nll of the trained model, eval_domain_nll_base."""
    found = {}
    for part in ("domain", "paraphrases", "general"):
        for metric, both in ((evaluation.get(part) or {}).get("metrics") or {}).items():
            for model, ending in (("trained", ""), ("base", "_base")):
                if (mean := both[model]["mean"]) is not None:
                    found[f"eval_{part}_{metric}{ending}"] = mean
    for probe, one in (evaluation.get("drift") or {}).items():
        if isinstance(one, dict) and (one.get("kl") or {}).get("mean") is not None:
            found[f"eval_drift_{probe}_kl"] = one["kl"]["mean"]
    return found
