"""Hub ids, against a local stand-in that speaks as much of the hub's API as a download needs."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import checkpoints
import pytest

COMMIT = "a" * 40
LOAD = (
    "import sys; from anychip import LLM, SamplingParams\n"
    "llm = LLM('org/tiny', 'numpy', skip_tokenizer=True)\n"
    "params = SamplingParams(temperature=0, max_tokens=4, detokenize=False)\n"
    "print(llm.generate([1, 2, 3], params)[0].outputs[0].token_ids)"
)


@pytest.fixture
def hub(tmp_path):
    """-> (its address, the repository's folder, the paths that were asked for)."""
    folder, asked = tmp_path / "repository", []
    folder.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            path = self.path.partition("?")[0]
            asked.append(path)
            if (refused := folder / "refused").exists():
                status, _, code = refused.read_text().partition(" ")
                return self.send(b"{}", {"X-Error-Code": code}, body, status=int(status))
            if path.startswith("/api/models/org/tiny"):
                names = [{"rfilename": f.name} for f in sorted(folder.iterdir())]
                entries = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in folder.iterdir()
                ]
                reply = entries if "/tree/" in path else {"id": "org/tiny", "sha": COMMIT, "siblings": names}
                return self.send(json.dumps(reply).encode(), {"Content-Type": "application/json"}, body)
            file = folder / path.rpartition("/")[2]
            if path.startswith("/org/tiny/resolve/") and file.is_file():
                data = file.read_bytes()
                headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
                return self.send(data, headers, body)
            return self.send(b"{}", {"X-Error-Code": "RepoNotFound"}, body, status=404)

        def send(self, data, headers, body, status=200):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, asked
    server.shutdown()


def run(code, address, home):
    env = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_sharded_repository_is_fetched_and_runs(hub, tmp_path):
    address, folder, asked = hub
    model = checkpoints.build("llama3", folder, max_shard_size="20KB")
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "consolidated.safetensors").write_bytes(b"never fetched")
    done = run(LOAD, address, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == checkpoints.greedy(model, [1, 2, 3], 4)
    assert not [path for path in asked if path.endswith((".bin", ".py", "consolidated.safetensors"))]


def test_a_plan_downloads_no_weights(hub, tmp_path):
    address, folder, asked = hub
    checkpoints.build("llama3", folder, max_shard_size="20KB")
    plan = "from anychip.cli import main; raise SystemExit(main(['plan', '--device', 'numpy', '--model', 'org/tiny']))"
    done = run(plan, address, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model            org/tiny (LlamaForCausalLM, ")
    assert "; by its config.json alone, the weights are not here)" in done.stdout
    assert not [path for path in asked if path.endswith(".safetensors")]


def refusal(code, address, home, *arguments):
    """What `anychip plan` says of a model that it cannot get. code: what happens before."""
    arguments = ["plan", "--device", "numpy", *arguments]
    done = run(f"{code}\nfrom anychip.cli import main; raise SystemExit(main({arguments}))", address, home)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_an_unknown_repository_is_one_line(hub, tmp_path):
    line = refusal("", hub[0], tmp_path / "home", "--model", "org/nothing")
    assert line.startswith("anychip: no directory and no hub repository 'org/nothing'; check the spelling")


def test_a_hub_that_does_not_answer_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    line = refusal("", f"http://127.0.0.1:{port}", tmp_path / "home", "--model", "org/tiny")
    assert line.startswith("anychip: org/tiny is not in the local cache and the hub cannot be reached; check the")


def test_offline_only_the_cache_counts(tmp_path):
    offline = "import os; os.environ['HF_HUB_OFFLINE'] = '1'"
    line = refusal(offline, "http://127.0.0.1:9", tmp_path / "home", "--model", "org/tiny")
    assert line.startswith("anychip: org/tiny is not in the local cache")


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "GatedRepo", "org/tiny is gated: accept its licence on the hub, then set HF_TOKEN"),
        (404, "RevisionNotFound", "org/tiny has no revision 'old'; give a branch, tag or commit of it"),
        (500, "", "org/tiny is not in the local cache and the hub cannot be reached; check the network"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, tmp_path, status, code, said):
    hub[1].joinpath("refused").write_text(f"{status} {code}")
    line = refusal("", hub[0], tmp_path / "home", "--model", "org/tiny", "--revision", "old")
    assert line.startswith(f"anychip: {said}")


def test_a_full_disk_is_one_line(hub, tmp_path):
    """The write fails as it does on a full disk, deep in the hub's library."""
    checkpoints.build("llama3", hub[1])
    full = (
        "import errno, os\n"
        "from huggingface_hub import file_download\n"
        "def full(*args, **options): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "file_download.http_get = full"
    )
    line = refusal(full, hub[0], tmp_path / "home", "--model", "org/tiny")
    assert line == "anychip: no space is left on the disk for org/tiny; free some, or set HF_HOME"


def test_a_home_that_cannot_be_written_is_one_line(hub, tmp_path):
    checkpoints.build("llama3", hub[1])
    (tmp_path / "home").write_text("a file, where the cache should be")
    line = refusal("", hub[0], tmp_path / "home", "--model", "org/tiny")
    assert line.startswith("anychip: org/tiny cannot be downloaded: ")
