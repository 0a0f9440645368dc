"""Every Python block of the documentation runs, and its assertions hold.

The blocks of a page run from top to bottom in one process, those for eight devices in another. In
the README they continue each other; elsewhere a block stands on its own after the preludes. An HTML
comment in front of a block says what is special about it:

    <!-- prelude -->               the blocks that follow can use its names
    <!-- prelude: 8 devices -->    the same, for the blocks on eight devices
    <!-- 8 devices -->             runs on eight devices
    <!-- not run: reason -->       does not run
"""

import functools
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/train_step.md",
    "docs/scaling.md",
    "docs/models.md",
    "docs/evaluation.md",
    "docs/text.md",
    "docs/reliability.md",
)
_FENCE = re.compile(r"^(?:<!-- *(?P<mark>.*?) *-->\n)?```python\n(?P<source>.*?)^```$", re.M | re.S)
_MARKS = {"", "8 devices", "prelude", "prelude: 8 devices"}

# Runs the blocks that come as JSON on standard input, and writes what went wrong in each to a file.
_WORKER = """
import json, sys, traceback

blocks, prelude, failures = json.load(sys.stdin), {"__name__": "__main__"}, []
for block in blocks:
    names = prelude if block["prelude"] else dict(prelude)
    try:
        exec(compile("\\n" * block["line"] + block["source"], block["page"], "exec"), names)
        failures.append(None)
    except BaseException:
        failures.append(traceback.format_exc())
with open(sys.argv[1], "w") as file:
    json.dump(failures, file)
"""


class Block(NamedTuple):
    page: str
    line: int  # lines of the page above the source
    title: str
    mark: str
    source: str

    @property
    def devices(self) -> int:
        return 8 if self.mark.endswith("8 devices") else 1

    @property
    def is_prelude(self) -> bool:
        return self.mark.startswith("prelude") or self.page == "README.md"

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line + 1} {self.title}"


def find_blocks(page: str, text: str) -> list[Block]:
    """Return the Python blocks of a page, each under the heading it follows."""
    blocks = []
    for match in _FENCE.finditer(text):
        above = text[: match.start("source")]
        headings = re.findall(
            r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", above, flags=re.M | re.S), re.M
        )
        mark = match["mark"] or ""
        blocks.append(
            Block(page, above.count("\n"), headings[-1] if headings else "", mark, match["source"])
        )
    return blocks


def run_blocks(blocks: list[Block], devices: int, directory: Path) -> list[str | None]:
    """Run blocks in one process on so many CPU devices; return the traceback of each, or None."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "agg",
        "NPROC": "64",
        "PYTHONPATH": str(ROOT),
        # The same programs, compiled twice as fast.
        "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0",
    }
    results = directory / "results.json"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WORKER, str(results)],
        input=json.dumps([{**block._asdict(), "prelude": block.is_prelude} for block in blocks]),
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(results.read_text())


@functools.cache
def page_blocks(page: str) -> tuple[Block, ...]:
    path = ROOT / page
    return tuple(find_blocks(page, path.read_text())) if path.exists() else ()


def blocks_of(pages: tuple[str, ...]) -> list[Block]:
    """Return the blocks of pages that are run."""
    blocks = [block for page in pages for block in page_blocks(page)]
    return [block for block in blocks if not block.mark.startswith("not run:")]


BLOCKS = blocks_of(PAGES)


def run_all(every: list[Block], tmp_path_factory) -> dict[tuple[Block, int], str | None]:
    """Return what went wrong in each block, or None; pages and numbers of devices run at once."""
    groups = {}
    for page, devices in {(block.page, block.devices) for block in every}:
        groups[devices, page] = [
            block
            for block in every
            if block.page == page and (block.devices == devices or block.mark == "prelude")
        ]
    with ThreadPoolExecutor() as pool:
        running = {
            group: pool.submit(run_blocks, blocks, group[0], tmp_path_factory.mktemp("docs"))
            for group, blocks in groups.items()
        }
    return {
        (block, group[0]): failure
        for group, blocks in groups.items()
        for block, failure in zip(blocks, running[group].result(), strict=True)
    }


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    return run_all(BLOCKS, tmp_path_factory)


def check(block, failures):
    assert block.mark in _MARKS, f"{block.name}: unknown comment <!-- {block.mark} -->"
    failure = failures[block, block.devices]
    assert failure is None, f"{block.name}\n{failure}"


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=[block.name for block in BLOCKS])
def test_example_runs(block, failures):
    check(block, failures)


def test_the_page_on_the_train_step_has_its_examples():
    titles = {block.title for block in BLOCKS if block.page == "docs/train_step.md"}
    assert {"In a plain loop", "As the body of a scan", "shard_map", "pmap"} <= titles


def test_links_within_the_page_lead_somewhere():
    text = (ROOT / "docs/train_step.md").read_text()
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#(.*?)\)", text)) <= anchors


def test_a_broken_example_fails(tmp_path):
    text = (
        "# Page\n<!-- prelude -->\n```python\nx = 1\n```\n"
        "## Good\n```python\n# not a heading\nassert x == 1\nx = 2\n```\n"
        "## Wrong\n```python\n\nassert x == 2\n```\n"
        "## Warns\n```python\nimport warnings\nwarnings.warn('old')\n```\n"
    )
    blocks = find_blocks("page.md", text)
    assert [block.title for block in blocks] == ["Page", "Good", "Wrong", "Warns"]
    prelude, good, wrong, warns = run_blocks(blocks, 1, tmp_path)
    assert prelude is None
    assert good is None
    assert 'File "page.md", line 15' in wrong
    assert "AssertionError" in wrong
    assert "UserWarning: old" in warns
