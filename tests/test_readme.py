"""What the README shows runs as it is written, and what it names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import llama_index.core
import pytest
from langchain_core.globals import set_llm_cache

from demo.openai_server import OpenAIServer
from redis_tiered import Tiers
from redis_tiered.settings import ENVIRONMENT, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """A user's machine: an API key, an empty home, no servers."""
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        for variable in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
            monkeypatch.setenv(variable, server.base_url)
        # Encodings come with LlamaIndex: here, nothing is fetched.
        encodings = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(encodings))
        monkeypatch.setenv("REDIS_TIERED_HOME", str(tmp_path / "home"))
        for variable in ENVIRONMENT:
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.chdir(tmp_path)
        yield server
        set_llm_cache(None)
        Settings.llm = None
        if Tiers._default is not None:
            Tiers._default.close()


# LlamaIndex's agents look at pydantic's deprecated attributes.
@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1][:40])
def test_the_code_runs(block: str, provider: OpenAIServer) -> None:
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_the_first_ten_lines_ask_the_model_once(
    provider: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(BLOCKS[0], "README.md", "exec"), {"__name__": "readme"})
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert provider.calls == 1


def test_every_file_it_names_exists() -> None:
    named = re.findall(r"`((?:tests|benchmarks|demo)/[\w/.]*)`", README)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_variable_is_documented_and_no_other() -> None:
    named = set(re.findall(r"REDIS_TIERED_\w+", README))
    assert named == {*ENVIRONMENT, "REDIS_TIERED_HOME"}


def test_defaults_are_what_it_says() -> None:
    fields = Settings.__dataclass_fields__
    for name, shown in {
        "l1_max_bytes": "67108864 bytes",
        "l1_ttl": "60 seconds",
        "redis_timeout": "0.5, ",
        "durable_timeout": "2.0 seconds",
        "max_connections": "16 per server",
    }.items():
        assert float(re.match(r"[\d.]+", shown).group()) == fields[name].default  # type: ignore[union-attr]
        assert shown in README


def test_it_holds_no_gap() -> None:
    assert not re.search(r"@[A-Z]+@|TODO", README)
