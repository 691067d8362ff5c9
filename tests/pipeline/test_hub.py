"""A push to the hub, against as much of one as it needs."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from huggingface_hub import constants

from pipeline import hub
from pipeline.checkpoint.run_folder import RunFolder


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload needs, kept in memory."""

    repos: dict[str, dict[str, Any]]
    files: dict[str, str]
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.refuses:
            return self._answer({"error": "no such user"}, 403)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.repos[asked["name"]] = asked
            return self._answer({"url": f"{constants.ENDPOINT}/me/{asked['name']}", "id": asked["name"]})
        if self.path.endswith("/preupload/main"):
            names = [each["path"] for each in json.loads(body)["files"]]
            return self._answer(
                {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.files[entry["value"]["path"]] = entry["value"]["content"]
        return self._answer(
            {"commitUrl": f"{constants.ENDPOINT}/me/told/commit/1", "commitOid": "1", "pullRequestUrl": None}
        )

    def do_GET(self) -> None:
        self._answer({"id": "me/told", "sha": "0", "siblings": []})

    def _answer(self, content: Any, code: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {"repos": {}, "files": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield handler
        server.shutdown()


def test_a_checkpoint_is_pushed_with_its_card_once_and_only_if_asked(
    trained: Callable[..., RunFolder], server: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained("sft", push_to_hub=True, hub_model_id="me/told", hub_private_repo=True, hub_token="t")
    assert not server.repos, "not while training"
    recipe = trained.recipe  # type: ignore[attr-defined]
    server.refuses = True
    with pytest.raises(ValueError, match=r"the hub did not take me/told: .*; run the same command again to retry"):
        hub.push(recipe, folder)
    server.refuses = False
    hub.push(recipe, folder)
    assert (server.repos["told"]["visibility"], server.repos["told"]["organization"]) == ("private", "me")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= server.files.keys()
    assert f"{constants.ENDPOINT}/me/told/commit/1" in capsys.readouterr().err
    server.files.clear()
    hub.push(recipe, folder)
    assert not server.files
