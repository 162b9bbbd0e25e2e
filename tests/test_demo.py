"""The demo: its questions and plan, and one short run of all of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from demo.messages import Added, Answered, Ended, Filed, Looked, Mark, Recalled, Seen, Talk
from demo.plan import Ask, plan, rules, shares_rules
from demo.questions import COMPANIES, QUESTIONS, answer
from demo.register import Mistakes, Register
from demo.results import Results
from demo.screen import Screen
from demo.tally import DOWN, Tally
from demo.tickets import SHOWN as TICKETS
from demo.tickets import Tickets
from demo.transcript import SHOWN, Faults, Transcript
from demo.wordings import Served, stream
from redis_tiered import Tiers

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


def test_questions_in_other_words_come_with_some_of_them_again() -> None:
    asked = stream()
    assert asked == stream()
    assert 1.2 < len(asked) / len(set(asked)) < 1.5
    assert len({each.answer_id for each in asked}) < len(set(asked)) / 5
    assert len({each.prompt for each in asked}) == len(set(asked))


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


def turn(number: int) -> tuple[Mark, Mark]:
    return Mark(f"u/{number}/asked", "human", "q"), Mark(f"u/{number}/told", "ai", "a")


TALK = Talk("acme", "u")
MANY = tuple(mark for number in range(8) for mark in turn(number))


def added(number: int, *, talk: Talk = TALK, began: float | None = None, error: str = "") -> Added:
    moment = time.monotonic() + 1 if began is None else began
    return Added(talk, turn(number), moment, 0.0, error)


@pytest.mark.parametrize(
    ("log", "faults"),
    [
        (MANY, Faults()),
        (MANY[:-2], Faults(lost=2)),
        (MANY[:3] + MANY[4:], Faults(lost=1)),
        ((), Faults(lost=16)),
        (MANY + MANY[:1], Faults(doubled=1)),
        (MANY[:4] + MANY[2:], Faults(doubled=2)),
        (MANY[:2] + MANY[3:1:-1] + MANY[4:], Faults(moved=2)),
        (MANY[2:] + MANY[:2], Faults(moved=16)),
        (MANY + turn(9), Faults(strange=2)),
        ((*MANY[:-1], MANY[-1]._replace(digest="other")), Faults(lost=1, strange=1)),
        ((*MANY[:-1], MANY[-1]._replace(kind="human")), Faults(lost=1, strange=1)),
    ],
)
def test_a_log_must_hold_each_acknowledged_message_once_and_in_order(
    log: tuple[Mark, ...], faults: Faults
) -> None:
    assert Transcript(list(MANY)).faults(log) == faults


def test_an_addition_that_failed_may_be_in_the_log_or_not() -> None:
    transcript = Transcript()
    transcript.note(added(0))
    transcript.note(added(1, error="TierUnavailable()"))
    transcript.note(added(2))
    without, whole = (*turn(0), *turn(2)), (*turn(0), *turn(1), *turn(2))
    for log in (without, whole):
        assert transcript.faults(log) == Faults()
        assert transcript.fault_of_window(log) == ""
    assert transcript.faults((*whole, *turn(1))) == Faults(doubled=2)
    assert transcript.fault_of_window(whole[:-2]) == "stale"


@pytest.mark.parametrize(
    ("window", "fault"),
    [
        (MANY[-SHOWN:], ""),
        (MANY[-SHOWN - 2 : -2], "stale"),
        (MANY[-SHOWN:-1], "stale"),
        ((), "stale"),
        (MANY[:SHOWN], "stale"),
        (MANY[-SHOWN:] + turn(9), "stale"),
        (MANY[-SHOWN + 1 :], "torn"),
        (MANY[-SHOWN + 2 :], "torn"),
        (MANY[-SHOWN - 2 :], "torn"),
        (MANY[-SHOWN - 2 : -SHOWN] + MANY[-SHOWN + 2 :], "torn"),
        (turn(9) + MANY[-SHOWN + 2 :], "torn"),
    ],
)
def test_a_window_must_be_the_newest_whole_turns(window: tuple[Mark, ...], fault: str) -> None:
    assert Transcript(list(MANY)).fault_of_window(window) == fault


def test_a_short_conversation_is_in_its_window_as_a_whole() -> None:
    assert Transcript().fault_of_window(()) == ""
    assert Transcript().fault_of_window(turn(0)) == "stale"
    short = Transcript(list(MANY[:4]))
    assert short.fault_of_window(MANY[:4]) == ""
    assert short.fault_of_window(MANY[2:4]) == "torn"


def test_a_tally_knows_what_was_added_while_redis_was_down() -> None:
    tally = Tally()
    tally.begin("before")
    before = time.monotonic()
    tally.begin(DOWN)
    down = time.monotonic()
    tally.begin("after")
    turns = [added(0, began=before), added(1, began=down), added(2, began=down, error="Oh()")]
    base = answered("acme", "model", "a")
    tally.answers += [base._replace(began=down, added=each) for each in turns]
    assert tally.while_down(tally.added) == turns[1:2]
    assert tally.while_down(tally.added, down=False) == turns[:1]
    assert tally.errors == ["Oh()"]
    assert tally.transcripts() == {
        TALK: Transcript([*turn(0), *turn(1)], set(turn(2))),
    }


ASK = Ask("acme", 3)


def filed(name: str, ask: Ask = ASK, *, acknowledged: float = 1.0, error: str = "") -> Filed:
    return Filed(name, ask, acknowledged - 0.5, 0.5, error)


def looked(*names: str, ask: Ask = ASK, began: float = 9.0) -> Looked:
    return Looked(ask, names, began, 0.0, "")


def test_a_lookup_must_give_the_nearest_that_were_acknowledged() -> None:
    near = [f"near-{number}" for number in range(TICKETS)]
    tickets = [
        *map(filed, near),
        filed("far", Ask("acme", 4)),
        filed("late", acknowledged=9.1),
        filed("failed", error="TierUnavailable()"),
        filed("other", Ask("globex", 3)),
    ]
    mistakes = Register(tickets).mistakes
    assert mistakes(looked(*near)) == Mistakes()
    assert mistakes(looked(*near, ask=Ask("acme", 4))) == Mistakes(missing=1)
    assert mistakes(looked(*near[1:], "far")) == Mistakes(missing=1)
    assert mistakes(looked(*near[1:])) == Mistakes(missing=2)  # there was room for all
    assert mistakes(looked(*near[1:], near[1])) == Mistakes(missing=2)
    assert mistakes(looked()) == Mistakes(missing=TICKETS + 1)
    assert mistakes(looked(began=0.9)) == Mistakes()
    assert mistakes(looked(*near[1:], "other")).foreign == 1
    assert mistakes(looked(*near[1:], "nobody's")).foreign == 1
    assert mistakes(looked("other", ask=Ask("globex", 3))) == Mistakes()
    assert mistakes(looked("other", ask=Ask("globex", 7))) == Mistakes()


def test_a_ticket_that_was_not_acknowledged_may_be_there_or_not() -> None:
    register = Register([filed("one"), filed("two", error="OSError()")])
    assert register.acknowledged == {"one"}
    for names in (("one",), ("one", "two")):
        assert register.lost(names) == 0
        assert register.mistakes(looked(*names)) == Mistakes()
    assert register.lost(()) == register.lost(("two",)) == 1
    assert Register([]).mistakes(looked("one")) == Mistakes(foreign=1)


def test_tickets_are_found_as_the_register_says(temporary: Path) -> None:
    with Tiers.embedded(temporary) as tiers:
        tickets = Tickets(tiers)
        asks = [Ask(tenant, number % 4) for number in range(24) for tenant in COMPANIES]
        stored = [tickets.file(ask, f"ticket-{i}", "Yes.") for i, ask in enumerate(asks)]
        register = Register(stored)
        found = [tickets.look(ask) for ask in asks[:16]]
        assert [len(each.names) for each in found] == [TICKETS] * 16
        assert {register.mistakes(each) for each in found} == {Mistakes()}
        assert register.lost(tickets.names()) == 0
        assert tickets.served() == {"redis": 16, "memory": 0, "durable": 0}
        # The nearest one is taken from the answer: the register sees it.
        assert register.mistakes(found[0]._replace(names=found[0].names[1:])).missing > 0


def test_the_verdict_is_bad_if_anything_is() -> None:
    other = Talk("globex", "u")

    def verdict(
        *more: Answered,
        again: str = "a",
        hits: int = 1,
        calls: int = 1,
        seen: Seen | None = None,
        lost: bool = False,
        log: tuple[Mark, ...] = MANY,
        window: tuple[Mark, ...] = MANY[-SHOWN:],
        others: tuple[Mark, ...] | None = None,
        names: tuple[str, ...] = ("ticket",),
        aside: Looked | None = None,
        error: str = "",
        worded: Served | None = None,
    ) -> bool:
        tally = Tally()
        tally.begin("all")
        tally.answers += [answered("acme", "model", "a"), answered("acme", "redis", "a"), *more]
        for number in range(8):
            hits += 1
            tally.answers.append(
                answered("acme", "redis", "a")._replace(added=added(number), seen=seen)
            )
        known = filed("ticket", acknowledged=time.monotonic() + 1)
        tally.answers[0] = tally.answers[0]._replace(filed=known)
        tally.answers[1] = tally.answers[1]._replace(looked=looked("ticket", began=known.began + 1))
        fresh = [answered("acme", "durable", again)]
        logs, windows = ({}, {}) if lost else ({TALK: log}, {TALK: window})
        if others is not None:
            logs[other] = others
        counted = [Ended({"redis": hits}, 1, (0, 0), 0.0)]
        recalled = Recalled(logs, windows, names, error)
        more_looked = [aside] if aside else []
        return Results(
            tally, fresh, recalled, more_looked, counted, {"redis": 1}, (1.0, 2.0), calls, worded
        ).show(Screen())

    assert verdict()
    assert not verdict(answered("acme", "redis", "", error="ValueError()"))
    assert not verdict(answered("acme", "redis", "?"), hits=2)
    assert not verdict(answered("acme", "redis", "a", foreign=True), hits=2)
    assert not verdict(again="lost")
    assert not verdict(hits=2)
    assert not verdict(calls=2)

    assert verdict(seen=Seen(time.monotonic() + 1, 0.0, "", ""))
    for fault, raised in (("stale", ""), ("torn", ""), ("", "OSError()")):
        assert not verdict(seen=Seen(time.monotonic() + 1, 0.0, fault, raised))
    failed = answered("acme", "redis", "a")._replace(added=added(8, error="OSError()"))
    assert not verdict(failed, hits=2)
    assert not verdict(lost=True)
    assert not verdict(log=MANY[:-1])
    assert not verdict(log=MANY + MANY[-1:])
    assert not verdict(log=MANY[::-1])
    assert not verdict(window=MANY[-SHOWN - 2 : -2])
    assert not verdict(window=MANY[-SHOWN + 2 :])
    assert not verdict(others=turn(0))  # in another tenant's conversation of the same name
    assert not verdict(error="OSError()")

    later = time.monotonic() + 99
    assert verdict(aside=looked("ticket", began=later))
    assert not verdict(names=())
    assert not verdict(aside=looked(began=later))
    assert not verdict(aside=looked("ticket", "nobody's", began=later))
    assert not verdict(aside=looked("ticket", began=later)._replace(error="OSError()"))
    served = Served(requests=300, calls=200, hits={"memory": 20, "semantic": 80}, wrong=3)
    assert verdict(worded=served)
    for bad in ({"wrong": 4}, {"strange": 1}, {"errors": ["OSError()"]}, {"calls": 199}):
        assert not verdict(worded=replace(served, **bad))
    assert not verdict(worded=replace(served, calls=280, hits={"memory": 20}))  # not one was served

    unfiled = answered("acme", "redis", "a")._replace(filed=filed("no", error="OSError()"))
    assert not verdict(unfiled, hits=2)


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
    for verdict in (
        "errors 0",
        "lost entries 0",
        "cross-tenant hits 0",
        "wrong answers 0",
        "lost messages 0: 680 were added to 24 conversations",
        "stale windows 0 in 364 read",
        "lost tickets 0: the fresh process found 340 of the 340 filed",
        "missing tickets 0, foreign tickets 0 in 460 searches",
        "wrong answers to other words ",
    ):
        assert f"OK    {verdict}" in done.stdout
    assert "Redis down" in done.stdout
    assert left_running(temporary) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "moment"),
    # In the middle of the outage; and sooner, while all is well.
    [(signal.SIGINT, "kill -9"), (signal.SIGHUP, "2  Warm")],
    ids=["SIGINT", "SIGHUP"],
)
def test_an_interrupted_run_leaves_nothing_behind(
    temporary: Path, number: int, moment: str
) -> None:
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
            if moment in line:
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
