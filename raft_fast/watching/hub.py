"""Uploading RUN/model, with the card that holds the run's own numbers."""

from pathlib import Path

from raft_fast.errors import UserError, first_line, require


def push(folder: Path, name: str) -> str:
    """Upload the folder to the private repository `name`, made where it is missing; returns its address.

    Raises UserError where the hub refuses or cannot be reached: everything is still in the folder.
    """
    require("huggingface_hub", "quickstart")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi()
    try:
        repo = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo.repo_id, folder_path=folder,
                          commit_message="Trained with raft-fast")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"--push_to_hub {name}: {first_line(error)}; the model is in {folder}, upload it "
                        f"with hf upload {name} {folder}") from error
    return str(repo)
