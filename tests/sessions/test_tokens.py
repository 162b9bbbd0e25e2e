"""Counting tokens: an encoding found on disk, never fetched; an approximation near the truth."""

# ruff: noqa: RUF001 - Russian and Greek have letters that look like others

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput
from redis_tiered.sessions import tokens
from redis_tiered.sessions.message import Message, ToolCall
from redis_tiered.sessions.tokens import (
    TextCounter,
    approximate,
    callable_name,
    counted,
    load_encoding,
    resolve,
)

SAMPLES: dict[str, str] = {
    "English": """\
The harbour was quiet when we arrived, apart from two gulls arguing over a crust of bread. Nobody
had told the night watchman that the ferry would be late, so he'd left his lamp burning at the end
of the pier and gone home. "You'll want a room, then," said the woman at the inn, without looking
up from her accounts; "breakfast is at seven, and I don't keep it warm for latecomers." We agreed,
signed the register, and carried our own bags up three flights of improbably narrow stairs.
""",
    "chat": """\
hi! can you pls check my order? it's been 9 days & still nothing :( the tracking no. is LX-48213907
and i paid with my other card ending 4410. thx. Also what's the return policy if it doesn't fit?
I'd rather not call the hotline again, last time i waited 45 mins...
""",
    "Python": '''\
import heapq
from collections.abc import Iterable


class Scheduler:
    """Runs jobs in the order of their deadlines."""

    def __init__(self, capacity: int = 16) -> None:
        self._heap: list[tuple[float, int, Job]] = []
        self._capacity = capacity

    def submit(self, job: Job, *, deadline: float) -> None:
        if len(self._heap) >= self._capacity:
            raise QueueFull(f"{self._capacity} jobs are waiting, {job.name!r} was refused")
        heapq.heappush(self._heap, (deadline, next(_counter), job))

    def drain(self) -> Iterable[Job]:
        while self._heap:
            _, _, job = heapq.heappop(self._heap)
            yield job
''',
    "JavaScript": """\
export async function fetchInvoices(customerId, { signal, pageSize = 50 } = {}) {
  const response = await fetch(`/api/v2/customers/${customerId}/invoices?limit=${pageSize}`, { signal });
  if (!response.ok) {
    throw new HttpError(response.status, await response.text());
  }
  const { items, nextCursor } = await response.json();
  return items.map((item) => ({ ...item, dueAt: new Date(item.dueAt), nextCursor }));
}
""",
    "JSON": """\
{"order":{"id":"ord_9f27c1","created_at":"2025-03-14T09:26:53Z","currency":"EUR","lines":[{"sku":"KB-104-DE","quantity":2,"unit_price":79.9,"discount":null},{"sku":"CBL-USBC-2M","quantity":1,"unit_price":12.49,"discount":0.15}],"shipping":{"name":"A. Lindqvist","street":"Storgatan 14","zip":"11455","country":"SE","express":false},"tags":["b2b","repeat-customer"]},"status":"paid","retries":0}
""",
    "indented JSON": """\
{
    "type": "function",
    "function": {
        "name": "search_flights",
        "description": "Find flights between two airports.",
        "parameters": {
            "type": "object",
            "properties": {
                "origin": {"type": "string", "pattern": "^[A-Z]{3}$"},
                "max_stops": {"type": "integer", "minimum": 0, "default": 1}
            },
            "required": ["origin"]
        }
    }
}
""",
    "markdown table": """\
## Results by region

| Region        | Orders | Revenue (EUR) | Change  |
|:--------------|-------:|--------------:|--------:|
| North         |  1,204 |     98,310.50 |  +4.1 % |
| South-East    |    877 |     61,002.00 |  -0.8 % |
| Overseas      |     93 |     15,447.25 | +22.6 % |

- **Note:** figures are *provisional*; see [the method](https://example.com/docs/method#rounding).
""",
    "numbers": """\
time,open,high,low,close,volume
1718000400,182.44,183.07,182.31,182.95,1048231
1718004000,182.95,183.60,182.88,183.41,987114
1718007600,183.41,183.52,182.70,182.73,1120547
""",
    "identifiers": """\
3f2b8c1e-77d4-4e0a-9a51-0c6de8f1b2a9 8d3e6b1f0a9c4d527e68bb10f3a2c95d
d04a98f48e8f8bcc10c6ae5ed050801c0e6dc5f0 QmFzZTY0IHRleHQgaXMgZGVuc2U7IGl0IGhhcyBubyB3b3Jkcy4=
eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MjcxIiwiZXhwIjoxNzE4MDA3NjAwfQ.kX9vT2bQw7RzLm0
""",
    "Chinese": """\
昨天下午,我们在城南的旧书店里遇到了一位退休的数学老师。他说这家店开了三十多年,换过两次老板,但书架上的灰尘\
一直没有变。我问他最喜欢哪一本,他想了想,从最高的一层取下一本薄薄的诗集,封面已经褪色了。“年轻的时候看不懂,”\
他笑着说,“现在看懂了,却不敢多看。”请帮我把下面的合同条款翻译成英文,并指出其中可能存在的法律风险。
""",
    "Japanese": """\
先週の金曜日、駅前の小さな喫茶店で古い友人と待ち合わせをしました。コーヒーを注文してから、二人とも窓の外の雨を\
しばらく眺めていました。「最近、仕事はどう?」と聞かれて、私は少し考えてから「まあまあかな」と答えました。\
システムの再起動後にエラーが発生した場合は、ログファイルを添付してサポートまでご連絡ください。
""",
    "Korean": """\
지난 주말에 우리는 강가를 따라 오래 걸었습니다. 바람이 차가웠지만 햇볕은 따뜻했고, 아이들은 연을 날리며 뛰어다녔습니다. \
저녁에는 시장에 들러 생선과 채소를 조금 샀는데, 주인 아주머니가 덤으로 귤을 두 개 더 주셨습니다. \
비밀번호를 변경한 뒤에도 로그인이 되지 않으면 고객 센터로 문의해 주시기 바랍니다.
""",
    "Russian": """\
Когда поезд наконец остановился, на перроне уже никого не было. Старый смотритель вышел из будки, \
поправил фуражку и спросил, не нужна ли нам помощь с багажом. Мы отказались, поблагодарили его и \
пошли через площадь к единственной гостинице, где ещё горел свет. Пожалуйста, проверьте состояние \
моего заказа и сообщите, когда его доставят.
""",
    "German": """\
Als der Zug endlich hielt, war auf dem Bahnsteig längst niemand mehr. Der alte Bahnhofsvorsteher \
trat aus seinem Häuschen, rückte die Mütze zurecht und fragte, ob wir Hilfe mit dem Gepäck \
bräuchten. Die Datenschutzgrundverordnung verpflichtet Auftragsverarbeiter, Sicherheitsvorfälle \
unverzüglich zu melden; Versäumnisse können mit Bußgeldern geahndet werden.
""",
    "French": """\
Le train s'arrêta enfin, mais il n'y avait plus personne sur le quai. Le vieux chef de gare sortit \
de sa guérite, rajusta sa casquette et demanda si nous avions besoin d'aide. « Ça ira, merci », \
répondit ma sœur. Veuillez vérifier l'état de ma commande et m'indiquer la date de livraison prévue.
""",
    "Polish": """\
Kiedy pociąg wreszcie się zatrzymał, na peronie nie było już nikogo. Stary zawiadowca wyszedł z \
budki, poprawił czapkę i zapytał, czy nie potrzebujemy pomocy z bagażem. Proszę sprawdzić stan \
mojego zamówienia i powiadomić mnie, kiedy zostanie dostarczone.
""",
    "Arabic": """\
عندما توقف القطار أخيرا لم يكن هناك أحد على الرصيف. خرج ناظر المحطة العجوز من غرفته الصغيرة، وعدل \
قبعته، وسأل إن كنا نحتاج إلى مساعدة في حمل الحقائب. شكرناه ومشينا عبر الساحة نحو الفندق الوحيد. \
يرجى التحقق من حالة طلبي وإبلاغي بموعد التسليم المتوقع.
""",
    "Hebrew": """\
כשהרכבת נעצרה סוף סוף, לא היה עוד איש על הרציף. מנהל התחנה הזקן יצא מהביתן שלו, יישר את הכובע ושאל \
אם אנחנו צריכים עזרה עם המזוודות. אנא בדקו את מצב ההזמנה שלי והודיעו לי מתי היא תגיע.
""",
    "Hindi": """\
जब रेलगाड़ी आखिरकार रुकी, तब प्लेटफ़ॉर्म पर कोई नहीं था। बूढ़ा स्टेशन मास्टर अपनी कोठरी से बाहर आया, टोपी ठीक की और पूछा कि \
क्या हमें सामान उठाने में मदद चाहिए। कृपया मेरे ऑर्डर की स्थिति जाँचें और बताएँ कि वह कब पहुँचेगा।
""",
    "Thai": """\
เมื่อรถไฟหยุดลงในที่สุด ก็ไม่มีใครเหลืออยู่บนชานชาลาแล้ว นายสถานีชราเดินออกมาจากห้องเล็กๆ จัดหมวกให้เข้าที่ \
แล้วถามว่าเราต้องการให้ช่วยยกกระเป๋าหรือไม่ กรุณาตรวจสอบสถานะคำสั่งซื้อของฉันด้วย
""",
    "Greek": """\
Όταν το τρένο επιτέλους σταμάτησε, στην αποβάθρα δεν υπήρχε πια κανείς. Ο γέρος σταθμάρχης βγήκε από \
το φυλάκιο, έσιαξε το καπέλο του και ρώτησε αν χρειαζόμασταν βοήθεια με τις αποσκευές.
""",
    "Vietnamese": """\
Khi đoàn tàu cuối cùng cũng dừng lại, trên sân ga không còn ai nữa. Người trưởng ga già bước ra khỏi \
căn phòng nhỏ, sửa lại chiếc mũ và hỏi chúng tôi có cần giúp mang hành lý không.
""",
    "emoji": "🎉🎉 shipped it!! 🚀 thanks team ❤️👏🏽 — party at 18:00? 🍕🍻 👨‍👩‍👧‍👦 ok 👍🏿 ✅ 🇫🇷 🤷‍♀️ 😂😂😂\n",
}

