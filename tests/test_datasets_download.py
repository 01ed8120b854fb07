"""Downloads against a server on this machine: resumed after cuts, verified, moved on from mirror to mirror."""

import functools
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from subspaces.datasets import download as module
from subspaces.datasets.download import DownloadError, download

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
DEAD = "http://127.0.0.1:9/file"


class Server(ThreadingHTTPServer):
    """Serves CONTENT under /file; other paths misbehave as their names say. Counts requests and bytes sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.cuts = 1

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.path != "/no-ranges" else 0
        body = (b"\xff" + CONTENT[1:] if self.path == "/wrong" else CONTENT)[start:]
        if self.path == "/missing":
            self.send_error(404)
            return
        if not body:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        if self.path == "/always-cut" or (self.path == "/cut" and self.server.cuts):
            self.server.cuts -= 1
            body = body[: len(body) // 3]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(target, *urls, checksum=MD5):
    return download(urls, target / "folder" / "name", checksum, timeout=5.0)


def assert_whole(target):
    folder = target / "folder"
    assert [path.name for path in folder.iterdir()] == ["name"]
    assert (folder / "name").read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [MD5, f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"])
def test_plain_download(server, tmp_path, checksum):
    assert get(tmp_path, server.url("file"), checksum=checksum) == tmp_path / "folder" / "name"
    assert_whole(tmp_path)


def test_a_cut_connection_is_resumed_where_it_stopped(server, tmp_path):
    get(tmp_path, server.url("cut"))
    assert server.requests == [("/cut", None), ("/cut", f"bytes={len(CONTENT) // 3}-")]
    assert_whole(tmp_path)


def test_the_part_of_a_killed_process_is_continued(server, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "name.part").write_bytes(CONTENT[:123_456])
    get(tmp_path, server.url("file"))
    assert server.requests == [("/file", "bytes=123456-")]
    assert_whole(tmp_path)


def test_a_part_that_is_already_whole_needs_nothing_more(server, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "name.part").write_bytes(CONTENT)
    get(tmp_path, server.url("file"))
    assert_whole(tmp_path)


def test_a_part_of_another_file_is_thrown_away(server, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "name.part").write_bytes(b"<html>" * 100)
    get(tmp_path, server.url("file"))
    assert server.requests == [("/file", "bytes=600-"), ("/file", None)]
    assert_whole(tmp_path)


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "name.part").write_bytes(CONTENT[:1000])
    get(tmp_path, server.url("no-ranges"))
    assert_whole(tmp_path)


@pytest.mark.parametrize("bad", ["wrong", "missing", "always-cut", DEAD])
def test_the_next_mirror_is_asked_when_one_fails(server, tmp_path, bad):
    server.cuts = 10
    get(tmp_path, bad if bad == DEAD else server.url(bad), server.url("file"))
    assert_whole(tmp_path)


def test_what_a_failing_mirror_sent_is_not_sent_again(server, tmp_path):
    server.cuts = 10
    get(tmp_path, server.url("always-cut"), server.url("file"))
    path, wanted = server.requests[-1]
    assert (path, wanted) == ("/file", f"bytes={len(CONTENT) - 8 * len(CONTENT) // 27}-") or int(wanted[6:-1]) > 200_000


def test_when_all_mirrors_fail_each_reason_is_given_and_nothing_looks_whole(server, tmp_path):
    with pytest.raises(DownloadError) as error:
        get(tmp_path, server.url("wrong"), server.url("missing"), DEAD)
    lines = str(error.value).splitlines()
    assert "name could not be downloaded" in lines[0]
    assert "wrong md5" in lines[1]
    assert "HTTP 404" in lines[2]
    assert DEAD in lines[3]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_apart_from_the_network_and_keeps_the_part(server, tmp_path, monkeypatch):
    def write(output, chunk):
        output.write(chunk[:1000])
        output.flush()
        raise module._DiskError("No space left on device")

    monkeypatch.setattr(module, "_write", write)
    with pytest.raises(RuntimeError, match=r"with room for name.*No space left"):
        get(tmp_path, server.url("file"), server.url("file"))
    assert (tmp_path / "folder" / "name.part").read_bytes() == CONTENT[:1000]
    monkeypatch.undo()
    get(tmp_path, server.url("file"))
    assert_whole(tmp_path)


def test_two_downloads_at_once_fetch_the_file_once(server, tmp_path):
    threads = [threading.Thread(target=get, args=(tmp_path, server.url("file"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_whole(tmp_path)
    assert len(server.requests) == 1


def test_progress_is_drawn_on_request(server, tmp_path, capsys):
    download([server.url("file")], tmp_path / "name", MD5, progress=True)
    assert "name" in capsys.readouterr().err
    download([server.url("file")], tmp_path / "other", MD5, progress=False)
    assert capsys.readouterr().err == ""


def test_a_download_in_other_hands_is_waited_for_with_a_line_that_says_so(tmp_path, monkeypatch, capsys):
    import fcntl

    from subspaces import processes

    path, part = tmp_path / "data.gz", tmp_path / "data.gz.part"
    path.write_bytes(b"fetched by the other one")
    monkeypatch.setattr(processes, "QUIET", 0.0)
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr(module.time, "sleep", lambda _: fcntl.flock(other, fcntl.LOCK_UN))
        assert module.download([], path, "md5:0") == path
    assert capsys.readouterr().err == f"waiting for another process that downloads {part}\n"
