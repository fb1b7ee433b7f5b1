"""A stand-in for the Hugging Face hub that answers requests from a dictionary."""

import base64
import hashlib
import json
import re
from typing import Any

import httpx2


class Hub:
    """Repositories by name, each a dictionary of files; answers requests as the hub does."""

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []  # method and path of every request
        self.down = False
        self.commits = 0

    @property
    def sha(self) -> str:
        """The name of the last commit."""
        return f"{self.commits:040x}"

    def put(self, name: str, path: str, content: bytes) -> None:
        """Commit one file."""
        self.files[name][path] = content
        self.commits += 1

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request."""
        path = request.url.path
        self.asked.append(f"{request.method} {path}")
        if self.down:
            raise httpx2.ConnectError("the network is gone", request=request)
        if path == "/api/validate-yaml":
            return httpx2.Response(200, json={"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(request.content))
        if found := re.fullmatch("/api/models/(.+)/(preupload|commit)/.+", path):
            return getattr(self, f"_{found[2]}")(found[1], request.content)
        if found := re.fullmatch("/(.+)/resolve/[^/]+/(.+)", path):
            return self._file(found[1], found[2], request.method == "HEAD")
        return httpx2.Response(404, headers={"X-Error-Code": "RepoNotFound"}, json={})

    def _create(self, body: dict[str, Any]) -> httpx2.Response:
        whole = "/".join(filter(None, (body.get("organization"), body["name"])))
        address = {"url": f"https://huggingface.co/{whole}"}
        if whole in self.files:
            return httpx2.Response(409, json=address)
        self.files[whole] = {}
        self.private[whole] = bool(body.get("private")) or body.get("visibility") == "private"
        return httpx2.Response(200, json=address)

    def _preupload(self, name: str, content: bytes) -> httpx2.Response:
        told = [
            {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
            for one in json.loads(content)["files"]
        ]
        return httpx2.Response(200, json={"files": told})

    def _commit(self, name: str, content: bytes) -> httpx2.Response:
        for line in map(json.loads, content.splitlines()):
            if line["key"] == "file":
                self.put(name, line["value"]["path"], base64.b64decode(line["value"]["content"]))
        address = f"https://huggingface.co/{name}/commit/{self.sha}"
        told = {"success": True, "commitUrl": address, "commitOid": self.sha}
        return httpx2.Response(200, json=told)

    def _file(self, name: str, path: str, head: bool) -> httpx2.Response:
        if path not in self.files.get(name, {}):
            code = "EntryNotFound" if name in self.files else "RepoNotFound"
            return httpx2.Response(404, headers={"X-Error-Code": code})
        content = self.files[name][path]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": self.sha,
            "Content-Length": str(len(content)),
        }
        return httpx2.Response(200, headers=headers, content=b"" if head else content)
