"""`redis-tiered semantic ...`: calibrate, evaluate, report, explain."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis_tiered.errors import InvalidInput

if TYPE_CHECKING:
    from redis_tiered.llm_cache.cache import LLMCache
    from redis_tiered.llm_cache.semantic.tools.calibration import Calibration
    from redis_tiered.llm_cache.semantic.tools.evaluation import Evaluation

__all__ = ["add_to", "embeddings_of"]

_FILES = """\
FILE is JSON Lines in UTF-8, one object on each line:
  a log, in the order asked   {"prompt": "Where is my card?", "answer": "card_arrival"}
      "answer" names what was answered: equal names, equal answers. Add "scope": "..." where prompts
      must not share answers, "embedding": [0.1, ...] to leave out --embeddings (--model names it).
  or judged pairs             {"a": "Where is my card?", "b": "Card has not come", "same": true}
"""
_EMBEDDINGS = """\
--embeddings is what the cache uses:
  openai:text-embedding-3-small    OpenAI's, with OPENAI_API_KEY
  my_app.models:embeddings         an attribute of a module that can be imported from here: LangChain's
                                   Embeddings, LlamaIndex's BaseEmbedding, a redisvl vectorizer, or a
                                   function of a list of texts (then --model names the model)
"""


def add_to(commands: Any) -> None:
    """Add `semantic` to the commands of the parser."""
    group = commands.add_parser(
        "semantic",
        help="answers to questions in other words: calibrate, evaluate, report, explain",
        description="Tools for the semantic part of the LLM cache.",
    )
    verbs = group.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _calibrate(verbs)
    _evaluate(verbs)
    _report(verbs)
    _explain(verbs)


def _verb(verbs: Any, name: str, run: Callable[..., None], help: str, epilog: str) -> Any:
    parser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where an unexpected error came from"
    )
    parser.set_defaults(run=run)
    return parser


def _calibrate(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "calibrate",
        _run_calibrate,
        "find a threshold that keeps wrong answers within --max-error",
        _FILES + _EMBEDDINGS + "\nexample:\n  redis-tiered semantic calibrate log.jsonl "
        "--max-error 0.01 --embeddings openai:text-embedding-3-small \\\n"
        "      --plot calibration.png --apply --cache default --redis redis://localhost:6379",
    )
    _input(parser)
    parser.add_argument(
        "--max-error",
        "--target-error",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="wrong answers that may be served, 0.01 is one in a hundred (default: 0.01)",
    )
    parser.add_argument(
        "--metric",
        choices=("requests", "hits"),
        default="requests",
        help="of all requests, or of the answers served from the cache (default: requests)",
    )
    _output(parser, "the calibration")
    parser.add_argument(
        "--apply", action="store_true", help="put it in force in the cache that --cache names"
    )
    _cache(parser)


def _evaluate(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "evaluate",
        _run_evaluate,
        "replay a log: what would have been served, and how often wrongly",
        _FILES + _EMBEDDINGS,
    )
    _input(parser)
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="what `calibrate --output` wrote; else what is built in",
    )
    parser.add_argument(
        "--max-error",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="the budget: wrong answers per request (default: 0.01)",
    )
    parser.add_argument(
        "--mode", choices=("balanced", "strict", "shadow"), default="balanced", help="of the policy"
    )
    _output(parser, "the evaluation")


def _report(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "report",
        _run_report,
        "what a running cache has decided, audited and learnt; also in shadow mode",
        _EMBEDDINGS,
    )
    _embeddings(parser, required=True)
    _cache(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _explain(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "explain",
        _run_explain,
        "say what a running cache would do with a prompt, and why",
        _EMBEDDINGS,
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what a user would ask")
    _embeddings(parser, required=True)
    _cache(parser)


def _input(parser: Any) -> None:
    parser.add_argument("file", metavar="FILE", help="a log or pairs, see below")
    _embeddings(parser, required=False)
    parser.add_argument(
        "--guard",
        choices=("off", "default", "strict"),
        default="default",
        help="what no served question may differ in: numbers, names, negation (default: default)",
    )
    parser.add_argument(
        "--confidence",
        type=_share,
        default=0.95,
        metavar="SHARE",
        help="probability that the bounds hold (default: 0.95)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random choices (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _embeddings(parser: Any, *, required: bool) -> None:
    parser.add_argument(
        "--embeddings",
        metavar="WHAT",
        required=required,
        help="openai:MODEL or module:attribute, see below",
    )
    parser.add_argument("--model", metavar="NAME", help="name of the embedding model")


def _output(parser: Any, what: str) -> None:
    parser.add_argument("--output", metavar="FILE.json", help=f"write {what} there")
    parser.add_argument("--plot", metavar="FILE.png", help="draw hit rate against wrong answers")
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def _cache(parser: Any) -> None:
    parser.add_argument("--cache", metavar="NAME", default="default", help="name of the cache")
    parser.add_argument("--redis", metavar="URL", help="default: $REDIS_TIERED_REDIS_URL")
    parser.add_argument("--durable", metavar="URL", help="default: $REDIS_TIERED_DURABLE_URL")
    parser.add_argument("--namespace", metavar="NAME", help="default: redis-tiered")
    parser.add_argument("--tenant", metavar="NAME", help="default: default")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number between 0 and 1, as 0.01")
    return share


def embeddings_of(given: str | None) -> Any:
    """The embedder that `openai:MODEL` or `module:attribute` names; None: none was named.

    Raises:
        InvalidInput: it is neither, or the module or attribute cannot be found.
    """
    if given is None:
        return None
    module, colon, attribute = given.partition(":")
    if not colon or not module or not attribute:
        raise InvalidInput(f"--embeddings must be openai:MODEL or module:attribute, got {given!r}")
    if module == "openai":
        from redis_tiered.embedders import OpenAIEmbedder

        return OpenAIEmbedder(attribute)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"--embeddings {given}: {error}") from None
    return found


def _run_calibrate(given: argparse.Namespace) -> None:
    from redis_tiered.llm_cache.semantic.tools.calibrate import calibrate

    _writable(given)
    embeddings = embeddings_of(given.embeddings)
    if given.apply and embeddings is None:
        raise InvalidInput("--apply needs --embeddings: those that the cache uses")
    found = calibrate(
        given.file,
        given.max_error,
        metric=given.metric,
        embeddings=embeddings,
        model=given.model,
        guard=given.guard,
        confidence=given.confidence,
        seed=given.seed,
        progress=_bar(given),
    )
    _write(given, found)
    if given.apply:
        with _opened(given, embeddings) as cache:
            cache.adopt(found)
        print(f"in force in the cache {given.cache!r}", file=sys.stderr)


def _run_evaluate(given: argparse.Namespace) -> None:
    from redis_tiered.llm_cache.semantic.decision import Options
    from redis_tiered.llm_cache.semantic.tools.calibration import Calibration
    from redis_tiered.llm_cache.semantic.tools.evaluate import evaluate

    _writable(given)
    calibration = None
    if given.calibration is not None:
        try:
            calibration = Calibration.from_json(Path(given.calibration).read_bytes())
        except OSError as error:
            raise InvalidInput(f"{given.calibration}: {error.strerror}") from None
    found = evaluate(
        given.file,
        Options(mode=given.mode, max_error=given.max_error),
        calibration=calibration,
        embeddings=embeddings_of(given.embeddings),
        model=given.model,
        guard=given.guard,
        confidence=given.confidence,
        seed=given.seed,
        progress=_bar(given),
    )
    _write(given, found)


def _run_report(given: argparse.Namespace) -> None:
    with _opened(given, embeddings_of(given.embeddings)) as cache:
        report = cache.semantic_report()
    if given.json:
        print(json.dumps(report, indent=2, default=str))
        return
    if not report:
        print(f"nothing is known of the cache {given.cache!r}")
    for model, figures in report.items():
        print(model)
        for name, value in figures.items() if isinstance(figures, dict) else [("", figures)]:
            shown = f"{value:,.4g}" if isinstance(value, float) else value
            print(f"  {name.replace('_', ' '):<14} {shown}")


def _run_explain(given: argparse.Namespace) -> None:
    with _opened(given, embeddings_of(given.embeddings)) as cache:
        print(cache.explain(given.prompt))


def _opened(given: argparse.Namespace, embeddings: object) -> AbstractContextManager[LLMCache]:
    from redis_tiered.cli.live import opened

    return opened(
        name=given.cache,
        embeddings=embeddings,
        model=given.model,
        redis=given.redis,
        durable=given.durable,
        namespace=given.namespace,
        tenant=given.tenant,
    )


def _bar(given: argparse.Namespace) -> bool:
    return not given.quiet and sys.stderr.isatty()


def _writable(given: argparse.Namespace) -> None:
    """Refuse before the work what could not be written after it."""
    for path in (given.output, given.plot):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise InvalidInput(f"{path}: its folder does not exist")
    if given.plot is not None:
        from redis_tiered.llm_cache.semantic.tools.chart import needed

        needed()


def _write(given: argparse.Namespace, found: Calibration | Evaluation) -> None:
    text = json.dumps(found.as_dict(), indent=2, default=str)
    if given.output is not None:
        try:
            Path(given.output).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise InvalidInput(f"{given.output}: {error.strerror}") from None
    if given.plot is not None:
        found.plot(given.plot)
    print(text if given.json else f"{found.table()}\n\n{found.sketch()}")
