"""The command: `python3 tasks.py bench`. Runs scenarios in turn, and tells what came out."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from . import environments, instructions, many_hosts, memory, report
from .scenarios import (
    SCENARIOS,
    Figures,
    Scenario,
    churn,
    fan_out,
    idle,
    throughput,
    without_server,
)
from .servers import CLIENT_CORE, CONTENDERS

RECORDED = Path(__file__).parent / "recorded.json"
RESULT = environments.TOOLS / "result.json"

# For the quick form: a scenario, its figure, and a shorter measurement. Less is better for all: CPU
# time and memory are the same on a busy machine.
QUICK = (
    ("in-process", "in process", partial(without_server, wanted="respond")),
    ("one", "us", partial(throughput, connections=1, events=200_000)),
    ("churn", "us", partial(churn, total=1_500)),
    ("idle", "KiB", partial(idle, connections=1_000)),
    ("fan-out-200", "us", partial(fan_out, clients=300, rate=100, seconds=2)),
)


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="tasks.py bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ours against bare ASGI; two minutes")
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="instructions for each event, on a busy machine, too",
    )
    parser.add_argument("--memory", action="store_true", help="KiB of an idle stream, by owner")
    parser.add_argument(
        "--record", action="store_true", help="with --quick or --instructions: record the figures"
    )
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--who", nargs="+", metavar="CONTENDER", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument(
        "--nice", type=int, default=0, help="priority of servers and clients; -10 on a busy machine"
    )
    parser.add_argument("--write-docs", action="store_true", help="write docs/performance.md anew")
    parser.add_argument(
        "--add", action="store_true", help="keep the other scenarios of the last run"
    )
    parser.add_argument(
        "--many-hosts", action="store_true", help="one channel in many processes, and nothing else"
    )
    options = parser.parse_args(arguments)
    unknown = {*(options.only or ())} - {*SCENARIOS} | {*(options.who or ())} - {*CONTENDERS}
    if unknown:
        parser.error(f"no such scenario or contender: {', '.join(sorted(unknown))}")
    if options.nice:
        os.setpriority(os.PRIO_PROCESS, 0, options.nice)
    try:
        if options.many_hosts:
            # Many processes share the cores, as they would.
            many_hosts.measure(options.rounds)
            return 0
        if options.instructions:
            return instructions.main(record=options.record)
        if options.memory:
            return memory.main()
        os.sched_setaffinity(0, {CLIENT_CORE})
        if options.quick:
            return quick(record=options.record)
        full(options)
    except environments.UnavailableError as error:
        print(f"tasks.py bench: {error}", file=sys.stderr)
        return 1
    return 0


def full(options: argparse.Namespace) -> None:
    """Measure everybody, several times, in turn; print and keep the result."""
    scenarios = [SCENARIOS[key] for key in options.only or SCENARIOS]
    wanted = [key for key in options.who or CONTENDERS if any(key in s.who for s in scenarios)]
    needed = {name for key in wanted for name in CONTENDERS[key].needs}
    there = environments.prepare({"tools", *needed})
    taking_part = {key for key in wanted if there.issuperset(CONTENDERS[key].needs)}

    result = report.new_result(taking_part)
    if options.add and RESULT.is_file():
        result["figures"] = json.loads(RESULT.read_text("utf-8"))["figures"]
        for scenario in scenarios:
            for key in taking_part:
                result["figures"].get(scenario.key, {}).pop(key, None)
    for number in range(options.rounds):
        for scenario in scenarios:
            # Not always in the same order: what comes later may find a warmer machine.
            who = [key for key in scenario.who if key in taking_part]
            turn = number % len(who) if who else 0
            for key in who[turn:] + who[:turn]:
                figures = try_twice(scenario, key)
                report.say_figures(number, scenario, key, figures)
                report.add(result, scenario, key, figures)
            result["rounds"] = number + 1
            RESULT.write_text(json.dumps(result, indent=1), "utf-8")

    print(f"\n{report.table(result)}\n")
    print(report.targets(result))
    print(f"\n{RESULT.relative_to(environments.ROOT)} has all figures")
    if options.write_docs:
        report.write_docs(result)


def try_twice(scenario: Scenario, key: str) -> Figures:
    """Measure one contender; a second time if the first did not come to its end."""
    try:
        return scenario.measure(CONTENDERS[key])
    except (RuntimeError, OSError) as error:
        print(f"   {scenario.key}, {key}: once more, since {error}", flush=True)
    try:
        return scenario.measure(CONTENDERS[key])
    except (RuntimeError, OSError) as error:
        print(f"   {scenario.key}, {key}: FAILED: {error}", flush=True)
        return {}


def quick(*, record: bool) -> int:
    """
    Compare us with bare ASGI; return 1 if we have lost half of what was recorded.

    Of each, the best of three measurements in turn counts: noise makes slower, never faster. What
    seems lost nevertheless is measured again.
    """
    environments.prepare({"tools", "ours"})
    recorded = json.loads(RECORDED.read_text("utf-8")) if RECORDED.is_file() else {}
    found, lost = {}, []
    began = time.monotonic()
    print("   times better than a bare ASGI app with one send per event; recorded; since")
    for key, metric, measure in QUICK:
        ours = CONTENDERS["channel" if key.startswith("fan-out") else "ours"]
        best: dict[str, float] = {}
        for attempt in range(2):
            for _ in range(3):
                for each in (ours, CONTENDERS["floor"]):
                    figure = measure(each)[metric]
                    best[each.key] = min(best.get(each.key, figure), figure)
            ratio = best["floor"] / best[ours.key]
            if record or ratio >= recorded.get(key, 0) / 2:
                break
            if attempt == 0:
                print(f"   {key}: {ratio:.2f} is less than half of {recorded[key]}: once more")
        else:
            lost.append(key)
        found[key] = round(ratio, 2)
        shown = f"{recorded[key]:8.2f}  x{ratio / recorded[key]:.2f}" if key in recorded else ""
        print(f"   {key:14}{ratio:8.2f}  {shown}", flush=True)
    print(f"   {time.monotonic() - began:.0f} s")
    if record:
        RECORDED.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    if lost:
        print(f"tasks.py bench: half of the speed is gone: {', '.join(lost)}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
