"""Stands in for the program `vllm`: `vllm serve FOLDER --port N ...`, which answers with the request that it got.

A question with the word `die` ends it, one with `refuse` is refused; `--fail` ends it before it answers.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def stand_in(folder):
    """The program, in a folder."""
    program = folder / "vllm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} "$@"\n')
    program.chmod(0o755)
    return program


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._reply(200 if self.path == "/health" else 404, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self._reply(401, {"error": {"message": "the wrong key"}})
        if "die" in json.dumps(body["messages"]):
            os._exit(9)
        if "refuse" in json.dumps(body["messages"]):
            return self._reply(400, {"error": {"message": "longer than --max-model-len"}})
        words = json.dumps({"body": body, "pid": os.getpid()})
        choices = [{"index": place, "message": {"content": f"{words}"}} for place in reversed(range(body["n"]))]
        return self._reply(200, {"choices": choices})

    def log_message(self, *_):
        pass

    def _reply(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main():
    print(json.dumps(sys.argv[1:]), flush=True)
    template = Path(sys.argv[sys.argv.index("--chat-template") + 1])
    assert "messages" in template.read_text()
    if "--fail" in sys.argv:
        sys.exit("no GPU here")
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
