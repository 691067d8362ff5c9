"""Checkpoints to the hub, of stages whose `trainer` says `push_to_hub`: each with its card, once all is measured."""

from typing import Any

import httpx
from huggingface_hub import HfApi

from eval.files import write_text
from pipeline.checkpoint.run_folder import RunFolder
from pipeline.launch import tell
from pipeline.recipe.schema import Recipe


def push(recipe: Recipe, folder: RunFolder) -> None:
    """Upload what has not been uploaded. TRL's own would push the checkpoints of training, without what was measured.

    Raises:
        ValueError: the hub does not take it; the run is complete all the same.
    """
    for stage in recipe.stages:
        setting = stage.settings()
        if not setting["push_to_hub"] or (mark := folder.stage(stage.name) / "PUSHED").exists():
            continue
        repo: dict[str, Any] = {"repo_id": setting["hub_model_id"], "token": setting["hub_token"]}
        try:
            api = HfApi()
            api.create_repo(**repo, private=setting["hub_private_repo"], exist_ok=True)
            done = api.upload_folder(**repo, folder_path=folder.model(stage.name), commit_message=recipe.name)
        except (httpx.HTTPError, OSError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise ValueError(
                f"{stage.name}: the hub did not take {repo['repo_id']}: {why}; run the same command again to retry"
            ) from None
        write_text(mark, f"{done.commit_url}\n")
        tell(f"{stage.name}: pushed to {done.commit_url}")
