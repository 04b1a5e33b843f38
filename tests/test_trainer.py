"""RAFTTrainer as users of transformers and TRL know trainers; the command is the same run."""

import json
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, load_dataset
from golden import NOT_REPEATED
from home import OPTIONS, RUN, config, rows_in_memory
from peft import LoraConfig
from tiny import make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, EarlyStoppingCallback, TrainerCallback

from raft_fast import Callback, RAFTConfig, RAFTTrainer, UserError
from raft_fast.models.load import load_encoder

pytestmark = pytest.mark.usefixtures("here")
ROWS = rows_in_memory()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def same(model, weights):
    return all((weight == weights[name]).all() for name, weight in model.state_dict().items())


def learnt(folder):
    """What is the same for the same seed."""
    steps = [{key: value for key, value in step.items() if not NOT_REPEATED.fullmatch(key)}
             for step in lines(folder / "metrics.jsonl")]
    scores = json.loads((folder / "evaluation.json").read_text())
    return steps, scores["domain"], (folder / "model/model.safetensors").read_bytes()


def test_the_command_and_the_trainer_are_one_run(home, command):
    """Six lines of Python with rows in memory, and the command with their file: the same to the last bit."""
    trainer = RAFTTrainer(
        model="model",
        args=RAFTConfig(output_dir="runs/mine", recipe="raft", encoder="encoder", **OPTIONS),
        train_dataset=load_dataset("json", data_files="rows.jsonl", split="train"),
    )
    trainer.train()
    scores = trainer.evaluate()
    command("train", "--data", "rows.jsonl", "--model", "model", "--encoder", "encoder", "--output_dir",
            "runs/command", *RUN)
    mine, theirs = home / "runs/mine", home / "runs/command"
    assert learnt(mine) == learnt(theirs)
    for name in ("refine/refined.parquet", "heldout.parquet"):
        assert pq.read_table(mine / name) == pq.read_table(theirs / name)
    options, asked = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (mine, theirs))
    assert options == {**asked, "data": "<memory>", "output_dir": "runs/mine"}
    assert json.loads((mine / "inputs.json").read_text()) == json.loads((theirs / "inputs.json").read_text())
    (rejected,) = lines(mine / "rejected.jsonl")
    assert (rejected["file"], rejected["line"]) == ("train_dataset", 13)
    nll = json.loads((mine / "evaluation.json").read_text())["domain"]["metrics"]["nll"]
    assert scores["eval_domain_nll"] == nll["trained"]["mean"]
    assert "rows were in memory" in command("train", "--config", "runs/mine/config.yaml", "--output_dir",
                                            "again", code=2)


def test_a_loaded_model_is_trained_in_place_and_a_run_goes_on(home, monkeypatch):
    """Interrupted by a callback after a step, the same lines go on; a changed model is refused."""
    class Budget(Callback):
        def on_step(self, state):
            state.stop = True

    def trainer(callbacks=(), seed=0, **options):
        args = config("runs/loaded", **{"learning_rate": 1e-3, "max_steps": 3, "save_steps": 1, **options})
        return RAFTTrainer(make_model(seed), args, Dataset.from_list(ROWS), processing_class=make_tokenizer(),
                           callbacks=callbacks)

    stopped = trainer([Budget()])
    assert stopped.train().global_step == 1
    for refused in (stopped.evaluate, stopped.save_model, stopped.push_to_hub):
        with pytest.raises(UserError, match="call train"):
            refused()
    for changes, resumed, said in (
            ({"learning_rate": 0.5}, None, r"learning_rate is 0\.001 there and 0\.5 here"),
            ({"seed": 1}, None, "the model changed since the run"),
            ({}, False, "resume_from_checkpoint=False: runs/loaded already contains a run"),
            ({}, "elsewhere", r"resume_from_checkpoint='elsewhere': .*step-000001")):
        with pytest.raises(UserError, match=said):
            trainer(**changes).train(resume_from_checkpoint=resumed)

    going_on = trainer()
    before = {name: weight.clone() for name, weight in going_on.model.state_dict().items()}
    given = going_on.model
    done = going_on.train(resume_from_checkpoint="runs/loaded/checkpoints/step-000001")
    assert [line["step"] for line in going_on.state.log_history] == [1, 2, 3]
    assert done.training_loss == pytest.approx(sum(line["loss"] for line in going_on.state.log_history) / 3)
    assert going_on.model is given
    assert not same(given, before)
    assert all(weight.requires_grad for weight in given.parameters())
    going_on.save_model("saved")
    assert same(AutoModelForCausalLM.from_pretrained("saved"), given.state_dict())
    assert AutoTokenizer.from_pretrained("saved").chat_template
    scores = going_on.evaluate()
    assert scores["eval_domain_nll"] < scores["eval_domain_nll_base"]
    push = Mock(return_value="address")
    monkeypatch.setattr("raft_fast.trainer.push", push)
    assert going_on.push_to_hub(dataset_name="rows", private=False) == "address"
    assert push.call_args.args[1] == "loaded"

    by_name = RAFTTrainer("model", config("runs/named", learning_rate=1e-3, max_steps=3), ROWS)
    by_name.train()
    by_name.evaluate()
    assert learnt(home / "runs/named") == learnt(home / "runs/loaded")
    finished = trainer()
    assert finished.train(True).global_step == 3
    assert finished.evaluate() == scores
    assert same(finished.model, given.state_dict())


