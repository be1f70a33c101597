"""The root's networks and every method of chapters 1, 2 and 4 to 7 can be compiled whole: `compiled.py` does it."""

import os
import pathlib
import subprocess
import sys

from minitok import papers

CHAPTERS = ("quantize", "image", "generate", "speculate", "reduce", "project")
# Two make a generator, which cannot be done inside of what is compiled; one keeps a store, no tensor; one speaks.
NOT_COMPILED = {"random_drop", "token_correlation", "token_recycling", "langdc"}
SCRIPT = pathlib.Path(__file__).with_name("compiled.py")


def test_every_method_compiles_into_one_graph():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [row.slug for chapter in CHAPTERS for row in papers.rows(chapter)]
    methods = {slug for slug in rows if papers.places(slug)["module"].exists()}
    assert {line.split()[0] for line in done.stdout.splitlines()} == methods - NOT_COMPILED | {"root"}
