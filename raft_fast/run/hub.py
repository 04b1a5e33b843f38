"""Uploading RUN/model, with the card that holds the run's own numbers."""

from pathlib import Path

from raft_fast.run.errors import UserError, first_line, require
from raft_fast.run.fetch import unreached
from raft_fast.run.options import WatchOptions


def repository(options: WatchOptions, run_dir: Path) -> str | None:
    """The repository to upload to, None without --push_to_hub. Raises UserError for an invalid name."""
    if not options.push_to_hub:
        return None
    require("huggingface_hub", "quickstart")
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    name = options.hub_model_id or run_dir.resolve().name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--hub_model_id {name}: {first_line(error)}") from error
    return name


def check_upload(options: WatchOptions, run_dir: Path) -> None:
    """Raises UserError, as `repository` and for a missing token, before anything is uploaded."""
    if repository(options, run_dir) is None:
        return
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError("--push_to_hub requires a token of the hub: set HF_TOKEN or run hf auth login")


def push(folder: Path, name: str, private: bool = True, message: str = "Trained with raft-fast") -> str:
    """Upload the folder to the repository `name`, created if it is missing; returns its address.

    Raises UserError if the hub refuses or cannot be reached; the folder is unchanged.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        repo = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message=message)
    except Exception as error:  # the hub client raises a dozen kinds, those of its HTTP library among them
        raise UserError(f"--hub_model_id {name}: {unreached(error)}; the model is in {folder}: "
                        f"upload it with hf upload {name} {folder}") from error
    return str(repo)
