"""A small server that answers like the Hugging Face hub, and fails like real servers."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """Serves `files`, by their paths on the hub.

    cut_after : bytes of a response after which the connection is cut
    cuts      : how many responses are cut
    ranges    : whether a response starts where a Range header says
    requests  : the requests so far: (method, path, Range)
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut_after, self.cuts, self.ranges = 0, 0, True
        self.requests: list[tuple[str, str, str | None]] = []
        self.silent: set[str] = set()  # methods of requests that are accepted and never answered
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, file, content: bytes) -> None:
        self.files[f"/datasets/{file.repo}/resolve/{file.revision}/{file.path}"] = content


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.command, self.path, wanted))
        if self.command in server.silent:
            server.closing.wait()
            return
        content = server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", '"an-etag"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if with_body:
            body = content[start:]
            if server.cuts > 0:
                server.cuts -= 1
                body = body[: server.cut_after]
            self.wfile.write(body)


@contextmanager
def running():
    """Yield a server that runs in a thread until the block ends."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
