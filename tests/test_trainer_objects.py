"""Objects and arguments that RAFTTrainer takes, and those that it refuses."""

import re
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, DatasetDict
from home import config, rows_in_memory
from peft import LoraConfig, get_peft_model
from tiny import make_model, make_tokenizer

from raft_fast import Callback, RAFTConfig, RAFTTrainer, UserError

pytestmark = pytest.mark.usefixtures("here")
ROWS, ROW = rows_in_memory(), [{"question": "What?", "answer": "This."}]


def test_the_recipe_callback_and_engine_of_docs_python_run_on_refined_rows(home):
    page = (Path(__file__).parents[1] / "docs/PYTHON.md").read_text(encoding="utf-8")
    shown, drawn = {"__name__": __name__, "RAFTConfig": RAFTConfig}, []
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)[1:]:
        exec(block, shown)

    class Counting(shown["OneByOne"]):
        def one(self, draw):
            drawn.append(draw)
            return super().one(draw)

    recipe, model, tokenizer = shown["GoldAndBase"], make_model(), make_tokenizer()
    refined = Dataset.from_list([{"row_id": f"r{i}", "prompt": [{"role": "user", "content": f"What is {i}?"}],
                                  "completion": f"{i}!", "gold": f"It is {i}.", "rewrite": f"{i}.",
                                  "fused": f"{i}!", "source": "fused", "similarity": 0.9} for i in range(6)])
    options = config(recipe=recipe, data_source="fused", num_generations=2, eval_steps=1)
    RAFTTrainer(model, options, refined, processing_class=tokenizer, callbacks=[shown["Patience"]()],
                rollout_engine=Counting(8)).train()
    run = home / "runs/gold_and_base"
    assert len(drawn) == 2 * 4
    assert not (run / "refine").exists()
    told = yaml.safe_load((run / "config.yaml").read_text())
    assert (told["recipe"], told["learning_rate"], told["divergence"]) == (
        "test_trainer_objects:GoldAndBase", 1e-5, "reverse_kl")
    assert RAFTTrainer(model, RAFTConfig(learning_rate=1.0), ROW, recipe=recipe(), processing_class=tokenizer
                       ).args.learning_rate == 1


@pytest.mark.parametrize(("options", "said"), [
    ({"learning_rte": 1}, r"unknown option \(did you mean learning_rate\?\)"),
    ({"learning_rate": "fast"}, "--learning_rate fast: must be a number"),
    ({"bf16": True}, "weights train in float32"), ({"eval_strategy": "steps"}, "use eval_steps"),
    ({"lora_r": 8}, "--lora_r requires --use_peft"), ({"recipe": "rafft"}, "--recipe rafft: must be"),
    ({"lambda_max": 3, "recipe": "sft"}, "--lambda_max requires --distillation"),
    ({"config": "raft"}, "its values are keywords"), ({"model_name_or_path": "x"}, "use model"),
])
def test_bad_arguments_are_named(options, said):
    with pytest.raises(UserError, match=said):
        RAFTConfig("out", **options)


def test_arguments_of_transformers_that_mean_the_same_are_taken(tmp_path):
    args = RAFTConfig(tmp_path, eval_steps=2, eval_strategy="steps", logging_steps=1, report_to=["none"],
                      lora_target_modules=["q_proj", "v_proj"], use_peft=True, num_train_epochs=2.0)
    assert (args.output_dir, args.report_to, args.lora_target_modules, args.num_train_epochs) == (
        str(tmp_path), "none", "q_proj,v_proj", 2)
    assert (args.eval_strategy, args.metric_for_best_model) == ("steps", "eval_domain_nll")
    assert RAFTConfig(recipe="sft").data_source == "gold"
    assert RAFTConfig(recipe="sft", data_source="fused").data_source == "fused"


@pytest.mark.parametrize(("words", "said"), [
    ({}, "train_dataset is missing"),
    ({"train_dataset": DatasetDict(train=Dataset.from_list(ROW))}, "one split, .*is DatasetDict"),
    ({"train_dataset": Dataset.from_list(ROW).to_iterable_dataset()}, "not streamed.*is IterableDataset"),
    ({"train_dataset": ROW, "args": 3}, "args: must be a RAFTConfig, is int"),
    ({"train_dataset": ROW, "model": 3}, "model: int is no causal language model"),
    ({"train_dataset": ROW, "model": make_model()}, "processing_class is missing"),
    ({"train_dataset": ROW, "model": get_peft_model(make_model(), LoraConfig())}, "model: PeftModel has"),
    ({"train_dataset": ROW, "peft_config": LoraConfig(use_dora=True)}, "peft_config: use_dora=True"),
    ({"train_dataset": ROW, "callbacks": [print]}, "callbacks: builtin_function_or_method is neither"),
])
def test_bad_objects_are_named_at_once(words, said):
    with pytest.raises(UserError, match=said):
        RAFTTrainer(**{"args": config("runs/never") if words else None, **words})


@pytest.mark.parametrize(("words", "said"), [
    ({"train_dataset": ROW}, "train_dataset: 1 rows are too few to hold some out"),
    ({"train_dataset": [{"text": "x"}] * 3}, "no row of train_dataset can be used: (?!.*line 2)"),
    ({"train_dataset": ROW, "eval_dataset": ROW}, "eval_dataset: holds every row of --data train_dataset"),
])
def test_bad_rows_are_errors_of_train(words, said, tmp_path):
    trainer = RAFTTrainer("model", config(tmp_path / "run"), **words)
    with pytest.raises(UserError, match=said):
        trainer.train()


def test_a_model_that_failed_in_training_is_loaded_again():
    class Fail(Callback):
        def on_step(self, state):
            raise RuntimeError

    trainer = RAFTTrainer(make_model(), config("runs/failed", learning_rate=1e-2), ROWS, callbacks=[Fail()],
                          processing_class=make_tokenizer())
    with pytest.raises(RuntimeError):
        trainer.train()
    with pytest.raises(UserError, match="ended before the first checkpoint: load it again"):
        trainer.train()
