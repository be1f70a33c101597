"""The tour in JupyterLab in a real browser: all its cells run, and its slider redraws the figure."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
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
def jupyterlab(folder: pathlib.Path, own: pathlib.Path) -> Iterator[str]:
    """The address of a JupyterLab that serves `folder` and keeps its settings in `own`, not in the user's."""
    for name, values in SETTINGS.items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--allow-root",
        "--IdentityProvider.token=",
    )
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
    }
    environment = {**os.environ, **{name: str(own / place) for name, place in places.items()}}
    environment["JUPYTERLAB_WORKSPACES_DIR"] = str(own / "workspaces")
    command = [sys.executable, "-m", "jupyterlab", *options]
    with (own / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address, own / "server.log")
            yield address
        finally:
            server.terminate()
            server.wait(30)


def wait_for(address: str, log: pathlib.Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api", timeout=1):
            return
        time.sleep(0.25)
    raise TimeoutError(f"JupyterLab does not answer:\n{log.read_text()}")


def run_all(page: Any) -> None:
    """Runs all cells until the slider's picture is there and none is waiting, or one has failed.

    JupyterLab drops what is run before its kernel has answered for the first time; then it is run again. A dialog, as
    a busy machine makes it show when the server is late, is closed; what it said stands in the error, should it matter.
    """
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
            page.locator(".jp-Notebook .jp-Cell").first.click()
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        time.sleep(2)
    raise TimeoutError(f"the notebook was not run in five minutes; dialogs: {said or 'none'}")


def moved_figure(address: str, notebook: str, profile: pathlib.Path) -> tuple[bytes, bytes, int]:
    """Runs all cells and moves the first slider: the figure before and after, and how many cells failed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1280, "height": 1000}
        )
        page = browser.pages[0]
        page.goto(f"{address}/lab/tree/{notebook}", wait_until="domcontentloaded")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
        page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for(timeout=60_000)
        run_all(page)
        box = page.locator(".widget-interact").first
        picture, handle = box.locator("img"), box.locator(".noUi-handle").first
        if page.locator(ERROR).count():
            pytest.fail(page.locator(ERROR).first.inner_text())
        handle.scroll_into_view_if_needed()
        before = after = picture.screenshot()
        handle.focus()
        for _ in range(4):
            handle.press("ArrowRight")
        end = time.monotonic() + 30
        while after == before and time.monotonic() < end:
            time.sleep(0.2)
            after = picture.screenshot()
        failed = page.locator(ERROR).count()
        browser.close()
    return before, after, failed


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("notebook", [TOUR], ids=lambda path: path.stem)
def test_the_slider_redraws_the_figure(notebook: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder, own = tmp_path / "course", tmp_path / "own"
    folder.mkdir()
    own.mkdir()
    shutil.copy(notebook, folder)
    with jupyterlab(folder, own) as address:
        before, after, failed = moved_figure(address, notebook.name, tmp_path / "profile")
    assert failed == 0
    assert before != after
