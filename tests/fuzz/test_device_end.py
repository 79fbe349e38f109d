"""The kept corpus through the fuzz target, once; `make fuzz` goes on from there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.fuzz.make_corpus import corpus
from tests.tools import fixed_layout, need

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "transport" / "core"
CORPUS = HERE / "corpus" / "device_end"
SANITIZERS = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
REPORT = re.compile(
    r"^Running: (\S+)\npopped (\d+) completed \d+ sent_back (\d+) stale \d+ broken (\d+)$",
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int, int]]:
    """Return what became of each file: chains popped, chains sent back, why the ring broke."""
    clang = need("clang-14", "clang-14 libclang-rt-14-dev")
    program = tmp_path_factory.mktemp("fuzz") / "device_end"
    build = [clang, "-std=c11", "-g", "-O1", "-DREPORT", *SANITIZERS, f"-I{CORE}"]
    sources = map(str, [HERE / "device_end.c", *sorted(CORE.glob("*.c"))])
    subprocess.run([*build, "-o", str(program), *sources], check=True, timeout=60)
    ended = subprocess.run(
        [*fixed_layout(), program, *sorted(CORPUS.iterdir())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=program.parent,
    )
    assert ended.returncode == 0, ended.stderr
    found = {Path(path).name: numbers for path, *numbers in REPORT.findall(ended.stderr)}
    return {name: (int(a), int(b), int(c)) for name, (a, b, c) in found.items()}


def test_every_kept_input_holds_the_invariants(
    reports: dict[str, tuple[int, int, int]],
) -> None:
    assert set(reports) == {path.name for path in CORPUS.iterdir()}


def test_the_corpus_holds_what_the_script_makes() -> None:
    made = corpus()

    assert {name: (CORPUS / name).read_bytes() for name in made} == made


@pytest.mark.parametrize("name", [name for name in corpus() if not name.startswith("bad")])
def test_a_valid_chain_is_popped(name: str, reports: dict[str, tuple[int, int, int]]) -> None:
    popped, sent_back, broken = reports[name]

    assert popped >= 1
    assert (sent_back, broken) == (0, 0)


@pytest.mark.parametrize("name", [name for name in corpus() if name.startswith("bad")])
def test_a_bad_chain_is_refused(name: str, reports: dict[str, tuple[int, int, int]]) -> None:
    _, sent_back, broken = reports[name]

    assert sent_back or broken
