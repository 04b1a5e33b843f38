"""Engines by the names users give them: self, a folder, a hub name, MODEL@URL."""

import copy
from pathlib import Path
from typing import Any

from raft_fast.engines import Engine
from raft_fast.run.errors import require
from raft_fast.run.options import EngineOptions, ModelOptions


def load_engine(spec: str, options: ModelOptions, shared: Engine | None = None, batch_size: int = 32,
                engines: EngineOptions | None = None, option: str = "model", tokenizer: Any = None,
                exact: bool = False) -> Any:
    """The engine a user names: self (`shared` if given, else --model), a folder, a hub name, or MODEL@URL /
    URL of an OpenAI-compatible server (see `OpenAIEngine`). `option` named it, for errors. `tokenizer`:
    instead of the folder's own. `exact`: see `frozen_dtype`."""
    engines = engines or EngineOptions()
    if "://" in spec:
        require("openai", "quickstart")
        from raft_fast.engines.openai import OpenAIEngine

        return OpenAIEngine(spec, engines)
    if spec == "self" and shared is not None:
        return shared
    from raft_fast.engines.hf import HFEngine
    from raft_fast.models.fetch import fetch_model, fingerprint
    from raft_fast.models.load import fingerprint_tokenizer, frozen_dtype, load_chat, load_model
    from raft_fast.run.fetch import cache_dir

    name, revision, option = (
        (options.model, options.revision, "--model") if spec == "self" else (spec, None, option))
    folder = fetch_model(name, revision, option)
    model = load_model(folder, options, frozen_dtype(options, exact), option)
    source = f" ({folder.name})" if folder.is_relative_to(cache_dir()) else ""  # not from the hub: say so
    chat = load_chat(folder, model, engines.chat_template_kwargs, tokenizer)
    told = f" with another tokenizer@{fingerprint_tokenizer(tokenizer)}" if tokenizer else ""
    return HFEngine(model, chat, f"{name}{source}@{fingerprint(folder)}{told}", batch_size)


def engine_of(model: Any, tokenizer: Any, name: str, options: ModelOptions, engines: EngineOptions,
              batch_size: int = 32, trained: bool = False) -> Any:
    """A loaded model of transformers as an engine of this process: a frozen copy if it will be `trained`. It
    moves to --device and into evaluation mode; its attention packs if that changes nothing. Raises UserError
    if it cannot be used."""
    from raft_fast.engines.hf import HFEngine
    from raft_fast.models import load

    load.made_ready(model, options, name)
    if trained:
        model = load.made_ready(load.frozen_copy(model, load.frozen_dtype(options, True)), options, name)
    chat = load.load_chat(Path(name), model, engines.chat_template_kwargs, tokenizer)
    return HFEngine(model, chat, f"{name} in memory@{load.fingerprint_loaded(model, tokenizer)}", batch_size)


def reader_of(engine: Any, options: ModelOptions) -> Any:
    """The engine for all that is not compared: with its weights in bf16 where that is faster."""
    from raft_fast.models.load import frozen_copy, frozen_dtype, made_ready

    dtype, reader = frozen_dtype(options), copy.copy(engine)
    if dtype.itemsize < engine.model.dtype.itemsize:
        reader.model = made_ready(frozen_copy(engine.model, dtype), options, engine.identity)
    return reader
