"""The command line: what it prints, writes and refuses, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from redis_tiered import Calibration, LLMCache, SemanticPolicy, Tiers
from redis_tiered.cli import main
from redis_tiered.cli.semantic import embeddings_of
from redis_tiered.errors import InvalidInput
from tests.semantic.toy import Toy, asked, taught
from tests.semantic.traffic import Source, pairs_of
from tests.servers import RedisServer

TOY = ("--model", "toy", "--guard", "off", "--quiet")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("cli") / "log.jsonl"
    file.write_text("\n".join(map(json.dumps, Source(1).ask(250))))
    return file


@pytest.fixture(scope="module")
def calibration(log: Path) -> Path:
    file = log.with_name("calibration.json")
    arguments = [str(log), "--max-error", "0.1", "--output", str(file), *TOY]
    assert main(["semantic", "calibrate", *arguments]) == 0
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["semantic", *map(str, arguments)])
    done = capsys.readouterr()
    return code, done.out, done.err


def test_calibrate_prints_a_screen_and_writes_files(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, plot = tmp_path / "out.json", tmp_path / "out.png"
    files = ("--output", output, "--plot", plot)
    code, out, err = run(capsys, "calibrate", log, "--max-error", "0.1", *files, *TOY)
    assert (code, err) == (0, "")
    assert "wanted 10.00%" in out
    assert "<- chosen" in out
    assert len(out.splitlines()) < 45
    assert Calibration.from_json(output.read_text()).model == "toy"
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_evaluate_takes_a_calibration(
    log: Path, calibration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "evaluate", log, "--calibration", calibration, *TOY)
    assert code == 0
    assert "a calibration of" in out
    code, out, _ = run(capsys, "evaluate", log, "--json", *TOY)
    assert code == 0
    assert json.loads(out)["source"] == "log"


def test_embeddings_of_a_users_module_are_found_and_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy_embeddings.py").write_text(
        "def embed(texts):\n    return [[len(t), 1.0] for t in texts]\n"
        "def broken(texts):\n    raise RuntimeError('no key')\n"
    )
    items = Source(9).ask(400)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs_of(items))))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments = ("evaluate", "pairs.jsonl", *TOY, "--embeddings")
    code, out, _ = run(capsys, *arguments, "toy_embeddings:embed")
    assert code == 0
    assert "pairs have no neighbourhood" in out
    code, _, err = run(capsys, *arguments, "toy_embeddings:broken")
    assert code == 1
    assert "no key" in err
    with pytest.raises(Exception, match="no key"):
        main(["semantic", *arguments, "toy_embeddings:broken", "--traceback"])
    for name in ("toy_embeddings:absent", "absent_module:x", "toy_embeddings", ":x"):
        with pytest.raises(InvalidInput, match="--embeddings"):
            embeddings_of(name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"prompt": "a", "answer": "b"}\n{"prompt": 7, "answer": "b"}',
            "log.jsonl, line 2: prompt",
        ),
        ("{", "log.jsonl, line 1: not JSON"),
        ('{"prompt": "a", "answer": "b", "embedding": [1.0]}', "needs about 500 more prompts"),
        ('{"prompt": "a", "answer": "b"}', "needs about 500 more prompts"),
    ],
    ids=["type", "json", "little", "nothing to embed with"],
)
def test_what_is_refused_is_said_on_one_line(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(content)
    code, out, err = run(capsys, "calibrate", file, *TOY)
    assert (code, out) == (1, "")
    assert said in err
    assert err.startswith("redis-tiered: ")
    assert len(err.splitlines()) == 1


def test_what_could_not_be_written_is_refused_before_the_work(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("there was work")

    monkeypatch.setattr("redis_tiered.llm_cache.semantic.tools.calibrate.calibrate", never)
    code, _, err = run(capsys, "calibrate", log, "--output", tmp_path / "no" / "x.json", *TOY)
    assert code == 1
    assert "its folder does not exist" in err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run(capsys, "calibrate", log, "--plot", tmp_path / "x.png", *TOY)
    assert code == 1
    assert "pip install 'redis-tiered[plot]'" in err
    code, _, err = run(capsys, "calibrate", log, "--apply", *TOY)
    assert code == 1
    assert "--apply needs --embeddings" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["semantic"],
        ["semantic", "calibrate"],
        ["semantic", "calibrate", "x", "--max-error", "2"],
        ["semantic", "calibrate", "x", "--max-error", "few"],
        ["semantic", "explain", "x"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["calibrate", "evaluate", "report", "explain"])
def test_help_is_something_to_work_from(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert "openai:" in out
    assert max(map(len, out.splitlines())) <= 110


class _Cache:
    """A cache as the command line knows it."""

    def __init__(self) -> None:
        self.adopted: list[Calibration] = []

    def adopt(self, calibration: Calibration) -> None:
        self.adopted.append(calibration)

    def semantic_report(self) -> dict[str, Any]:
        return {"toy": {"lookups": 12, "theta": 0.9125}} if self.adopted else {}

    def explain(self, prompt: str) -> str:
        return f"about {prompt}"


def test_commands_for_a_running_cache(
    log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = _Cache()
    asked: list[dict[str, Any]] = []

    @contextmanager
    def opened(**given: Any) -> Iterator[_Cache]:
        asked.append(given)
        yield cache

    monkeypatch.setattr("redis_tiered.cli.live.opened", opened)
    monkeypatch.setattr("redis_tiered.cli.semantic.embeddings_of", lambda _: print)
    live = ("--cache", "faq", "--redis", "redis://localhost:1", "--embeddings", "a:b")
    assert run(capsys, "report", *live)[1] == "nothing is known of the cache 'faq'\n"
    with monkeypatch.context() as patch:
        patch.setattr("redis_tiered.embedders.as_embedder", lambda *_, **__: _Toy)
        code, _, err = run(capsys, "calibrate", log, "--max-error", "0.1", "--apply", *live, *TOY)
    assert (code, err) == (0, "in force in the cache 'faq'\n")
    assert [one.model for one in cache.adopted] == ["toy"]
    _, out, _ = run(capsys, "report", *live)
    assert out.splitlines() == ["toy", "  lookups        12", "  theta          0.9125"]
    assert json.loads(run(capsys, "report", "--json", *live)[1])["toy"]["lookups"] == 12
    assert run(capsys, "explain", "where is it", *live)[1] == "about where is it\n"
    assert {given["name"] for given in asked} == {"faq"}
    assert {given["redis"] for given in asked} == {"redis://localhost:1"}


def test_a_running_cache_is_reported_explained_and_calibrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_tiered.cli.semantic.embeddings_of", lambda _: Toy())
    log = tmp_path / "log.jsonl"
    topics = [
        {"prompt": f"topic{at % 12}: words {at}", "answer": f"A{at % 12}"} for at in range(150)
    ]
    log.write_text("\n".join(map(json.dumps, topics)))
    with RedisServer(directory=tmp_path / "redis") as server:
        durable = f"sqlite:///{tmp_path}/durable.db"
        with Tiers(server.url, durable) as tiers:
            semantic = SemanticPolicy(Toy(), warmup=0, audit_rate=0.0, engine="local")
            cache = LLMCache(tiers, semantic=semantic)
            taught(cache)
            assert cache.lookup(asked("topic3: yet another wording")) is not None
            assert cache.settle()
        live = ("--redis", server.url, "--durable", durable, "--embeddings", "toy:toy")
        code, out, _ = run(capsys, "report", *live, "--json")
        assert code == 0
        [(model, figures)] = json.loads(out).items()
        assert (model, figures["served"], figures["calibrated"]) == ("all-MiniLM-L6-v2", 1, False)
        code, out, _ = run(capsys, "explain", "topic3: what else", *live)
        assert code == 0
        assert "the model answers" in out
        arguments = (log, "--max-error", "0.1", "--guard", "off", "--quiet", "--apply", *live)
        assert run(capsys, "calibrate", *arguments)[0] == 0
        figures = json.loads(run(capsys, "report", *live, "--json")[1])[model]
        assert figures["calibrated"] is True
    code, _, err = run(capsys, "calibrate", *arguments)
    assert code == 1
    assert "redis tier" in err or "durable tier" in err


class _Toy:
    model = model_name = "toy"


def test_without_an_address_a_running_cache_cannot_be_reached(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_TIERED_REDIS_URL", raising=False)
    code, _, err = run(capsys, "report", "--embeddings", "json:dumps", "--model", "toy")
    assert code == 1
    assert "--redis must say where Redis is" in err


def test_the_program_starts_fast_and_knows_its_version() -> None:
    code = "import sys; from redis_tiered.cli import main; main(['--version']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("redis-tiered ")
    assert not {"numpy", "redis", "matplotlib", "sqlalchemy"} & set(done.stdout.split())
