"""A small Debian archive, made in the test, and a server for it on the loopback that can misbehave on purpose."""

import gzip
import hashlib
import io
import lzma
import struct
import tarfile
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ja_llm.fetch.mirror import architecture

MTIME = 1_600_000_000


def tar_bytes(files: dict[str, bytes | str], mtime: int = MTIME) -> bytes:
    """A tar of files; a str value is the target of a symbolic link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, body in files.items():
            info = tarfile.TarInfo("./" + name)
            info.mtime = mtime
            if isinstance(body, str):
                info.type, info.linkname = tarfile.SYMTYPE, body
                tar.addfile(info)
            else:
                info.size, info.mode = len(body), 0o755 if "/bin/" in name else 0o644
                tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def deb_bytes(name: str, version: str, files: dict[str, bytes | str], compression: str = "xz") -> bytes:
    """A .deb: ar of debian-binary, control.tar.gz and data.tar.{xz,gz} or data.tar."""
    pack = {"xz": lzma.compress, "gz": lambda b: gzip.compress(b, mtime=0), "": lambda b: b}[compression]
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nDescription: test\n more\n".encode()
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": gzip.compress(tar_bytes({"control": control}), mtime=0),
        "data.tar" + ("." + compression if compression else ""): pack(tar_bytes(files)),
    }
    out = b"!<arch>\n"
    for member, body in members.items():
        out += f"{member:<16}{MTIME:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
    return out


def mo_bytes(entries: dict[str, str], order: str = "<") -> bytes:
    """A compiled message catalogue, after the GNU gettext manual."""
    items = sorted((k.encode(), v.encode()) for k, v in entries.items())
    ids, strings = b"", b""
    id_table, string_table = [], []
    base = 28 + 16 * len(items)
    for key, _ in items:
        id_table.append((len(key), base + len(ids)))
        ids += key + b"\0"
    for _, value in items:
        string_table.append((len(value), base + len(ids) + len(strings)))
        strings += value + b"\0"
    head = struct.pack(order + "7I", 0x950412DE, 0, len(items), 28, 28 + 8 * len(items), 0, base)
    tables = b"".join(struct.pack(order + "2I", *row) for row in id_table + string_table)
    return head + tables + ids + strings


class Repository:
    """Files of an archive: `add` packages, then `publish`, then serve `files`."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self._stanzas: list[str] = []

    def add(self, name: str, files: dict[str, bytes | str], version: str = "1.0-1", compression: str = "xz", cut: int = 0) -> str:
        """Add a package, its last `cut` bytes missing; its path in the pool."""
        body = deb_bytes(name, version, files, compression)
        body = body[: len(body) - cut]
        path = f"pool/main/{name[0]}/{name}/{name}_{version}_all.deb"
        self.files[path] = body
        self._stanzas.append(
            f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: A <a@b.example>\nFilename: {path}\nSize: {len(body)}\n"
            f"SHA256: {hashlib.sha256(body).hexdigest()}\nDescription: test\n more words\n"
        )
        return path

    def publish(self, suite: str = "bookworm") -> None:
        plain = "\n".join(self._stanzas).encode()
        packages = lzma.compress(plain)
        name = f"main/binary-{architecture()}/Packages.xz"
        lines = {
            "main/binary-none/Packages.xz": b"",
            name.removesuffix(".xz"): plain,
            name: packages,
        }  # apt wants the plain one too
        release = (
            f"Suite: {suite}\nCodename: {suite}\nDate: Sun, 13 Sep 2020 12:26:40 UTC\n"
            f"Architectures: {architecture()} all\nComponents: main\nSHA256:\n"
        ) + "".join(f" {hashlib.sha256(body).hexdigest()} {len(body)} {file}\n" for file, body in lines.items())
        self.files[f"dists/{suite}/{name}"] = packages
        self.files[f"dists/{suite}/Release"] = release.encode()


class Server:
    """Serves a Repository on the loopback, with Range.

    Attributes:
      cut_after: path -> bytes after which each answer for it is cut off (the connection is closed).
      wrong: paths whose first answer has its last byte changed; always_wrong: every answer.
      held: paths on which, once cut_after bytes are out, the server falls silent; `reached` is set when that happens.
      no_range: ignore Range headers, as some servers do.
      requests: path -> Range headers seen ("" if none).
    """

    def __init__(self, repository: Repository):
        self.cut_after: dict[str, int] = {}
        self.wrong: set[str] = set()
        self.always_wrong: set[str] = set()
        self.held: set[str] = set()
        self.reached, self.release = threading.Event(), threading.Event()
        self.no_range = False
        self.requests: dict[str, list[str]] = defaultdict(list)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server._answer(self, repository)

            def log_message(self, *unused):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/debian"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def _answer(self, handler: BaseHTTPRequestHandler, repository: Repository) -> None:
        path = handler.path.removeprefix("/debian/")
        asked = handler.headers.get("Range", "")
        self.requests[path].append(asked)
        body = repository.files.get(path)
        if body is None:
            handler.send_error(404)
            return
        if path in self.wrong or path in self.always_wrong:
            self.wrong.discard(path)
            body = body[:-1] + bytes([body[-1] ^ 1])
        total, start = len(body), 0
        if asked and not self.no_range:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= total:
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(total - start))
        handler.end_headers()
        handler.wfile.write(body[start:][: self.cut_after.get(path, total)])
        handler.wfile.flush()
        if path in self.held:
            self.reached.set()
            self.release.wait(30)
        handler.close_connection = True

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *unused) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
