"""`do.py lab` in a real browser: the tour runs, its slider redraws the figure, and its links open lessons."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from minitok.course import lessons, tour

ROOT = pathlib.Path(__file__).parents[2]
LESSON = ROOT / "notebooks" / "src" / "01_quantize" / "01_vq.py"
TOUR = ROOT / "notebooks" / "00_start" / "00_tour.ipynb"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
ERROR = "[data-mime-type='application/vnd.jupyter.error']"
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@contextlib.contextmanager
def course(folder: pathlib.Path, own: pathlib.Path) -> Iterator[str]:
    """The address that `python do.py lab` prints, for a copy of the clone that has the .venv of this one.

    JupyterLab keeps its settings in `own`, not in the user's.
    """
    for name in ("do.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("minitok", "data", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "src"))
    for name, values in SETTINGS.items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    places = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    environment = {**os.environ, **{f"JUPYTER_{name}": str(own / place) for name, place in places.items()}}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(own / "settings"), "PYTHONPATH": str(folder)}
    environment["JUPYTERLAB_WORKSPACES_DIR"] = str(own / "workspaces")
    # All is as users have it, but that nothing is installed: .venv is the interpreter of this test.
    program = f"import sys; sys.path.insert(0, {str(folder)!r}); import do; do.set_up = lambda: None; "
    program += f"do.PYTHON = {sys.executable!r}; sys.exit(do.main(sys.argv[1:]))"
    options = ("lab", "--no-browser", "--ip=127.0.0.1", f"--port={free_port()}", "--allow-root")
    with (own / "server.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-c", program, *options], env=environment, stdout=log, stderr=log)
        try:
            yield printed(own / "server.log")
        finally:
            server.terminate()
            server.wait(60)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def printed(log: pathlib.Path) -> str:
    """The address that JupyterLab prints once it answers."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if found := re.search(r"http://127\.0\.0\.1:\S+", log.read_text()):
            return found[0]
        time.sleep(0.25)
    raise TimeoutError(f"JupyterLab does not answer:\n{log.read_text()}")


def run_all(page: Any) -> None:
    """Runs all cells until the slider's picture is there and none is waiting, or one has failed.

    JupyterLab drops what is run before its kernel has answered for the first time; then it is run again. A dialog, as
    a busy machine makes it show when the server is late, is closed; what it said stands in the error, should it matter.
    """
    from playwright.sync_api import TimeoutError as Late

    end = time.monotonic() + 300
    waiting, picture = page.locator(".jp-InputPrompt", has_text="[*]"), page.locator(".widget-interact img")
    dialog, said = page.locator(".jp-Dialog"), set()
    while time.monotonic() < end:
        if dialog.count():
            said.add(dialog.first.inner_text())
            page.keyboard.press("Escape")
        if not waiting.count():
            if picture.count() or page.locator(ERROR).count():
                return
            with contextlib.suppress(Late):  # a dialog came in between: it is closed in the next round
                page.locator(".jp-Notebook .jp-Cell").first.click(timeout=5000)
                page.get_by_role("menuitem", name="Run", exact=True).click(timeout=5000)
                page.get_by_role("menuitem", name="Run All Cells", exact=True).click(timeout=5000)
        time.sleep(2)
    raise TimeoutError(f"the notebook was not run in five minutes; dialogs: {said or 'none'}")


@contextlib.contextmanager
def browser(profile: pathlib.Path, width: int, height: int) -> Iterator[Any]:
    """The page of a browser whose window has this size."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        window = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, viewport={"width": width, "height": height}
        )
        yield window.pages[0]
        window.close()


def move_slider(page: Any) -> tuple[bytes, bytes]:
    """Moves the first slider: its figure before and after."""
    box = page.locator(".widget-interact").first
    picture, handle = box.locator("img"), box.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    before = after = picture.screenshot()
    handle.focus()
    for _ in range(4):
        handle.press("ArrowRight")
    end = time.monotonic() + 30
    while after == before and time.monotonic() < end:
        time.sleep(0.2)
        after = picture.screenshot()
    return before, after


def follow(page: Any, link: str) -> str:
    """Clicks a link of the notebook that is open; returns the title of the notebook that opens."""
    page.get_by_role("link", name=link).last.click()
    page.locator(".jp-Notebook").nth(1).wait_for(timeout=60_000)
    return page.locator(".jp-Notebook").nth(1).locator("h1").first.inner_text(timeout=60_000)


def shipped(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted((folder / "notebooks").rglob("*.ipynb"))}


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@needs_browser
def test_lab_opens_the_tour_whose_slider_moves_and_whose_links_lead_to_lessons(tmp_path: pathlib.Path) -> None:
    folder, own = tmp_path / "course", tmp_path / "own"
    folder.mkdir()
    own.mkdir()
    with course(folder, own) as address, browser(tmp_path / "profile", 1280, 1000) as page:
        before = shipped(folder)
        page.goto(address, wait_until="domcontentloaded")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
        page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for(timeout=60_000)
        run_all(page)
        assert page.locator(ERROR).all_inner_texts() == []
        first, second = move_slider(page)
        assert first != second
        assert page.locator(ERROR).count() == 0
        page.keyboard.press("Control+s")
        title = follow(page, "The first lesson")
        assert title.startswith(lessons.read_source(LESSON).cells[0].source.splitlines()[0].lstrip("# "))
    assert (folder / "my" / "01_quantize" / "01_vq.ipynb").exists()
    assert shipped(folder) == before


@needs_browser
def test_the_page_of_the_tour_fits_a_telephone(tmp_path: pathlib.Path) -> None:
    import nbformat

    (tmp_path / "tour.html").write_text(tour.page(nbformat.read(TOUR, 4)), encoding="utf-8")
    with browser(tmp_path / "profile", 390, 844) as page:
        page.goto((tmp_path / "tour.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        shown = "[...document.querySelectorAll('p, li, pre, img, svg, h2')]"
        right = f"Math.max(...{shown}.map(element => element.getBoundingClientRect().right))"
        assert page.evaluate(right) <= 390
        cut = f"{shown}.filter(element => element.tagName == 'PRE' && element.scrollWidth > element.clientWidth).length"
        assert page.evaluate(cut) == 0
