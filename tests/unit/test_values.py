"""What a value is on the wire: the same at the top as within another value, by one table of types."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import io
import ipaddress
import json
import math
import re
import sqlite3
import sys
import threading
from array import array
from collections import ChainMap, OrderedDict, UserDict, UserList, UserString, deque, namedtuple
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from functools import partial
from pathlib import Path, PureWindowsPath
from types import MappingProxyType, SimpleNamespace
from typing import Annotated, Any, ClassVar, TypedDict
from uuid import UUID

import attrs
import msgspec
import orjson
import pydantic
import pydantic.dataclasses
import pydantic.v1
import pytest
from pydantic_core import Url

from sse_starlette import JSONServerSentEvent, ServerSentEvent
from sse_starlette._wire.values import check_serializer, data_text, to_json
from sse_starlette.event import encode, encoder

SOME_UUID = UUID("12345678-1234-5678-1234-567812345678")


class Color(Enum):
    RED = "red"
    MANY = ("red", "green")
    TIME = time(7, 8)


class Level(IntEnum):
    HIGH = 3


class Kind(StrEnum):
    TICK = "tick"


class OldKind(str, Enum):  # noqa: UP042 -- its str() is "OldKind.TICK", not its value
    TICK = "tick"


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    number: float = math.nan
    when: timedelta = timedelta(seconds=90)
    name: str = pydantic.Field("é", alias="Name")
    hidden: Annotated[int, pydantic.Field(exclude=True)] = 1
    secret: pydantic.SecretStr = pydantic.SecretStr("hunter2")

    @pydantic.field_serializer("number", when_used="json-unless-none")
    def number_as_is(self, number: float) -> float:
        return number


class Numbers(pydantic.RootModel[list[float]]):
    pass


class Holder(pydantic.BaseModel):
    """The default of pydantic: a subclass of what a field says is sent as the field says."""

    model: Numbers


class Old(pydantic.v1.BaseModel):
    at: date

    class Config:
        json_encoders = {date: lambda day: day.year}  # noqa: RUF012


@pydantic.dataclasses.dataclass
class Checked:
    number: float
    at: date


@dataclasses.dataclass
class Plain:
    inner: object
    _hidden: int = 0
    dimensions: ClassVar[int] = 2


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    inner: object


@attrs.define
class Attrs:
    inner: object


class Struct(msgspec.Struct, rename="camel", tag="struct", omit_defaults=True):
    first_name: str
    number: float = 1.0
    other: Any = None


class Typed(TypedDict):
    a: int


class Dumped:
    def model_dump(self, *, mode: str) -> dict[str, str]:
        return {"mode": mode}


class Row:
    """A row as drivers of databases give it: by name and by number, iterated by value."""

    def keys(self) -> list[str]:
        return ["a"]

    def __getitem__(self, key: str) -> int:
        return {"a": 1}[key]

    def __iter__(self) -> Iterator[int]:
        return iter([1])


def sqlite_row() -> object:
    """It's a `Sequence`, too."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    try:
        return connection.execute("SELECT 1 AS a").fetchone()
    finally:
        connection.close()


class Told:
    def __str__(self) -> str:
        return "told"


Pair = namedtuple("Pair", "left right")  # noqa: PYI024 -- the untyped kind must work too


def generated() -> Generator[int]:
    yield 1
    yield 2


