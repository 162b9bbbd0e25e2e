"""A LangChain chain on three tiers: memory, Redis, SQLite. In the middle Redis is killed."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType

from demo.crowd import Crowd
from demo.messages import Setup
from demo.openai_server import OpenAIServer
from demo.outage import EmbeddedRedis
from demo.plan import FULL, QUICK, REAL_API, Ask, Size, plan
from demo.questions import COMPANIES, QUESTIONS, answer
from demo.results import Results
from demo.screen import Screen
from demo.tally import DOWN, Tally, shown
from demo.tickets import SHOWN as TICKETS
from demo.transcript import SHOWN
from demo.wordings import BUDGET, ask_in_other_words
from redis_tiered import Tiers

# An example, in dollars per million tokens, input and output; yours may differ.
PRICES = {"gpt-5-nano": (0.05, 0.40), "gpt-5-mini": (0.25, 2.00), "gpt-4o-mini": (0.15, 0.60)}

# Ctrl-C, kill, and the terminal's window closed.
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer requests, a faster model")
    quick = parser.parse_args().quick
    real = bool(os.environ.get("OPENAI_API_KEY"))
    for number in _INTERRUPTS:
        signal.signal(number, _interrupt)
    screen = Screen()
    try:
        return run(QUICK if quick else REAL_API if real else FULL, real, screen)
    except KeyboardInterrupt:
        screen.say("\nStopped. Nothing is left running.")
        return 130


def run(size: Size, real: bool, screen: Screen) -> int:
    """The demo from set-up to verdict; returns the exit status."""
    began = time.monotonic()
    tally = Tally()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rt-demo-")))
        redis = EmbeddedRedis(place / "tiers", place)
        stack.callback(redis.wait_for_end)
        servers = {} if real else _start_models(size, stack)
        setup = Setup(
            tiers=Tiers.embedded(place / "tiers"),
            model=os.environ.get("OPENAI_MODEL", "gpt-5-nano") if real else "gpt-5-mini",
            ports={tenant: server.port for tenant, server in servers.items()},
            prices=PRICES,
            users=size.users,
        )
        _introduce(size, setup, screen)
        setups = [
            replace(setup, name=f"worker-{i}", native_async=i == size.workers)
            for i in range(1, size.workers + 1)
        ]
        crowd = stack.enter_context(Crowd(setups))
        crowd.wait_until_ready()
        screen.say(f"All of it started in {shown(time.monotonic() - began)}.")
        cold, warm, late, after = plan(size.requests, questions=size.questions)

        screen.title(
            "1  Cold: nothing is stored yet",
            "The first to ask a question pays for a model call. Whoever asks the same meanwhile, in "
            "this or",
            "another process, waits for that call and shares its answer.",
        )
        tally.begin("cold")
        for answered in screen.follow(crowd.serve(cold, 0.0), len(cold)):
            tally.answers.append(answered)

        screen.title(
            "2  Warm: the questions come back",
            "An answer that another process bought comes from Redis once, then from this process's "
            "own memory.",
        )
        tally.begin("warm")
        for answered in screen.follow(crowd.serve(warm, size.pause), len(warm)):
            tally.answers.append(answered)

        screen.title(
            "3  Redis is killed while everybody goes on asking",
            "Every answer was in SQLite before it was in Redis: old answers are still found, new ones "
            "are kept.",
            "So was every turn of a conversation, and every ticket: all of them go on.",
        )
        stop = threading.Event()
        stack.callback(stop.set)  # an interrupted demo does not sit out the outage
        events = {
            len(late) // 6: functools.partial(_kill_and_hold, redis, size.outage, stop),
            len(late) * 5 // 6: functools.partial(_kill, redis),
        }
        with ThreadPoolExecutor(1) as aside:
            happening = []
            try:
                for answered in screen.follow(crowd.serve(late, size.pause), len(late)):
                    tally.answers.append(answered)
                    if event := events.pop(len(tally.answers) - len(cold) - len(warm), None):
                        happening.append(aside.submit(event, tally, screen))
            except BaseException:
                stop.set()
                raise
            for done in happening:
                done.result()
        screen.say(_through_the_outage(tally))

        screen.title(
            "4  Redis is back, and nobody had to do anything",
            "A restarted Redis may have lost its last second, so nothing it still holds is believed: "
            "each answer",
            "is read once more from SQLite and put back. Hits come from Redis and memory again.",
        )
        for answered in screen.follow(crowd.serve(after, size.pause), len(after)):
            tally.answers.append(answered)

        screen.title(
            "5  Is everything still there?",
            "Redis is emptied. A fresh process asks once more for each answer that was ever paid for,",
            "and reads every conversation from its first message, and every ticket. Before that the "
            "workers",
            "look up tickets: in their own memory, until those are in Redis again by themselves.",
        )
        asks = [
            Ask(tenant, number) for tenant in COMPANIES for number in range(0, len(QUESTIONS), 10)
        ]
        looked = crowd.look(asks)
        calls = sum(server.calls for server in servers.values()) if servers else None
        with Crowd([setup]) as fresh:
            fresh.wait_until_ready()
            redis.empty()
            looked += crowd.look(asks)
            counted = crowd.end()
            bought = list(tally.bought())
            again = list(screen.follow(fresh.serve(bought, 0.0), len(bought)))
            recalled = fresh.recall()
            looked += fresh.look(asks)
            [ended] = fresh.end()

        screen.title(
            "6  The same question in other words",
            "The questions of a library's readers, no two of them alike, and some asked again. The model "
            "looks",
            "its answers up, here too with a key. An answer to other words may be wrong: the user has set "
            f"a budget of {BUDGET:.0%} of all",
            "requests, and nothing else. Redis is killed on the way.",
        )
        (place / "w").mkdir()
        worded = ask_in_other_words(place / "w", screen, size.wordings)
    price = PRICES.get(setup.model)
    results = Results(tally, again, recalled, looked, counted, ended.served, price, calls, worded)
    good = results.show(screen)
    screen.say(f"\n{shown(time.monotonic() - began)} from start to end; nothing is left running.")
    _what_next(screen)
    return 0 if good else 1


def _start_models(size: Size, stack: ExitStack) -> dict[str, OpenAIServer]:
    """One model server for each tenant, so that their answers differ where their words do not."""
    least, most = size.latency
    return {
        tenant: stack.enter_context(
            OpenAIServer(least, functools.partial(answer, tenant), jitter=most - least)
        )
        for tenant in COMPANIES
    }


def _introduce(size: Size, setup: Setup, screen: Screen) -> None:
    screen.title("redis-tiered: answers from process memory, Redis and SQLite, for LangChain")
    if setup.ports:
        least, most = size.latency
        screen.say(
            f"The model is a local server that takes {least} to {most} s, as a provider does; "
            "with OPENAI_API_KEY set\nit is the real one."
        )
    else:
        screen.say(
            f"The model is {setup.model} of the real API (OPENAI_MODEL names another): "
            f"{size.questions} questions only,"
        )
        screen.say("and each tenant's name in all of its prompts.")
    screen.say(
        f"{sum(size.requests):,} requests about {size.questions} questions, by customers of "
        f"{' and '.join(company.name for company in COMPANIES.values())}: two tenants."
    )
    screen.say(
        "Each user keeps a conversation with each of them: before a question its window is read, the "
        "newest\n"
        f"{SHOWN} messages; question and answer are added to it.\n"
        "They are also filed as a ticket: a document with a vector (random, not a model's), in one "
        "collection\n"
        f"for both companies. Before a question the {TICKETS} tickets nearest to it are looked up; a filter keeps\n"
        "the companies apart."
    )
    threads = size.workers - 1
    screen.say(
        f"Starting Redis, and {size.workers} worker processes with {size.users} users each "
        f"({threads} with threads, 1 with asyncio) ..."
    )


def _kill_and_hold(
    redis: EmbeddedRedis, seconds: float, stop: threading.Event, tally: Tally, screen: Screen
) -> None:
    """Workers restart a dead embedded server at once, so for an outage its program must go too."""
    redis.take_away()
    tally.begin(DOWN)
    pid = redis.kill()
    screen.say(
        f"  kill -9 {pid} (Redis). Its program is moved away for {seconds:g} s, so that no worker "
        "can restart it."
    )
    stop.wait(seconds)
    redis.put_back()
    back = redis.wait_until_back(pid)
    tally.begin("Redis back")
    screen.say(
        f"  The program is back in its place; {shown(back)} later a worker had restarted Redis."
    )


def _kill(redis: EmbeddedRedis, tally: Tally, screen: Screen) -> None:
    tally.begin(DOWN)
    pid = redis.kill()
    back = redis.wait_until_back(pid)
    tally.begin("Redis back")
    screen.say(
        f"  kill -9 {pid}, once more, nothing moved: Redis is back by itself after {shown(back)}."
    )


def _through_the_outage(tally: Tally) -> str:
    down = tally.by_phase()[DOWN]
    tiers = Counter(each.tier for each in down if not each.error)
    added, seen = tally.while_down(tally.added), tally.while_down(tally.seen)
    filed, looked = tally.while_down(tally.filed), tally.while_down(tally.looked)
    return (
        f"  {len(down)} requests without Redis: {tiers['durable']} answered from SQLite, "
        f"{tiers['model']} by the model and kept, {len(down) - tiers.total()} errors.\n"
        f"  Meanwhile {len(added)} turns were added to conversations, and {len(seen)} windows read;\n"
        f"  {len(filed)} tickets were filed, and {len(looked)} times the nearest looked up."
    )


def _what_next(screen: Screen) -> None:
    screen.say()
    screen.say(
        "[bold]In your own application[/bold]   pip install 'redis-tiered\\[langchain,embedded]'"
    )
    screen.say(
        "  from langchain_redis_tiered import RedisTieredCache, RedisTieredChatMessageHistory"
    )
    screen.say("  model = ChatOpenAI(model=..., cache=RedisTieredCache())")
    screen.say(
        "  history = RedisTieredChatMessageHistory('user-7', turns=20)   # README.md has the rest"
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in _INTERRUPTS:
        signal.signal(each, signal.SIG_IGN)  # once is enough: cleaning up is not interrupted
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
