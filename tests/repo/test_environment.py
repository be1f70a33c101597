"""environment.yml, constraints.txt and pyproject.toml agree; checked without conda and without a network."""

import pathlib
import re
import tomllib
from importlib.metadata import distributions

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!-]+)(; sys_platform == \"linux\")?")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = {line: PIN.fullmatch(line) for line in lines if not line.startswith("#")}
    assert [line for line, match in found.items() if match is None] == []
    return {canonical(match[1]): match[0] for match in found.values() if match}


def canonical(text: str) -> str:
    return text.lower().replace("_", "-")


def name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return canonical(match[0])


def test_conda_brings_python_and_pip_and_pip_brings_the_rest() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, rest = environment["dependencies"]
    assert pip == "pip"
    assert rest == {"pip": ["-c constraints.txt", "-e .[all]"]}
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert python == f"python={oldest}"
    assert environment["channels"] == ["conda-forge"]


def test_every_requirement_has_a_range_and_a_tested_version() -> None:
    extras = {extra: rows for extra, rows in PROJECT["optional-dependencies"].items() if extra != "all"}
    needed = [*PROJECT["dependencies"], *(row for rows in extras.values() for row in rows)]
    assert [row for row in needed if ">=" not in row] == []
    assert {name(row) for row in needed} - pins().keys() - {"triton-windows"} == set()
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert everything == f"minitok[{','.join(sorted(extras))}]"


def test_pins_hold_on_every_system() -> None:
    pinned = pins()
    assert pinned["torch"].endswith('; sys_platform == "linux"')
    assert pinned["triton"].endswith('; sys_platform == "linux"')
    assert [row for package, row in pinned.items() if re.match("nvidia|cuda", package) or "+" in row] == []


@pytest.mark.parametrize("python", ["3.11.0", "3.11.2", "3.12.0", "3.13.0", "3.14.0"])
def test_every_pin_can_be_had_on_every_python_that_is_promised(python: str) -> None:
    assert python in SpecifierSet(PROJECT["requires-python"])
    pinned = {pin.split(";")[0] for pin in pins().values()}
    named = {
        f"{canonical(found.name)}=={found.version}": found.metadata.get("Requires-Python") for found in distributions()
    }
    asked = {pin: named[canonical(pin)] for pin in pinned if canonical(pin) in named}
    assert len(asked) > 100
    refused = {pin: wanted for pin, wanted in asked.items() if wanted and python not in SpecifierSet(wanted)}
    assert refused == {}