@pytest.fixture(params=["stdlib", "orjson", "orjson without Fragment"], autouse=True)
def json_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without orjson loaded by the application."""
    if request.param == "stdlib":
        monkeypatch.delitem(sys.modules, "orjson", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "orjson", orjson)
        if request.param != "orjson":
            monkeypatch.delattr(orjson, "Fragment")


@pytest.fixture
def without_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "msgspec")


NAME = '"when":"PT1M30S","name":"é","secret":"**********"'

STRUCT = '{"type":"struct","firstName":"a"'
PART = {"a": 1}
EARLY = timezone(timedelta(seconds=30))

# What makes the value (some can be read but once), and its JSON.
TABLE: list[tuple[Callable[[], object], str]] = [
    # What JSON has
    (dict, "{}"),
    (list, "[]"),
    (lambda: [1, (2,), "\u2028\n"], '[1,[2],"\u2028\\n"]'),
    (lambda: [2**70, -1, 1.5], "[1180591620717411303424,-1,1.5]"),
    (lambda: ["\ud83d\ude00", "\ud83d"], '["😀","\ufffd"]'),
    (lambda: [PART, PART], '[{"a":1},{"a":1}]'),
    (lambda: {"a": None, "b": [1, "é"]}, '{"a":null,"b":[1,"é"]}'),
    (lambda: Typed(a=1), '{"a":1}'),
    (lambda: OrderedDict(a=1), '{"a":1}'),
    (lambda: (1, "a"), '[1,"a"]'),
    (lambda: Pair(1, None), "[1,null]"),
    # What everyone writes as a string
    (lambda: SOME_UUID, f'"{SOME_UUID}"'),
    (lambda: Decimal("1.10"), '"1.10"'),
    (lambda: date(2024, 5, 6), '"2024-05-06"'),
    (lambda: datetime(2024, 5, 6, tzinfo=UTC), '"2024-05-06T00:00:00+00:00"'),
    (lambda: datetime(1800, 1, 1, tzinfo=EARLY), '"1800-01-01T00:00:00+00:00:30"'),
    (lambda: time(7, 8), '"07:08:00"'),
    (lambda: timedelta(days=1, seconds=90), '"P1DT1M30S"'),
    (lambda: Path("/a/b"), '"/a/b"'),
    (lambda: PureWindowsPath("a"), '"a"'),
    (lambda: ipaddress.ip_address("::1"), '"::1"'),
    (lambda: ipaddress.ip_network("10.0.0.0/8"), '"10.0.0.0/8"'),
    (lambda: ipaddress.ip_interface("10.0.0.1/8"), '"10.0.0.1/8"'),
    (lambda: re.compile("a+"), '"a+"'),
    (lambda: re.compile(b"a+"), '"a+"'),
    (lambda: UserString("text"), '"text"'),
    (lambda: b"text", '"text"'),
    (lambda: bytearray(b"text"), '"text"'),
    (lambda: pydantic.SecretStr("hunter2"), '"**********"'),
    (lambda: pydantic.SecretBytes(b"hunter2"), '"**********"'),
    (lambda: pydantic.AnyUrl("http://a/b"), '"http://a/b"'),
    (lambda: Url("http://a/b"), '"http://a/b"'),
    (lambda: Color.RED, '"red"'),
    (lambda: Color.TIME, '"07:08:00"'),
    (lambda: Kind.TICK, '"tick"'),
    # Arrays
    (lambda: Color.MANY, '["red","green"]'),
    (lambda: {1}, "[1]"),
    (lambda: frozenset({SOME_UUID}), f'["{SOME_UUID}"]'),
    (lambda: deque([1, 2]), "[1,2]"),
    (lambda: range(2), "[0,1]"),
    (lambda: UserList([1]), "[1]"),
    ({"a": 1}.keys, '["a"]'),
    ({"a": 1}.values, "[1]"),
    ({"a": 1}.items, '[["a",1]]'),
    (generated, "[1,2]"),
    # Objects
    (lambda: UserDict(a=1), '{"a":1}'),
    (lambda: MappingProxyType({"a": {1}}), '{"a":[1]}'),
    (lambda: ChainMap({"a": 1}, {"a": 2}), '{"a":1}'),
    (Row, '{"a":1}'),
    (sqlite_row, '{"a":1}'),
    (lambda: SimpleNamespace(a=1), '{"a":1}'),
    (lambda: Plain(Slotted(Attrs({1}))), '{"inner":{"inner":{"inner":[1]}},"_hidden":0}'),
    (lambda: Slotted(None), '{"inner":null}'),
    (lambda: Attrs(1), '{"inner":1}'),
    (Dumped, '{"mode":"json"}'),
    # Keys that are no text
    (lambda: {1: 2, None: 3, False: 4, 1.5: 5}, '{"1":2,"null":3,"false":4,"1.5":5}'),
    (lambda: {Color.RED: 1, Kind.TICK: 2, Level.HIGH: 3}, '{"red":1,"tick":2,"3":3}'),
    (lambda: {SOME_UUID: {date(2024, 5, 6): 1}}, f'{{"{SOME_UUID}":{{"2024-05-06":1}}}}'),
    (lambda: {Decimal("1.0"): 1, b"k": 2, Path("/a"): 3}, '{"1.0":1,"k":2,"/a":3}'),
    (lambda: {Color.RED: generated()}, '{"red":[1,2]}'),
    (lambda: UserDict({SOME_UUID: (Slotted({}),)}), f'{{"{SOME_UUID}":[{{"inner":{{}}}}]}}'),
    # What brings a serializer of its own is left to it
    (lambda: pydantic.RootModel[str]("a"), '"a"'),
    (lambda: Model(Name="é"), '{"number":null,' + NAME + "}"),
    (lambda: Numbers([math.nan, 1.0]), "[null,1.0]"),
    (lambda: Holder(model=Numbers([math.inf])), '{"model":[null]}'),
    (lambda: Checked(math.nan, date(2024, 5, 6)), '{"number":null,"at":"2024-05-06"}'),
    (lambda: Old(at=date(2024, 5, 6)), '{"at":2024}'),
    (lambda: Struct("a"), STRUCT + "}"),
    (lambda: Struct("a", math.nan, Numbers([math.nan])), STRUCT + ',"number":null,"other":[null]}'),
    (lambda: Struct("a", other={1: Slotted(2)}), STRUCT + ',"other":{"1":{"inner":2}}}'),
    (lambda: Plain(Numbers([math.nan])), '{"inner":[null],"_hidden":0}'),
    # Half a pair of surrogates, which neither of them can encode, ends no stream.
    (lambda: Struct("\ud83d"), '{"type":"struct","firstName":"\ufffd"}'),
    (lambda: pydantic.RootModel[Any](["\ud83d"]), '["\ufffd"]'),
]


@pytest.mark.parametrize(("make", "text"), TABLE)
def test_a_value_has_one_form_at_the_top_as_within(make: Callable[[], object], text: str) -> None:
    top = json.loads(text) if text.startswith('"') else text
    frame = f"data: {top}\n\n".encode()

    assert encode({"data": make()}, "\n") == frame
    assert encode(ServerSentEvent(make()), "\n") == frame
    if not isinstance(make(), (dict, bytes, bytearray)):
        assert encode(make(), "\n") == frame
    assert encode([make()], "\n") == f"data: [{text}]\n\n".encode()
    assert encode({"data": {"k": make()}}, "\n") == f'data: {{"k":{text}}}\n\n'.encode()
    within = f'data: {{"k":[{text}]}}\n\n'.encode()
    assert encode(JSONServerSentEvent({"k": (make(),)}), "\n") == within
    assert encode(JSONServerSentEvent(make()), "\n") == f"data: {text}\n\n".encode()


@pytest.mark.parametrize(
    ("value", "text"), [("a\nb", '"a\\nb"'), ("", '""'), (0, "0"), (True, "true"), (1.5, "1.5")]
)
def test_json_event_takes_text_and_numbers_too(value: object, text: str) -> None:
    assert JSONServerSentEvent(value, sep="\n").encode() == f"data: {text}\n\n".encode()


SMALL: list[dict[Any, Any]] = [
    {},
    {"a": "".join(map(chr, range(0x300))) + "\u2028\ufeff😀"},
    {'"\n\\é': "a", "b": '"', "c": "\\", "d": "\x7f\x85"},
    {"a": 2**70, "b": -1, "c": 0.1, "d": -0.0, "e": 3.0, "g": 123456789.123, "h": 2**63},
    {"a": None, "b": True, "c": False},
    {"a": "\ud83d"},
    {"a": Level.HIGH, "b": Kind.TICK},
    {1: "a number", False: 2},
]


@pytest.mark.parametrize("value", [*SMALL, {"e": 1e16, "f": 1e-5}])
def test_a_small_object_is_written_as_the_standard_library_does(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    assert json.loads(to_json(value)) == json.loads(expected)
    if "orjson" not in sys.modules:
        monkeypatch.delitem(sys.modules, "msgspec")
        assert to_json(value) == expected


@pytest.mark.parametrize(
    "value", [*SMALL, {"data": b"bytes", "at": date(2026, 1, 2), "kind": OldKind.TICK, "list": [1]}]
)
def test_a_library_changes_no_byte_of_a_small_object(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_library = encode({"data": value}, "\n")
    monkeypatch.delitem(sys.modules, "msgspec")
    monkeypatch.delitem(sys.modules, "orjson", raising=False)

    assert encode({"data": value}, "\n") == with_library


@pytest.mark.parametrize("library", ["orjson", "msgspec"])
def test_a_library_that_is_still_being_imported_is_not_waited_for(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "orjson", raising=False)
    monkeypatch.setitem(sys.modules, library, type(sys)(library))

    assert encode([1], "\n") == b"data: [1]\n\n"
    assert encode({"data": {"a": 1}}, "\n") == b'data: {"a":1}\n\n'


@pytest.mark.usefixtures("without_msgspec")
def test_however_many_keys_there_are_each_value_has_its_own() -> None:
    for number in [*range(600), 0, 1]:
        assert to_json({f"key {number}": number}) == f'{{"key {number}":{number}}}'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_no_json(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ({"a": number}, [Plain(1), {"b": [number]}]):
        with pytest.raises(ValueError, match=r"JSON compliant|no JSON"):
            encode({"data": value}, "\n")
        with pytest.raises(ValueError, match=r"JSON compliant|no JSON"):
            JSONServerSentEvent(value)
    monkeypatch.delitem(sys.modules, "msgspec")
    with pytest.raises(ValueError, match=r"JSON compliant.* Send None in their place"):
        to_json({"a": number})


def test_what_holds_itself_is_no_json() -> None:
    circle: list[object] = []
    circle.append({"again": circle})

    with pytest.raises(ValueError, match="list cannot be sent as JSON: it holds itself"):
        encode({"data": circle}, "\n")


@pytest.mark.parametrize(
    "duration",
    [
        timedelta(),
        timedelta(microseconds=1),
        timedelta(seconds=-1),
        timedelta(days=-1, seconds=1.25),
        timedelta(days=400),
        timedelta(hours=5),
        timedelta(hours=1, minutes=2, seconds=3, milliseconds=40),
    ],
)
def test_a_duration_is_written_in_a_form_that_pydantic_and_msgspec_read(
    duration: timedelta,
) -> None:
    text = to_json(duration)

    assert pydantic.TypeAdapter(timedelta).validate_json(text) == duration
    assert msgspec.json.decode(text, type=timedelta) == duration


@pytest.mark.parametrize("value", [object(), threading.Lock(), 1j])
def test_what_has_no_form_at_all_is_refused_at_the_top_as_within(value: object) -> None:
    for data in (value, [value], {"a": {"b": value}}, {Color.RED: value}):
        with pytest.raises(
            TypeError, match=f"{type(value).__name__} is not JSON serializable.*serializer="
        ):
            encode({"data": data}, "\n")


async def nothing() -> None:
    raise AssertionError


async def numbers() -> AsyncIterator[int]:
    yield 1


AWAIT = "await it, and send what it returns."
CALL = "call it, and send what it returns."


class Awaitable:
    def __await__(self) -> Iterator[Any]:
        raise AssertionError


@pytest.mark.parametrize(
    ("make", "found", "instead"),
    [
        (nothing, "coroutine", AWAIT),
        (Awaitable, "Awaitable", AWAIT),
        (lambda: nothing, "function", CALL),
        (lambda: len, "builtin_function_or_method", CALL),
        (lambda: partial(len, ""), "partial", CALL),
        (lambda: [].append, "builtin_function_or_method", CALL),
        (lambda: Told, "the class Told", "make an object of it, Told(...)."),
        (lambda: Model, "the class Model", "make an object of it, Model(...)."),
        (lambda: ServerSentEvent, "the class ServerSentEvent", "make an object of it"),
        (numbers, "async_generator", "`async for one in it: yield one`"),
        (lambda: map(str, [1]), "map", "make it a list, list(it)."),
        (lambda: io.StringIO("a"), "StringIO", "`for one in it: yield one`"),
    ],
)
def test_what_is_to_be_called_awaited_or_iterated_first_is_refused_with_that(
    make: Callable[[], object], found: str, instead: str
) -> None:
    for wrap in (lambda it: it, lambda it: [it], lambda it: {"a": {"b": it}}):
        with pytest.raises(TypeError) as caught:
            encode({"data": wrap(make())}, "\n")

        assert str(caught.value).startswith(f"{found} is not JSON serializable: ")
        assert instead in str(caught.value)


class Shown:
    def __repr__(self) -> str:
        return "shown"


class ShownToo(Shown):
    pass


def test_an_object_with_a_text_of_its_own_is_that_at_the_top_only() -> None:
    assert data_text(Told()) == "told"
    assert data_text(Shown()) == data_text(ShownToo()) == "shown"
    assert data_text(Fraction(1, 2)) == "1/2"
    assert data_text(KeyError("a")) == "'a'"
    for value in (Told(), Fraction(1, 2)):
        with pytest.raises(TypeError, match=f"{type(value).__name__} is not JSON serializable"):
            data_text([value])
        with pytest.raises(TypeError, match=r"not JSON serializable. Send it as text with str\(\)"):
            JSONServerSentEvent(value)


class Placed:
    def __repr__(self) -> str:
        return f"<Placed at {id(self):#x}>"


@pytest.mark.parametrize("make", [Placed, asyncio.Event])
def test_a_text_that_says_where_an_object_is_in_memory_is_none(make: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match=f"{make.__name__} is not JSON serializable. Send it as"):
        data_text(make())


class Scalar:
    """A number of numpy, as far as it matters here."""

    def __init__(self, value: object, kind: str = "i") -> None:
        self._value = value
        self.dtype = SimpleNamespace(kind=kind)

    def __str__(self) -> str:
        return f"{self._value}"

    def tolist(self) -> object:
        return self._value


@pytest.mark.parametrize(
    ("value", "at_the_top", "within"),
    [
        (Scalar(3), "3", "3"),
        (Scalar(0.5, "f"), "0.5", "0.5"),
        (Scalar(True, "b"), "True", "true"),
        (Scalar([1, 2]), "[1,2]", "[1,2]"),
        (Scalar([[Scalar(1)], "a"], "O"), '[[1],"a"]', '[[1],"a"]'),
        (array("i", [1, 2]), "[1,2]", "[1,2]"),
    ],
)
def test_a_number_or_an_array_of_numpy_is_what_it_is_in_python(
    value: Any, at_the_top: str, within: str
) -> None:
    assert data_text(value) == at_the_top
    assert to_json([value]) == f"[{within}]"
    assert to_json({"a": {"b": value}}) == f'{{"a":{{"b":{within}}}}}'


def test_a_number_of_numpy_may_be_a_key_and_an_id() -> None:
    assert to_json({Scalar(3): 1}) == '{"3":1}'
    assert encode({"id": Scalar(3)}, "\n") == b"id: 3\n\n"
    with pytest.raises(TypeError, match="a key is Scalar, which is not JSON"):
        to_json({Scalar([1]): 1})


def test_a_date_of_numpy_is_its_text_and_no_integer() -> None:
    moment = Scalar("2024-05-06", "M")

    assert data_text(moment) == "2024-05-06"
    with pytest.raises(TypeError, match="Scalar is not JSON serializable"):
        to_json([moment])


@pytest.mark.parametrize("key", [(1, 2), Told(), Color.MANY, frozenset()])
def test_a_key_that_is_no_text_is_refused_by_its_type(key: Any) -> None:
    found = type(getattr(key, "value", key)).__qualname__
    with pytest.raises(TypeError, match=f"a key is {found}, which is not JSON serializable"):
        to_json({key: 1})


def test_bytes_that_are_no_text_are_refused_where_json_would_hide_it() -> None:
    for value in ([b"\xff"], {b"\xff": 1}):
        with pytest.raises(ValueError, match=r"bytes that are no text .* base64.b64encode"):
            to_json(value)


def test_a_coroutine_is_refused_without_a_second_complaint() -> None:
    async def price() -> int:
        raise AssertionError

    for wrap in (lambda one: one, lambda one: [one]):
        coroutine = price()
        with pytest.raises(TypeError, match="coroutine is not JSON serializable: await it"):
            data_text(wrap(coroutine))
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_a_model_that_holds_what_pydantic_cannot_say_is_refused_by_type() -> None:
    with pytest.raises(ValueError, match="Told"):
        to_json(pydantic.RootModel[Any](Told()))


# A serializer of the application's own


@pytest.mark.parametrize("value", [{"a": 1}, [1], {1}, UserDict(), Numbers([1]), object(), Told()])
def test_the_serializer_makes_json_of_all_that_is_no_text(value: object) -> None:
    asked: list[object] = []

    def serializer(value: object) -> bytes:
        asked.append(value)
        return b'"made\nof it"'

    frame = b'data: "made\ndata: of it"\n\n'
    make = encoder("\n", serializer)

    assert make({"data": value}) == frame
    if not isinstance(value, dict):
        assert make(value) == frame
    assert set(map(id, asked)) == {id(value)}


@pytest.mark.parametrize(
    "value", ["text", 1, True, 1.5, b"b", Color.RED, SOME_UUID, Path("/a"), KeyError("a")]
)
def test_the_serializer_is_not_asked_for_text_and_numbers(value: object) -> None:
    def serializer(value: object) -> str:
        raise AssertionError(value)

    assert encoder("\n", serializer)({"data": value}) == encode({"data": value}, "\n")


@pytest.mark.parametrize("serializer", [json.dumps, orjson.dumps, msgspec.json.encode])
def test_the_usual_serializers_fit(serializer: Callable[[Any], str | bytes]) -> None:
    assert encoder("\n", serializer)({"data": [1]}) == b"data: [1]\n\n"


def test_what_the_serializer_returns_has_to_be_text() -> None:
    async def later(value: object) -> str:
        raise AssertionError(value)

    for serializer, found in ((lambda _: None, "NoneType"), (later, "coroutine")):
        with pytest.raises(TypeError, match=f"returned {found} for a list: it must return JSON"):
            encoder("\n", serializer)([1])  # type: ignore[arg-type]


@pytest.mark.parametrize("serializer", [json.dumps, orjson.dumps, str])
def test_a_plain_function_may_be_the_serializer(serializer: object) -> None:
    check_serializer(serializer)


class AsyncSerializer:
    async def __call__(self, value: object) -> str:
        raise AssertionError(value)


async def async_serializer(value: object) -> str:
    raise AssertionError(value)


@pytest.mark.parametrize(
    ("serializer", "text"),
    [
        (json, "serializer is module: .* serializer=json.dumps"),
        ("orjson", "serializer is str: give a function that makes JSON"),
        (async_serializer, "serializer is the async function"),
        (AsyncSerializer(), "serializer is the async function"),
    ],
)
def test_a_serializer_that_cannot_be_one_is_refused(serializer: object, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        check_serializer(serializer)
