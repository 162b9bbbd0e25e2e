"""Every notebook runs from top to bottom as its reader would run it, and shows what it says."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from notebooks.data.questions import Vectors, questions
from notebooks.data.questions import texts as texts_with_vectors

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
ALL = sorted(NOTEBOOKS.glob("*.ipynb"))
SECONDS = 120

each = pytest.mark.parametrize("notebook", ALL, ids=lambda notebook: notebook.stem)


def run(notebook: Path, copy: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, NOTEBOOKS / "run.py", notebook, "--output", copy],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=copy.parent,
    )


def cells(notebook: Path) -> list[dict[str, Any]]:
    return [
        cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"
    ]


def outputs(notebook: Path) -> list[dict[str, Any]]:
    return [output for cell in cells(notebook) for output in cell["outputs"]]


def images(notebook: Path) -> list[bytes]:
    shown = [output.get("data", {}).get("image/png") for output in outputs(notebook)]
    return [base64.b64decode(image) for image in shown if image]


def texts(notebook: Path) -> str:
    """Everything it shows but images."""
    found = []
    for output in outputs(notebook):
        found += output.get("text", [])
        for kind, data in output.get("data", {}).items():
            found += [] if kind.startswith("image/") else data
    return "".join(found)


def test_there_are_notebooks() -> None:
    expected = {"langchain", "llamaindex", "semantic_cache", "sessions", "vectors"}
    assert expected <= {notebook.stem for notebook in ALL}


@each
@pytest.mark.timeout(SECONDS + 30)
def test_it_runs(notebook: Path, tmp_path: Path) -> None:
    copy = tmp_path / notebook.name
    done = run(notebook, copy)
    assert done.returncode == 0, done.stderr
    assert len(images(copy)) == len(images(notebook))


@each
def test_what_is_kept_is_of_one_run_without_complaints(notebook: Path) -> None:
    assert [cell["execution_count"] for cell in cells(notebook)] == [
        number for number, _ in enumerate(cells(notebook), 1)
    ]
    assert outputs(notebook)
    for output in outputs(notebook):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]


@each
def test_what_is_kept_tells_nothing_of_the_machine(notebook: Path) -> None:
    assert not re.search(r"/(tmp|home|root|Users|private|var|opt|work)/", texts(notebook))
    document = json.loads(notebook.read_text())
    assert document["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert not any(cell["metadata"] for cell in document["cells"])


@each
def test_images_are_small(notebook: Path) -> None:
    assert all(len(image) < 150_000 for image in images(notebook))


def test_langchain_shows_what_is_saved_and_that_nothing_is_lost() -> None:
    notebook = NOTEBOOKS / "langchain.ipynb"
    assert len(images(notebook)) >= 2  # latency by tier; money saved
    shown = texts(notebook)
    for found in (
        "chat model: toy",
        "calls: none",
        "20 replies, 1 call of the model",
        "from memory",
        "from Redis",
        "from SQLite",
        "it deletes 1 answer",
        "messages of Ada's: 0",
        "saved, says stats()",
    ):
        assert found in shown


def test_llamaindex_shows_what_is_saved_and_that_nothing_is_lost() -> None:
    notebook = NOTEBOOKS / "llamaindex.ipynb"
    assert len(images(notebook)) >= 2  # latency by tier; money saved
    shown = texts(notebook)
    assert re.search("the same again +pieces processed: +0 +texts embedded: +0", shown)
    assert re.search("one changed +pieces processed: +1 +texts embedded: +1", shown)
    for found in (
        "chat model: toy",
        "calls: none",
        "from memory",
        "from Redis",
        "from SQLite",
        "it deletes 2 answers",
        "messages of Ada's: 0",
        "the stream: [",
        "saved, says stats()",
    ):
        assert found in shown


@pytest.mark.parametrize("name", ["langchain", "llamaindex"])
def test_openai_is_used_only_with_a_key(name: str) -> None:
    """Its packages are imported in that branch alone."""
    sources = ["".join(cell["source"]) for cell in cells(NOTEBOOKS / f"{name}.ipynb")]
    [guarded] = [source for source in sources if "OPENAI_API_KEY" in source]
    branch = guarded.partition("OPENAI_API_KEY")[2].partition("\nelse:")[0]
    importing = re.findall(r"(?:from|import) (\S*openai\S*)", "\n".join(sources))
    assert importing == re.findall(r"(?:from|import) (\S*openai\S*)", branch) != []


def test_sessions_shows_trimming_and_an_outage() -> None:
    assert len(images(NOTEBOOKS / "sessions.ipynb")) >= 2


def test_vectors_shows_ranks_diversity_memory_and_a_rebuild() -> None:
    notebook = NOTEBOOKS / "vectors.ipynb"
    assert len(images(notebook)) >= 3
    shown = texts(notebook)
    # An emptied Redis: who answered before and after it was built again.
    for found in ("from memory", "from the durable tier", "from redis", "2000/2000", "repaired"):
        assert found in shown
    assert "\r" not in shown  # of the progress bar, the end


def test_semantic_cache_shows_a_budget_vetoes_skips_calibration_and_a_report() -> None:
    notebook = NOTEBOOKS / "semantic_cache.ipynb"
    assert len(images(notebook)) >= 5
    shown = texts(notebook)
    for found in (
        "budget 1%",
        "Its answer is served",
        "without colour?: refused, negation",
        "personal.card",
        "volatile",
        "more prompts",
        "calibrated: True",
        "would have been served",
    ):
        assert found in shown


def test_questions_are_many_distinct_and_have_vectors() -> None:
    asked = questions()
    times = Counter(each.answer_id for each in asked)
    assert len({each.prompt.casefold() for each in asked}) == len(asked) >= 480
    assert max(times.values()) <= 16
    assert sum(count >= 4 for count in times.values()) >= 60
    assert list(times.values()).count(1) >= 30
    meant = {(each.answer, each.answer_id) for each in asked}
    assert len(meant) == len(dict(meant)) > len(times)  # some are said in two ways

    vectors = Vectors()
    found = np.array(vectors.embed(texts_with_vectors()))
    assert found.shape == (len(texts_with_vectors()), 384)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)
    assert np.array_equal(
        vectors.embed(["WHAT is  the Wi-Fi password?"]),
        vectors.embed(["What is the wi-fi password?"]),
    )
    assert (NOTEBOOKS / "data" / "questions.npz").stat().st_size < 700_000
    with pytest.raises(KeyError):
        vectors.embed(["Never asked."])


# --- the runner itself ---------------------------------------------------------------------------


def written(path: Path, *sources: str) -> Path:
    made = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell-{i}",
            "metadata": {},
            "outputs": [],
            "source": source,
        }
        for i, source in enumerate(sources)
    ]
    document = {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document))
    return path


def test_an_error_is_shown_with_its_cell(tmp_path: Path) -> None:
    notebook = written(tmp_path / "broken.ipynb", "fine = 1", "broken = fine / 0")
    done = run(notebook, tmp_path / "copy.ipynb")
    assert done.returncode == 1
    assert "broken = fine / 0" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert not (tmp_path / "copy.ipynb").exists()


def test_a_notebook_has_no_key_no_network_and_a_home_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    notebook = written(
        tmp_path / "alone.ipynb",
        "import os, pathlib, socket",
        "assert 'OPENAI_API_KEY' not in os.environ",
        "def refused(step):\n"
        "    try:\n"
        "        step()\n"
        "    except PermissionError:\n"
        "        return True\n",
        "assert refused(lambda: socket.create_connection(('192.0.2.1', 80), timeout=1))\n"
        "assert refused(lambda: socket.getaddrinfo('example.org', 80))",
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    socket.create_connection(server.getsockname()).close()",
        "print(pathlib.Path.home(), os.getcwd())",
    )
    done = run(notebook, tmp_path / "copy.ipynb")
    assert done.returncode == 0, done.stderr
    home, directory = texts(tmp_path / "copy.ipynb").split()
    assert Path(directory).is_relative_to(Path(home).resolve())
    assert not Path(home).exists()
