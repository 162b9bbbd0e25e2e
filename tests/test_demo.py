"""The demo: its questions and plan, and one short run of all of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.messages import Answered, Ended
from demo.plan import Ask, plan, rules, shares_rules
from demo.questions import COMPANIES, QUESTIONS, answer
from demo.results import Results
from demo.screen import Screen
from demo.tally import Tally

ROOT = Path(__file__).parent.parent


def test_questions_are_distinct() -> None:
    assert len(QUESTIONS) >= 100
    assert len({question.casefold() for question in QUESTIONS}) == len(QUESTIONS)


def test_a_plan_is_a_function_of_its_seed() -> None:
    assert plan([50, 50, 50]) == plan([50, 50, 50])
    assert plan([50, 50, 50]) != plan([50, 50, 50], seed=8)


def test_a_plan_repeats_questions_and_keeps_new_ones_for_later() -> None:
    cold, warm, late = plan([250, 250, 450])
    early = {ask.question for ask in cold + warm}
    assert len(set(cold)) < len(cold) * 0.7
    assert {ask.tenant for ask in cold} == set(COMPANIES)
    assert {ask.question for ask in late} - early


def test_every_answer_tells_tenant_and_question() -> None:
    answers = {answer(tenant, question) for tenant in COMPANIES for question in QUESTIONS}
    assert len(answers) == len(COMPANIES) * len(QUESTIONS)
    for tenant, company in COMPANIES.items():
        others = [each.name for each in COMPANIES.values() if each is not company]
        for question in QUESTIONS:
            said = answer(tenant, question)
            assert company.name in said
            assert not any(other in said for other in others)


def test_half_of_the_questions_are_put_by_both_tenants_in_the_same_words() -> None:
    same = [
        len({rules(tenant, number) for tenant in COMPANIES}) == 1
        for number in range(len(QUESTIONS))
    ]
    assert same == [shares_rules(number) for number in range(len(QUESTIONS))]
    assert sum(same) == len(QUESTIONS) // 2
    assert len({rules(tenant, 0, named=True) for tenant in COMPANIES}) == len(COMPANIES)


def answered(
    tenant: str, tier: str, digest: str, *, foreign: bool = False, error: str = ""
) -> Answered:
    ask = Ask(tenant, 0)
    return Answered(ask, time.monotonic() + 1, tier, 0.0, 0.0, digest, foreign, (0, 0), error)


def test_a_tally_tells_a_wrong_answer_from_another_tenants() -> None:
    tally = Tally()
    tally.begin("all")
    tally.answers += [answered("acme", "model", "a"), answered("globex", "model", "g")]
    tally.answers += [answered("acme", "redis", "a"), answered("globex", "memory", "g")]
    assert (tally.wrong(tally.hits), tally.crossed(tally.hits), tally.tempted()) == (0, 0, 2)
    tally.answers.append(answered("acme", "redis", "g"))
    assert (tally.wrong(tally.hits), tally.crossed(tally.hits)) == (1, 1)
    tally.answers.append(answered("acme", "redis", "a", foreign=True))
    tally.answers.append(answered("acme", "redis", "?"))
    assert (tally.wrong(tally.hits), tally.crossed(tally.hits)) == (2, 2)


def test_the_verdict_is_bad_if_anything_is() -> None:
    def verdict(*more: Answered, again: str = "a", hits: int = 1, calls: int = 1) -> bool:
        tally = Tally()
        tally.begin("all")
        tally.answers += [answered("acme", "model", "a"), answered("acme", "redis", "a"), *more]
        fresh = [answered("acme", "durable", again)]
        counted = [Ended({"redis": hits}, 1, (0, 0), 0.0)]
        return Results(tally, fresh, counted, (1.0, 2.0), calls).show(Screen())

    assert verdict()
    assert not verdict(answered("acme", "redis", "", error="ValueError()"))
    assert not verdict(answered("acme", "redis", "?"), hits=2)
    assert not verdict(answered("acme", "redis", "a", foreign=True), hits=2)
    assert not verdict(again="lost")
    assert not verdict(hits=2)
    assert not verdict(calls=2)


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo puts its files; a short path, for the server's socket."""
    return tmp_path_factory.mktemp("d")


def environment(temporary: Path) -> dict[str, str]:
    hidden = ("OPENAI_API_KEY", "REDIS_TIERED_SERVER")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "TMPDIR": str(temporary), "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}


def left_running(temporary: Path) -> list[str]:
    """Processes that have the demo's directory in their command line or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue  # ended meanwhile, or not ours
        if os.fsencode(temporary) in said and int(process.name) != os.getpid():
            found.append(process.name)
    return found


def test_a_short_run_is_all_well_and_leaves_nothing_behind(temporary: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--quick"],
        cwd=ROOT,
        env=environment(temporary),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 100
    for verdict in ("errors 0", "lost entries 0", "cross-tenant hits 0", "wrong answers 0"):
        assert f"OK    {verdict}" in done.stdout
    assert "Redis down" in done.stdout
    assert left_running(temporary) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing_behind(temporary: Path, number: int) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "demo", "--quick"],
        cwd=ROOT,
        env=environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "kill -9" in line:  # in the middle of the outage
                break
        # As Ctrl-C does in a terminal: all processes of the group are told.
        os.killpg(demo.pid, number) if number == signal.SIGINT else demo.send_signal(number)
        rest = demo.stdout.read()
        assert demo.wait(30) == 130, rest
        assert "Traceback" not in rest
        assert left_running(temporary) == []
        assert list(temporary.iterdir()) == []
    finally:
        demo.kill()
        demo.wait()
        if demo.stdout is not None:
            demo.stdout.close()
