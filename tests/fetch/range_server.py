"""A server on the loopback with byte ranges, that can misbehave on purpose: the protocols of Common Crawl and of Wikimedia's dumps."""

import json
import re
import threading
import urllib.parse
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class RangeServer:
    """Serves `files` (path -> bytes) and the CDX API over `captures` (crawl -> list of index lines as dicts).

    `faults` maps a path to a list of what happens to its next requests: (status, headers) or ("cut", bytes sent).
    """

    def __init__(self):
        self.files, self.captures, self.faults = {}, {}, {}
        self.log, self.page_size = [], 2
        self.sent = Counter()

    def __enter__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *unused):
                pass

            def do_GET(self):
                outer._answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *unused):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request):
        path, _, query = request.path.partition("?")
        path = urllib.parse.unquote(path)
        self.log.append((path, query, request.headers.get("Range", "")))
        fault = self.faults.get(path, []).pop(0) if self.faults.get(path) else None
        if fault and fault[0] != "cut":
            return self._send(request, fault[0], b"", fault[1])
        if path.endswith("-index") and path[1:-6] in self.captures:
            status, body = self._cdx(path[1:-6], urllib.parse.parse_qs(query))
            return self._send(request, status, body, {})
        if path not in self.files:
            return self._send(request, 404, b"no such file", {})
        body, headers, status = self.files[path], {}, 200
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if span:
            first, last = int(span[1]), int(span[2] or len(body) - 1)
            if first >= len(body):
                return self._send(request, 416, b"", {"Content-Range": f"bytes */{len(body)}"})
            last = min(last, len(body) - 1)
            headers, status = {"Content-Range": f"bytes {first}-{last}/{len(body)}"}, 206
            body = body[first : last + 1]
        self.sent[path] += len(body)
        self._send(request, status, body, headers, cut=fault[1] if fault else None)

    def _cdx(self, crawl, query):
        """pywb's answer: a pattern, filters "=field:value" and "~field:regex" (from the beginning), pages of JSON lines."""
        pattern = query["url"][0]
        rows = [row for row in self.captures[crawl] if self._matches(pattern, row["url"])]
        if not rows:
            return 404, json.dumps({"message": f"No Captures found for: {pattern}"}).encode()
        pages = [rows[i : i + self.page_size] for i in range(0, len(rows), self.page_size)]
        if "showNumPages" in query:
            return 200, json.dumps({"pages": len(pages), "pageSize": 5, "blocks": len(pages)}).encode()
        found = pages[int(query.get("page", ["0"])[0])]
        for kind, field, value in (re.fullmatch(r"([=~])([a-z-]+):(.*)", f).groups() for f in query.get("filter", [])):
            test = value.__eq__ if kind == "=" else re.compile(value).match
            found = [row for row in found if test(row.get(field, ""))]
        fields = query["fl"][0].split(",")
        lines = [json.dumps({name: row[name] for name in fields if name in row}) for row in found]
        return (200, "\n".join(lines).encode() + b"\n") if lines else (404, b"{}")

    @staticmethod
    def _matches(pattern, url):
        host = urllib.parse.urlsplit(url).hostname
        return (
            host == pattern[2:] or host.endswith(pattern[1:])
            if pattern.startswith("*.")
            else url.split("//")[1].startswith(pattern.rstrip("*"))
        )

    @staticmethod
    def _send(request, status, body, headers, cut=None):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()
