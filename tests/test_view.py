"""view.py: a server on this machine only, whose pages a real browser shows. The browser test needs Chromium."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import random_pyramid
from test_tiff import write_pages

import view
from datasets.grid import Grid
from datasets.image_writer import write_image
from models import model_file
from pictures.levels import to_uint8
from utils import UserError
from viewer.server import Server
from viewer.site import ASSETS

ROOT = Path(view.__file__).parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
GRID = Grid((300, 520), (16, 16), 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of an image and of a shape, and the picture that the first belongs to."""
    folder = tmp_path_factory.mktemp("view")
    picture = np.random.default_rng(0).integers(0, 256, (*GRID.shape, 3)).astype(np.uint8)
    write_image(folder / "truth.png", picture, "RGB")
    signal = {"dtype": "uint8", "channels": 3, "low": 0, "high": 255, "mode": "RGB"}
    about = {"signal": signal, "options": {"path": str(folder / "truth.png")}}
    model_file.save(folder / "image.safetensors", random_pyramid(GRID, 3), about)
    model_file.save(folder / "nameless.safetensors", random_pyramid(GRID, 3), {"signal": signal})
    signal = {"dtype": "bool", "channels": 1, "low": 0, "high": 1, "mode": "occupancy"}
    shape = random_pyramid(Grid((24, 16, 32), (8, 8, 8), 2), 1)
    model_file.save(folder / "shape.safetensors", shape, {"signal": signal, "bounds": [[0, 0, 0], [32, 16, 24]]})
    return folder


