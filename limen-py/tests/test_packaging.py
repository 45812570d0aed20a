"""What is handed on: the sources that pip builds, and what is installed of them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
LICENCES = {"LICENSE-APACHE", "LICENSE-MIT", "LICENSES/LGPL-2.1-or-later.txt", "NOTICE.md"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    there = tmp_path_factory.mktemp("sdist")
    subprocess.run([PROJECT / "scripts/wheels.sh", "--sdist", there], check=True, capture_output=True)
    (made,) = there.glob("limen-*.tar.gz")
    with tarfile.open(made) as archive:
        archive.extractall(there)
    (root,) = (path for path in there.iterdir() if path.is_dir())
    return root


def locked(directory: Path) -> set[tuple[str, str]]:
    """Names and versions of a Cargo.lock."""
    return set(re.findall(r'^name = "(.+)"\nversion = "(.+)"$', (directory / "Cargo.lock").read_text(), flags=re.M))


def test_the_sources_have_all_that_is_built_and_nothing_of_this_machine(sources: Path) -> None:
    files = {str(path.relative_to(sources)) for path in sources.rglob("*") if path.is_file()}
    assert LICENCES <= files and {"PKG-INFO", "README.md", "pyproject.toml", "python/limen/py.typed"} <= files
    for crate in ("limen-core", "limen-py"):
        ours = {str(path.relative_to(PROJECT)) for path in (PROJECT / crate / "src").rglob("*.rs")}
        assert ours and ours <= files, ours - files
    assert {f"limen-core/migrations/{name}" for name in ("common", "postgres", "sqlite")} <= {
        str(Path(file).parent) for file in files
    }
    strange = {file for file in files if re.search(r"(^|/)(target|\.cache|__pycache__)/|\.(so|pyc|db)$", file)}
    assert not strange
    for file in files:
        text = (sources / file).read_bytes()
        assert str(PROJECT).encode() not in text and str(Path.home()).encode() not in text, file


def test_the_sources_build_with_the_very_crates_that_were_tested(sources: Path) -> None:
    cargo = shutil.which("cargo") or str(Path.home() / ".cargo/bin/cargo")
    before = locked(sources)
    assert before == locked(PROJECT) and len(before) > 200
    # Other crates of the workspace are not in it, so cargo drops what those alone need.
    command = [cargo, "metadata", "--offline", "--format-version", "1"]
    subprocess.run(command, cwd=sources, check=True, capture_output=True, env={**os.environ, "CARGO_NET_OFFLINE": "true"})
    after = locked(sources)
    assert after < before and ("limen-core", importlib.metadata.version("limen")) in after


def test_licences_are_installed() -> None:
    metadata = importlib.metadata.metadata("limen")
    assert metadata["License-Expression"] == "MIT OR Apache-2.0"
    assert set(metadata.get_all("License-File") or []) == LICENCES
    files = {str(file).split(".dist-info/", 1)[-1] for file in importlib.metadata.files("limen") or []}
    assert {f"licenses/{name}" for name in LICENCES} <= files
