"""Uploading RUN/model, with the card that holds the run's own numbers."""

from pathlib import Path

from raft_fast.errors import UserError, first_line, require
from raft_fast.options import WatchOptions


def repository(options: WatchOptions, run_dir: Path) -> str | None:
    """Where the model is to be uploaded; None where it is not. Raises UserError for a name that the hub does
    not take."""
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


def push(folder: Path, name: str, private: bool = True) -> str:
    """Upload the folder to the repository `name`, made where it is missing; returns its address.

    Raises UserError where the hub refuses or cannot be reached: everything is still in the folder.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi()
    try:
        repo = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo.repo_id, folder_path=folder,
                          commit_message="Trained with raft-fast")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"--hub_model_id {name}: {first_line(error)}; the model is in {folder}, upload it "
                        f"with hf upload {name} {folder}") from error
    return str(repo)
