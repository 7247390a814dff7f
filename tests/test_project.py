"""The project's own files agree with each other: environment, lock file, licence, citation, and what the README
promises."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import gilearn

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FROM_CONDA = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def requirements(extras=()):
    """Every requirement's range by its name; an extra that names another one brings what that one needs."""
    lines = [*PROJECT["dependencies"], *(line for e in extras for line in PROJECT["optional-dependencies"][e])]
    found = {}
    for requirement in map(Requirement, lines):
        if requirement.name == PROJECT["name"]:
            found |= requirements(requirement.extras)
        else:
            found[requirement.name.lower()] = requirement.specifier
    return found


def conda():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert set(environment) <= {"name", "channels", "dependencies", "variables"}
    assert environment["channels"] == ["conda-forge"]
    plain = [Requirement(line) for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = (line["pip"] for line in environment["dependencies"] if isinstance(line, dict))
    return {FROM_CONDA.get(r.name, r.name).lower(): r.specifier for r in plain}, pip


def pins():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_environment_installs_the_project_with_its_extras():
    _, pip = conda()
    assert pip == ["-e .[book,test]"]


def test_environment_s_python_is_the_project_s():
    packages, _ = conda()
    wanted = SpecifierSet(PROJECT["requires-python"])
    for version in ("3.10.14", "3.11.0", "3.12.4", "3.13.1", "3.14.0"):
        assert (Version(version) in packages["python"]) == (Version(version) in wanted)


def test_environment_has_every_dependency_in_the_same_range():
    packages, _ = conda()
    declared = requirements(["book", "test"])
    for name, specifier in requirements().items():
        assert packages.get(name) == specifier, name
    for name in set(packages) - {"python", "pip"}:
        assert packages[name] == declared[name], name


def test_the_widgets_are_an_extra_that_the_two_commands_install():
    assert "ipywidgets" not in requirements()
    assert "ipywidgets" in requirements(["widgets"])
    assert ".[book,test]" in (ROOT / "Makefile").read_text()
    assert "ipywidgets" in requirements(["book", "test"])


def test_the_libraries_of_the_defenses_are_an_extra_that_the_two_commands_install():
    extra = set(requirements(["defenses"])) - set(requirements())
    assert {"cryptography", "opacus", "phe", "tenseal"} <= extra
    assert extra <= set(requirements(["book"]))
    heavy = {"cryptography", "gmpy2", "opacus", "phe", "tenseal"}
    code = f"import sys, gilearn.attacks, gilearn.defenses.aggregation; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]", "importing the package needs no library of the extra"


def test_lock_pins_every_dependency_inside_its_range():
    locked = {name.lower().replace("_", "-"): version for name, version in pins().items()}
    for name, specifier in requirements(["book", "test", "browser"]).items():
        assert name in locked, f"{name} is not in requirements.lock: make lock"
        assert locked[name] in specifier, f"{name} {locked[name]} is outside {specifier}"
    assert (locked["torch"], locked["torchvision"]) == ("2.13.0", "0.28.0"), "the tested pair"


def test_lock_is_exact_and_portable():
    for line in (ROOT / "requirements.lock").read_text().splitlines()[1:]:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line), line


def test_ranges_admit_common_gpu_images():
    assert "2.11.0" in requirements()["torch"]
    assert "0.26.0" in requirements()["torchvision"]


def test_installed_versions_are_the_locked_ones():
    for name in ("torch", "torchvision", "numpy", "scipy", "scikit-image", "jupyter-book", "nbval"):
        assert importlib.metadata.version(name).split("+")[0] == pins()[name], "the environment is not the lock's"


def test_version_licence_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == gilearn.__version__ == importlib.metadata.version("gilearn")
    licence = (ROOT / "LICENSE").read_text()
    assert "MIT License" in licence
    assert "Attribution 4.0" in licence
    assert PROJECT["license"] == "MIT"


def test_readme_shows_what_is_there():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), f"the README links to {target}"
    assert text.index("leaked-face.png") < text.index("make book") < text.index("make test")
    for command in re.findall(r"^make ([\w-]+)", text, re.MULTILINE):
        help_text = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert re.search(rf"^{command}\s", help_text, re.MULTILINE), command


@pytest.mark.parametrize("path", sorted((ROOT / "data" / "recorded").glob("*.json")), ids=lambda p: p.stem)
def test_records_name_their_command_and_machine(path):
    from gilearn import data

    content = data.recorded(path.stem)
    assert set(content) == {"command", "machine", "result"}
    module = content["command"].split()[2]
    assert (ROOT / f"{module.replace('.', '/')}.py").exists()
    assert {"processor", "cores", "accelerator", "python", "torch"} == set(content["machine"])
    assert path.name in (ROOT / "data" / "README.md").read_text(), "the data sheet lists every file"


def test_the_data_sheet_names_no_file_that_is_not_there():
    listed = re.findall(r"`((?:recorded|weights)/[^`*]+)`", (ROOT / "data" / "README.md").read_text())
    assert len(listed) > 20
    assert [name for name in listed if not (ROOT / "data" / name).exists()] == []


def test_a_missing_record_says_so():
    from gilearn import data

    with pytest.raises(FileNotFoundError, match="no record 'nothing'"):
        data.recorded("nothing")


def test_the_readme_runs():
    """Its code, block after block, as a reader would paste it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(blocks) == 2
    code = "\n".join(blocks).replace("progress=True", "progress=False")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stderr
    decibels = [float(line.split()[0]) for line in ran.stdout.splitlines() if line.endswith(" dB")]
    assert "Explains the gradient" in ran.stdout
    assert decibels[0] > 50
    assert min(decibels[1:]) > 20


def test_importing_the_package_alone_imports_no_torch():
    code = "import sys, gilearn; assert 'torch' not in sys.modules; assert gilearn.device().type in ('cpu', 'cuda')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_source_is_in_the_bibliography():
    """A docstring cites by key, and the key leads somewhere."""
    known = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(), flags=re.M))
    for path in sorted((ROOT / "gilearn").rglob("*.py")):
        cited = set(re.findall(r"\b[a-z]+(?:19|20)\d{2}[a-z]*\b", path.read_text()))
        assert cited <= known, f"{path.name} cites {sorted(cited - known)}"