@pytest.fixture
def serve():
    """Serves models at a free port while a test lasts."""
    servers = []

    def start(*arguments) -> Server:
        server = view.open_server(*arguments, port=0)
        servers.append(server)
        # It looks this often whether it is to end.
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server, path, method="GET", host=None):
    """Status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_tiles_come_over_the_wire_as_they_are_decoded(folder, serve):
    server = serve(folder / "image.safetensors")
    status, headers, body = ask(server, "/tiles/model/-/0/0/0/0/1_1.png")
    found = cv2.cvtColor(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    pyramid, _ = model_file.load(folder / "image.safetensors")
    assert status == 200 and headers["Content-Type"] == "image/png"
    assert np.array_equal(found, to_uint8(pyramid.decode())[256:300, 256:512])


@pytest.mark.parametrize("host", ["localhost:{}", "127.0.0.1:{}"])
def test_this_machine_is_answered(folder, serve, host):
    server = serve(folder / "image.safetensors")
    assert ask(server, "/", host=host.format(server.server_port))[0] == 200


@pytest.mark.parametrize("host", ["evil.example:{}", "evil.example", "127.0.0.1", "127.0.0.1:{}1", "127.0.0.1.evil:{}"])
def test_foreign_names_are_not_answered(folder, serve, host):
    server = serve(folder / "image.safetensors")
    status, _, body = ask(server, "/about.json", host=host.format(server.server_port))
    assert status == 421 and b"levels" not in body


@pytest.mark.parametrize("path", ["/../utils.py", "/%2e%2e/utils.py", "//etc/passwd", "/page/../../utils.py", "*"])
def test_hostile_paths_find_nothing(folder, serve, path):
    status, _, body = ask(serve(folder / "image.safetensors"), path)
    assert (status, body) == (404, b"not found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "CONNECT"])
def test_only_get_is_known(folder, serve, method):
    assert ask(serve(folder / "image.safetensors"), "/", method)[0] == 501


def test_other_pages_may_not_embed_or_frame_it(folder, serve):
    _, headers, _ = ask(serve(folder / "shape.safetensors"), "/")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["X-Frame-Options"] == "DENY"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; script-src 'self' 'sha256-") and "unsafe-eval" not in policy


def test_only_the_loopback_address_listens(folder, serve):
    assert serve(folder / "image.safetensors").server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("source", ["", "truth.png"])
def test_the_source_may_be_named_or_left_to_the_model(folder, serve, monkeypatch, source):
    monkeypatch.chdir(folder)
    server = serve("image.safetensors", source)
    assert json.loads(ask(server, "/about.json")[2])["source"] is True
    assert ask(server, "/tiles/error/-/0/0/3/0/0_0.png")[0] == 200


def test_a_source_of_another_size_is_resized_and_said(folder, serve, capsys):
    write_image(folder / "large.png", np.zeros((600, 1040, 3), np.uint8), "RGB")
    server = serve(folder / "image.safetensors", str(folder / "large.png"))
    assert "is 1040 x 600; it is compared at the model's 520 x 300" in capsys.readouterr().err
    assert ask(server, "/tiles/source/-/0/0/0/0/0_0.png")[0] == 200


def test_pages_of_a_source_that_are_not_read_are_said_once(folder, serve, capsys):
    write_pages(folder / "pages.tif", 2)
    serve(folder / "image.safetensors", str(folder / "pages.tif"))
    assert capsys.readouterr().err.count("a TIFF of 2 pages, of which the first is read\n") == 1


def test_a_source_that_does_not_fit_is_read_by_region(folder, serve, capsys):
    pytest.importorskip("pyvips")
    paths = [f"/tiles/{layer}/-/0/0/3/{zoom}/0_0.png" for layer in ("source", "error") for zoom in (0, 2)]
    held = serve(folder / "image.safetensors", "")
    wanted = [ask(held, path) for path in paths]
    streamed = view.open_server(folder / "image.safetensors", "", port=0, memory=2**16)
    assert "truth.png is read by region" in capsys.readouterr().err
    assert [streamed.answer(path)[1] for path in paths] == [body for _, _, body in wanted]
    streamed.server_close()
    assert {file.suffix for file in folder.iterdir()} <= {".png", ".safetensors", ".npy", ".tif"}


@pytest.mark.parametrize("words", [["--memory", "1MB", "--source"], ["--memory", "1GiB"], ["--memory", "much"]])
def test_a_memory_that_makes_no_sense_is_refused(folder, words):
    with pytest.raises(UserError, match="--memory"):
        view.main([str(folder / "image.safetensors"), *words])


def test_what_cannot_be_used_is_said_in_a_line(folder):
    write_image(folder / "grey.png", np.zeros((*GRID.shape, 1), np.uint8), "grey")
    np.save(folder / "grid.npy", np.zeros((4, 4, 4), bool))
    (folder / "bad.safetensors").write_bytes(b"no model")
    cases = [
        ("none.safetensors", None, "no such model file"),
        ("bad.safetensors", None, "not a usable model"),
        ("image.safetensors", "none.png", "none.png"),
        ("image.safetensors", "grey.png", "is 520 x 300, grey, uint8"),
        ("shape.safetensors", "grid.npy", "is 4 x 4 x 4, occupancy"),
        ("shape.safetensors", "", "does not name its source"),
        ("nameless.safetensors", "", "does not name its source"),
    ]
    for model, source, words in cases:
        with pytest.raises(UserError, match=words):
            view.open_server(folder / model, source and str(folder / source), port=0)


def test_a_file_that_is_damaged_later_is_said_once_asked_for(folder, serve, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    shutil.copy(folder / "image.safetensors", path)
    server = serve(path)
    path.write_bytes(path.read_bytes()[:-9000])
    status, _, body = ask(server, "/tiles/model/-/0/0/0/0/1_1.png")
    assert status == 500 and str(path).encode() in body and b"Traceback" not in body
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


def test_a_file_of_the_page_that_is_gone_is_said_in_a_line(folder, serve, tmp_path, monkeypatch, capsys):
    server = serve(folder / "image.safetensors")
    monkeypatch.setitem(ASSETS, "/page/plane.js", tmp_path / "plane.js")
    status, _, body = ask(server, "/page/plane.js")
    assert status == 500 and b"plane.js: No such file" in body
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("port", ["-1", "80", "65536"])
def test_impossible_ports_are_refused(folder, port):
    with pytest.raises(UserError, match="--port must be"):
        view.main([str(folder / "image.safetensors"), "--port", port])


def test_a_port_in_use_is_said_in_a_line(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match=r"--port \d+: already in use"):
        view.open_server(folder / "image.safetensors", port=taken.getsockname()[1])


def test_ctrl_c_ends_it_quietly(folder):
    command = [sys.executable, str(ROOT / "view.py"), str(folder / "image.safetensors"), "--port", "0", "--no_browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def screenshot(url, folder):
    """What headless Chromium shows, uint8 BGR [600, 900, 3], and what its console said."""
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=900,600",
        "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--virtual-time-budget=10000",
        f"--user-data-dir={folder / 'profile'}", f"--screenshot={folder / 'page.png'}", "--enable-logging=stderr", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return cv2.imread(str(folder / "page.png")), said


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_shows_the_picture_and_its_blocks(folder, serve, tmp_path):
    server = serve(folder / "image.safetensors")
    pyramid, _ = model_file.load(folder / "image.safetensors")
    page, said = screenshot(server.url, tmp_path)
    assert page.shape == (600, 900, 3) and said == []
    # The picture lies in the middle, as wide as the window less the room around it: its mean colour is the decode's.
    height, width = page.shape[:2]
    middle = page[height // 2 - 60 : height // 2 + 40, width // 2 - 150 : width // 2 + 150]
    decoded = pyramid.decode().numpy()[110:180, 180:340]
    assert np.abs(middle.mean((0, 1))[::-1] / 255 - decoded.mean((0, 1))).max() < 0.03
    blocks, said = screenshot(f"{server.url}#blocks=0,1,2", tmp_path)
    assert said == [] and np.abs(blocks.astype(int) - page).max() > 80


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_shows_the_surface(folder, serve, tmp_path):
    server = serve(folder / "shape.safetensors")
    page, said = screenshot(server.url, tmp_path)
    # Chromium itself may talk about the graphics card that it does not have.
    assert [line for line in said if server.url in line] == []
    middle = page[100:500, 250:650]
    ground = np.array([0x1B, 0x18, 0x17])
    assert (np.abs(middle.astype(int) - ground).max(-1) > 40).mean() > 0.1