O200K, CL100K = (published.file for published in tokens._PUBLISHED)


def bundled(file: str) -> Path:
    """An encoding that comes with LlamaIndex."""
    spec = importlib.util.find_spec("llama_index")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "core/_static/tiktoken_cache", file)
        if path.is_file():
            return path
    pytest.skip("no encoding is on disk")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The one folder where an encoding is looked for, empty."""
    monkeypatch.setattr(tokens, "_folders", lambda: iter([tmp_path]))
    tokens._search.cache_clear()
    yield tmp_path
    tokens._search.cache_clear()


def words(text: str) -> int:
    return len(text.split())


# --- an encoding on disk


@pytest.mark.parametrize("file", [O200K, CL100K])
def test_counts_as_tiktoken_does(disk: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    shutil.copy(bundled(file), disk)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(disk))
    counter = resolve(None)
    kind, name = counter.name.split(":")
    assert kind == "tiktoken"
    reference = tiktoken.get_encoding(name)
    for text in [*SAMPLES.values(), "<|endoftext|> <|fim_prefix|>", "\ud800 lone"]:
        expected = len(reference.encode(text, disallowed_special=()))
        assert counter.count(Message("human", text)) == 3 + expected


def test_the_preferred_one_of_two(disk: Path) -> None:
    pytest.importorskip("tiktoken")
    shutil.copy(bundled(CL100K), disk)
    assert resolve().name == "tiktoken:cl100k_base"
    shutil.copy(bundled(O200K), disk)
    tokens._search.cache_clear()
    assert resolve().name == "tiktoken:o200k_base"
    assert resolve() is resolve(None)


def test_a_name_that_was_given_stays_true(disk: Path) -> None:
    pytest.importorskip("tiktoken")
    file = Path(shutil.copy(bundled(CL100K), disk))
    counter = resolve()
    file.unlink()
    assert counter.count(Message("human", "hello world")) == 5


def test_a_bad_file_is_skipped(disk: Path) -> None:
    good = bundled(CL100K).read_bytes()
    bad: list[Callable[[Path], Any]] = [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(good[:-1]),
        lambda path: path.write_bytes(good[:-2] + b"\x00\x00"),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("nowhere"),
        os.mkfifo,
    ]
    for make in bad:
        path = disk / CL100K
        make(path)
        tokens._search.cache_clear()
        assert resolve().name == "approximate-1"
        path.rmdir() if path.is_dir() else path.unlink()


def test_nothing_on_disk_or_no_tiktoken(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve().name == "approximate-1"
    load_encoding()
    shutil.copy(bundled(CL100K), disk)
    tokens._search.cache_clear()
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    assert resolve().name == "approximate-1"


def test_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "/one")
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", "/two")
    monkeypatch.setattr(tempfile, "tempdir", "/three")
    folders = [str(folder) for folder in tokens._folders()]
    assert folders[:3] == ["/one", "/two", "/three/data-gym-cache"]
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    monkeypatch.delenv("DATA_GYM_CACHE_DIR")
    assert [str(folder) for folder in tokens._folders()] == folders[2:]


def test_finding_imports_no_framework() -> None:
    """Nor tiktoken's loader, which can fetch."""
    code = (
        "import sys; from redis_tiered.sessions.tokens import *; resolve(None); load_encoding();"
        "print([m for m in ('llama_index.core', 'litellm', 'requests', 'tiktoken.load')"
        " if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_loaded_once_by_many_threads(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tiktoken")
    shutil.copy(bundled(CL100K), disk)
    made = []
    real = tokens._encoding
    monkeypatch.setattr(tokens, "_encoding", lambda *a: made.append(1) or real(*a))  # type: ignore[func-returns-value]
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(resolve().count(Message("human", "hi"))))
        for _ in range(8)
    ]
    for thread in (*threads, threading.Thread(target=load_encoding)):
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [4] * 8
    assert made == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_while_it_is_loaded() -> None:
    """In a process of its own: a fork of one with other threads is warned of."""
    code = """
import os, threading, warnings
from redis_tiered.sessions import tokens
from redis_tiered.sessions.message import Message
warnings.simplefilter("ignore")
held, done = threading.Event(), threading.Event()
def hold():
    with tokens._lock:
        held.set()
        done.wait()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    os._exit(tokens.resolve().count(Message("human", "hello world")))
done.set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert 4 <= int(ran.stdout) <= 7


@pytest.mark.parametrize(
    "text",
    ["a" * 10_000_000, "It is a long story. " * 500_000, " " * 10_000_000, "\u4f60" * 10_000_000],
    ids=["letter", "prose", "spaces", "Chinese"],
)
def test_ten_megabytes_take_bounded_time(text: str) -> None:
    load_encoding()
    part = Message("human", text[: len(text) // 50])
    for counter in (resolve(None), resolve("approximate")):
        start = time.process_time()
        count = counter.count(Message("human", text))
        assert time.process_time() - start < 2
        assert count == pytest.approx(50 * counter.count(part), rel=0.01)


def test_pieces_change_next_to_nothing() -> None:
    pytest.importorskip("tiktoken")
    bundled(O200K)
    counter = resolve(None)
    assert isinstance(counter, tokens._OnDisk)
    text = "".join(SAMPLES.values()) * 20
    true = len(counter.load().encode_ordinary(text))
    assert true <= counter.count(Message("human", text)) <= true * 1.01
    assert counter.count(Message("human", text * 3)) == pytest.approx(true * 3, rel=0.05)


# --- the approximation


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_approximation_is_near(kind: str) -> None:
    pytest.importorskip("tiktoken")
    bundled(O200K)
    counter = resolve(None)
    assert isinstance(counter, tokens._OnDisk)
    text = SAMPLES[kind]
    ratio = approximate(text) / len(counter.load().encode_ordinary(text))
    assert 0.95 <= ratio <= (1.8 if kind == "Vietnamese" else 1.3)


@given(st.text())
def test_any_text_has_an_estimate(text: str) -> None:
    assert 0 <= approximate(text) <= len(text.encode("utf-8", "surrogatepass")) * 3 + 1
    assert (approximate(text) == 0) == (text == "")


# Of the excluded ones, the weight depends on how many there are.
FIXED = st.text(st.characters().filter(lambda c: not 0x1000 <= ord(c) < 0x2000))


@given(FIXED, FIXED)
def test_more_text_has_more_tokens(a: str, b: str) -> None:
    together = approximate(a + b)
    assert together <= approximate(a) + approximate(b)
    # Two texts joined may be one word or number the less.
    assert together >= approximate(a) + approximate(b) - 3


def test_rare_scripts_are_not_underestimated() -> None:
    pytest.importorskip("tiktoken")
    bundled(O200K)
    counter = resolve(None)
    for text in ("\u10d0\u10d1\u10e0\u10d8\u10d5 " * 50, "\u1780\u17b6\u1798\u17d2\u1794" * 50):
        assert approximate(text) >= 0.9 * (counter.count(Message("human", text)) - 3)


# --- messages


def test_what_of_a_message_counts() -> None:
    counter = TextCounter("words", words)
    assert counter.count(Message("human")) == 3
    assert counter.count(Message("human", "a b", name="c", thinking="d e f")) == 9
    media = ("image", "audio", "video", "document")
    assert counter.count(Message("human", media=media)) == 3 + 3 * 256 + 2048
    calls = (ToolCall("1", "find", {"q": "x y"}), ToolCall(None, "go", "not {json"))
    assert counter.count(Message("ai", tool_calls=calls)) == 3 + (1 + 2) + (1 + 2)
    assert counter.count(Message("tool", "a", tool_call_id="b c d")) == 4


def test_arguments_are_counted_as_compact_json() -> None:
    seen: list[str] = []
    counter = TextCounter("seen", lambda text: seen.append(text) or 0)  # type: ignore[func-returns-value]
    counter.count(Message("ai", tool_calls=(ToolCall("1", "f", {"a": [1, "\u00e9"]}),)))
    assert seen == ["f", '{"a":[1,"\u00e9"]}']
    # What JSON cannot hold is refused where it is stored, with its own error.
    assert counted(counter, Message("ai", tool_calls=(ToolCall("1", "f", {"a": {1}}),))) == 3


class Mine:
    name = "mine"

    def __init__(self, answer: object = 7) -> None:
        self.answer = answer

    def count(self, message: Message) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_resolve() -> None:
    mine = Mine()
    assert resolve(mine) is mine
    assert resolve("approximate").name == "approximate-1"
    assert resolve("approximate") is resolve("approximate")


@pytest.mark.parametrize("wrong", ["o200k_base", "", 3, True, len, Mine, object()])
def test_what_is_no_counter_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidInput, match="token_counter must be"):
        resolve(wrong)


@pytest.mark.parametrize("name", ["", "x" * 101, None, 3, b"x", "a\n", "\ud800", "\0"])
def test_names_that_cannot_be_stored_are_refused(name: Any) -> None:
    counter = Mine()
    counter.name = name
    with pytest.raises(InvalidInput, match=r"token_counter\.name must be"):
        resolve(counter)
    with pytest.raises(InvalidInput, match="name must be"):
        TextCounter(name, words)
    with pytest.raises(InvalidInput, match="count_text must be"):
        TextCounter("x", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer",
    [True, 1.0, "3", None, -1, 2**31, 10**5000],
    ids=lambda answer: type(answer).__name__,
)
def test_what_is_no_count_is_refused(answer: object) -> None:
    with pytest.raises(InvalidInput, match="token_counter must return"):
        counted(Mine(answer), Message("human"))


def test_a_counter_that_raises() -> None:
    error = KeyError("gone")
    with pytest.raises(InvalidInput, match="token_counter raised KeyError: 'gone'") as raised:
        counted(Mine(error), Message("human"))
    assert raised.value.__cause__ is error
    assert counted(Mine(0), Message("human")) == 0


# --- names of functions


def by(n: int) -> Callable[[str], int]:
    return lambda text: len(text) // n


def recursive() -> Callable[[str], int]:
    def count(text: str) -> int:
        return 1 + count(text[1:]) if text in {"p", "q", "r", "s"} else 0

    return count


class Tokenizer:
    def __call__(self, text: str) -> int:
        return len(text)

    def encode(self, text: str) -> int:
        return len(text)

    def other(self, text: str) -> int:
        return len(text) + 1


def test_different_functions_have_different_names() -> None:
    functions: list[Callable[..., Any]] = [
        lambda text: len(text),
        lambda text: len(text) + 1,
        lambda text: len(text) + 2,
        lambda text: sum(text),
        lambda text, by=4: len(text) // by,
        lambda text, by=5: len(text) // by,
        by(3),
        by(4),
        recursive(),
        words,
        len,
        Tokenizer,
        Tokenizer(),
        Tokenizer().encode,
        Tokenizer().other,
        functools.partial(by, 3),
        functools.partial(by, 4),
        functools.lru_cache(words),
    ]
    names = [callable_name(function) for function in functions]
    assert len(set(names)) == len(names)
    assert callable_name(by(3)) == callable_name(by(3))
    assert callable_name(Tokenizer().encode) == callable_name(Tokenizer().encode)
    assert callable_name(len) == "builtins.len"
    assert callable_name(Tokenizer()) == callable_name(Tokenizer())
    assert callable_name(Tokenizer) == f"{__name__}.Tokenizer"
    assert callable_name(words).startswith(f"{__name__}.words-")
    for name in names:
        assert TextCounter(name, words).name == name
    with pytest.raises(InvalidInput, match="function must be callable, got int"):
        callable_name(3)  # type: ignore[arg-type]


def test_a_name_is_the_same_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_tokens as t\n"
        "print([t.callable_name(f) for f in (t.by(3), t.recursive(), t.Tokenizer(), t.words)])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


def test_a_long_name_is_cut() -> None:
    def count(text: str) -> int:
        return 0

    count.__qualname__ = "x" * 300 + "\n"
    assert len(callable_name(count)) == 100
    TextCounter(callable_name(count), count)
