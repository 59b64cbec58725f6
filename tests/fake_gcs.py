"""Buckets in memory behind the part of Google Cloud Storage's JSON API that gcsfs and TensorStore use.

Writes can be made to depend on an object's generation, as TensorStore's are.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

OBJECTS = r"/storage/v1/b/([^/]+)/o"


class RefusedError(Exception):
    """An answer other than success; the argument is its HTTP status."""


class Buckets:
    """What is stored: (bucket, name) → (content, generation). One request at a time."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], tuple[bytes, int]] = {}
        self.unfinished: dict[str, bytes] = {}  # of uploads in pieces
        self.lock = threading.Lock()
        self.generation = 0
        self.full = False  # refuse every write, as a bucket without permission to write does

    def check(self, key: tuple[str, str], query: dict[str, str]) -> None:
        generation = self.objects.get(key, (b"", 0))[1]
        if int(query.get("ifGenerationMatch", generation)) != generation:
            raise RefusedError(412)
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == generation:
            raise RefusedError(304 if generation else 404)

    def write(self, key: tuple[str, str], content: bytes, query: dict[str, str]) -> dict[str, Any]:
        if self.full:
            raise RefusedError(403)
        self.check(key, query)
        self.generation += 1
        self.objects[key] = (content, self.generation)
        return self.describe(key)

    def read(self, key: tuple[str, str], query: dict[str, str]) -> bytes:
        self.check(key, query)
        if key not in self.objects:
            raise RefusedError(404)
        return self.objects[key][0]

    def delete(self, key: tuple[str, str], query: dict[str, str]) -> None:
        self.check(key, query)
        if self.objects.pop(key, None) is None:
            raise RefusedError(404)

    def describe(self, key: tuple[str, str]) -> dict[str, Any]:
        if key not in self.objects:
            raise RefusedError(404)
        content, generation = self.objects[key]
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        now = "2026-01-01T00:00:00.000Z"
        return {"kind": "storage#object", "bucket": key[0], "name": key[1], "size": str(len(content)), "md5Hash": md5,
                "generation": str(generation), "timeCreated": now, "updated": now}  # fmt: skip

    def list(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names = sorted(name for b, name in self.objects if b == bucket and name.startswith(prefix))
        items, prefixes = [], []
        for name in names:
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if cut:
                prefixes.append(prefix + head + cut)
            else:
                items.append(self.describe((bucket, name)))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(set(prefixes))}


class Handler(BaseHTTPRequestHandler):
    """One connection to the server's buckets."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        buckets: Buckets = self.server.buckets  # pyright: ignore[reportAttributeAccessIssue]
        try:
            with buckets.lock:
                status, headers, content = self.route(buckets, url.path, dict(parse_qsl(url.query)), body)
        except RefusedError as refusal:
            status, headers, content = refusal.args[0], {}, b"{}"
        # gcsfs drops the slower one of two questions
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if status != 304:
                self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def route(
        self, buckets: Buckets, path: str, query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        def told(fields: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
            return 200, {"Content-Type": "application/json"}, json.dumps(fields).encode()

        if upload := re.fullmatch("/upload" + OBJECTS, path):
            name = query["name"]
            if query["uploadType"] == "resumable":
                if "upload_id" not in query:
                    buckets.unfinished[name] = b""
                    return 200, {"Location": f"http://{self.headers['Host']}{self.path}&upload_id={quote(name)}"}, b"{}"
                buckets.unfinished[name] += body
                if self.headers.get("Content-Range", "").endswith("/*"):
                    return 308, {"Range": f"bytes=0-{len(buckets.unfinished[name]) - 1}"}, b""
                body = buckets.unfinished.pop(name)
            return told(buckets.write((upload[1], name), body, query))
        if moved := re.fullmatch(f"{OBJECTS}/([^/]+)/(?:moveTo|rewriteTo/b/([^/]+))/o/([^/]+)", path):
            key = (moved[1], unquote(moved[2]))
            copy = buckets.write((moved[3] or moved[1], unquote(moved[4])), buckets.read(key, {}), {})
            if moved[3] is None:
                buckets.delete(key, {})
            return told({**copy, "done": True, "resource": copy})
        if named := re.fullmatch("(?:/download)?" + OBJECTS + "/([^/]+)", path):
            key = (named[1], unquote(named[2]))
            if self.command == "DELETE":
                buckets.delete(key, query)
                return 204, {}, b""
            if query.get("alt") != "media":
                return told(buckets.describe(key))
            return self.part(buckets.read(key, query), buckets.objects[key][1])
        if listed := re.fullmatch(OBJECTS, path):
            return told(buckets.list(listed[1], query))
        if bucket := re.fullmatch("/storage/v1/b/([^/]+)", path):
            return told({"kind": "storage#bucket", "name": bucket[1]})
        raise RefusedError(501)

    def part(self, content: bytes, generation: int) -> tuple[int, dict[str, str], bytes]:
        headers = {"x-goog-generation": str(generation), "Content-Type": "application/octet-stream"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return 200, headers, content
        first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, headers, content[first : last + 1]

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@contextlib.contextmanager
def serve(port: int = 0) -> Iterator[tuple[Buckets, dict[str, str]]]:
    """Serve buckets on this machine; what they hold, and the environment variables that lead clients there."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.buckets = Buckets()  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    variables = {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GCE_METADATA_ROOT": "127.0.0.1:1",  # where nobody answers: TensorStore goes on without credentials
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # gcsfs asks for credentials to see the bucket's kind
    }
    try:
        yield server.buckets, variables  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