def test_an_adapter_is_pefts_own(home):
    """Also what our options do not name; the model itself is as it was, with one copy of the weights."""
    peft_config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], use_rslora=True,
                             rank_pattern={"v_proj": 2}, init_lora_weights="gaussian",
                             layers_to_transform=[1])

    model = make_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = RAFTTrainer(model, config("runs/peft", learning_rate=1e-2), ROWS, peft_config=peft_config,
                          processing_class=make_tokenizer())
    trained.train()
    assert model.state_dict().keys() == before.keys()
    assert same(model, before)
    merged = trained.model.state_dict()
    assert {name for name in before if (merged[name] != before[name]).any()} == {
        f"model.layers.1.self_attn.{name}_proj.weight" for name in "qv"}
    kept = json.loads((home / "runs/peft/adapter/adapter_config.json").read_text())
    assert (kept["r"], kept["rank_pattern"], kept["use_rslora"], kept["layers_to_transform"]) == (
        4, {"v_proj": 2}, True, [1])


def test_callbacks_of_transformers_hear_a_run_and_may_end_it(home):
    heard = []

    class Ear(TrainerCallback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda args, state, control, logs=None, **more: heard.append(
                    (name[3:], state.global_step, *([logs.get("learning_rate")] if logs else [])))
            return super().__getattribute__(name)

    class Once(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            assert kwargs["model"].training
            assert (args.logging_steps, state.max_steps) == (1, 8)
            control.should_training_stop = True

    watched = {"eval_steps": 1, "eval_general_prompts": 0}
    trainer = RAFTTrainer("model", config("runs/heard", num_train_epochs=4, **watched), ROWS,
                          callbacks=[Ear(), Once])
    trainer.train()
    assert heard == [("train_begin", 0), ("log", 0, None), ("evaluate", 0), ("step_end", 1), ("log", 1, 5e-6),
                     ("log", 1, None), ("evaluate", 1), ("save", 1), ("train_end", 1)]
    assert (home / "runs/heard/model").is_dir()  # it has ended, as by transformers' Trainer
    early = RAFTTrainer("model", config("runs/early", num_train_epochs=9, learning_rate=1e-12, **watched),
                        ROWS, callbacks=[EarlyStoppingCallback(1)])
    assert early.train().global_step < 18


def test_trls_example_runs_with_the_class_names_changed(home):
    """As in TRL's documentation of its distillation trainers, but for smaller models and fewer rows."""
    def conversations(question, answer):
        return Dataset.from_dict({"messages": [[{"role": "user", "content": question},
                                                {"role": "assistant", "content": answer}]] * 4})

    teacher_model = make_model(1)
    training_args = config(output_dir="gkd-model", report_to=["none"], logging_steps=1)
    trainer = RAFTTrainer(model=AutoModelForCausalLM.from_pretrained("model"), teacher_model=teacher_model,
                          args=training_args, processing_class=AutoTokenizer.from_pretrained("model"),
                          train_dataset=conversations("Hi, how are you?", "I'm great thanks"),
                          eval_dataset=conversations("What colour is the sky?", "The sky is blue"))
    trainer.train()
    trainer.save_model(training_args.output_dir)
    assert (home / "gkd-model/model.safetensors").is_file()
    assert not any(weight.requires_grad for weight in teacher_model.parameters())
    assert json.loads((home / "gkd-model/inputs.json").read_text())["the teacher"].startswith("<memory> in ")


ASKED = [{"prompt": [{"role": "user", "content": f"What is {i}?"}]} for i in range(6)]


@pytest.fixture
def teacher(home, monkeypatch):
    """A folder with another model, as large as the default of --teacher_top_k needs; no downloads."""
    monkeypatch.setattr("raft_fast.run.fetch.fetch_wheel", Mock(side_effect=UserError("offline")))
    for name, seed in (("student", 0), ("teacher", 1)):
        make_model(seed, vocab_size=600).save_pretrained(home / name)
        make_tokenizer().save_pretrained(home / name)
    return str(home / "teacher")


@pytest.mark.parametrize(("asked", "peft_config"), [
    (ASKED, None), ([{"prompt": one["prompt"][0]["content"]} for one in ASKED], LoraConfig())])
def test_trls_quick_start_runs_with_the_class_name_changed(home, teacher, asked, peft_config, tmp_path,
                                                           monkeypatch, capsys):
    """Prompts alone and no args, as in TRL's documentation of its DistillationTrainer."""
    encoder = load_encoder(config().options().model)
    monkeypatch.setattr("raft_fast.models.load.load_encoder", lambda options: encoder)
    monkeypatch.chdir(tmp_path)
    trainer = RAFTTrainer(model=str(home / "student"), teacher_model=teacher, peft_config=peft_config,
                          train_dataset=Dataset.from_list(asked))
    trainer.train()
    run = tmp_path / "runs/on_policy"
    options = yaml.safe_load((run / "config.yaml").read_text())
    assert (options["recipe"], options["sft"], options["teacher_sees_answer"], options["data_source"]) == (
        "on_policy", False, False, "gold")
    assert "the rows have no answers: distilling the teacher" in capsys.readouterr().err
    steps = lines(run / "metrics.jsonl")
    assert len(steps) == 3
    assert all(step["kl_loss"] > 0 and not step.get("sft_loss") for step in steps)
    assert not (run / "refine").exists()
    assert "knowledge" not in (run / "first_batch.md").read_text()  # what shows an answer to the teacher


def test_the_command_distils_on_prompts_alone(home, teacher, command):
    """The evaluation outside of the run has no domain scores either."""
    (home / "prompts.jsonl").write_text("\n".join(map(json.dumps, [*ASKED, {"prompt": ""}])))
    words = ["--encoder", "encoder", "--general_prompts", "-1", "--eval_max_new_tokens", "8"]
    command("train", *words, "--model", "student", "--data", "prompts.jsonl", "--teacher", "teacher",
            "--recipe", "on_policy", "--sft", "false", "--eval_steps", "1", "--max_completion_length", "8",
            "--num_train_epochs", "1", "--max_bad_rows", "0.2", "--output_dir", "runs/prompts")
    assert [line["reason"] for line in lines(home / "runs/prompts/rejected.jsonl")] == ["prompt is empty"]
    watched = lines(home / "runs/prompts/evaluations.jsonl")
    assert [line["eval_domain_nll"] for line in watched] == [None, None]
    command("evaluate", *words, "--model", "runs/prompts/model", "--output_dir", "apart")
    for folder in ("runs/prompts", "apart"):
        domain = json.loads((home / folder / "evaluation.json").read_text())["domain"]
        assert domain["without_answers"]
        assert not any(metric["trained"]["n"] for metric in domain["metrics"].values())
        assert {line["answer"] for line in lines(home / folder / "generations.jsonl")} != {""}


@pytest.mark.parametrize(("words", "options", "said"), [
    ({}, {}, "prompts alone need --recipe on_policy --sft false --teacher NAME"),
    ({"recipe": "sdft"}, {"teacher": "teacher"}, "prompts alone need"),
    ({}, {"teacher": "teacher", "eval_steps": 1, "load_best_model_at_end": True},
     "--load_best_model_at_end True: must be false: the held-out rows have no answers"),
    ({}, {"teacher": "teacher", "eval_steps": 1, "eval_general_prompts": 0}, "only general drift"),
])
def test_prompts_alone_are_refused_where_answers_are_needed(words, options, said, teacher, tmp_path):
    args = RAFTConfig(tmp_path / "run", encoder="encoder", general_prompts=-1, **options)
    trainer = RAFTTrainer("student", args, ASKED, **words)
    with pytest.raises(UserError, match=said):
        trainer.train()
