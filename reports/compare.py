#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""headroom compare: lays run directories side by side.

Exit codes: 0 done, 2 usage, 3 nothing usable in what was named, 4 the report could not be made.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: its own folder would put html.py in the place of the standard module of that name.
    HERE = Path(__file__).resolve().parent
    sys.path = [str(HERE.parent)] + [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]

from reports import analysis, html, machine, markdown, suite  # noqa: E402
from reports.model import load_run  # noqa: E402
from reports.text import clean, one_line  # noqa: E402

EXIT_USAGE, EXIT_NOTHING, EXIT_FAILED = 2, 3, 4
WRITERS = {"html": html.render, "json": machine.render, "markdown": markdown.render}


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="headroom compare",
        description="Compare the arms of one or more runs.",
        epilog="Without an option: write report.html into the first DIR and print the verdicts.",
    )
    parser.add_argument("dirs", metavar="DIR", nargs="*", type=Path, help="a run directory, or that of a suite")
    parser.add_argument("--suite", metavar="DIR", type=Path, help="write the front page of several scenarios into DIR")
    parser.add_argument("--html", metavar="F", help="write one self-contained HTML file (- for stdout)")
    parser.add_argument("--json", metavar="F", help="write schema headroom.compare/1")
    parser.add_argument("--markdown", metavar="F", help="write summary, verdicts, metrics and mitigations")
    arguments = parser.parse_args(argv)
    if sum(getattr(arguments, name) == "-" for name in WRITERS) > 1:
        parser.error("only one output can go to stdout")
    if bool(arguments.suite) == bool(arguments.dirs):
        parser.error("name either run directories or --suite DIR")
    for path in arguments.dirs:
        if not path.is_dir():
            parser.error(f"{one_line(path)}: not a directory")
    repeated = [
        path for path in arguments.dirs if [other.resolve() for other in arguments.dirs].count(path.resolve()) > 1
    ]
    if repeated:
        parser.error(f"{one_line(repeated[0])}: named twice; the same cells would count as repeats of themselves")
    return arguments


def verdict_table(comparison: analysis.Comparison) -> str:
    """A line an arm, for a terminal."""
    rows = [("ARM", "VERDICT", "REASON")]
    for column in comparison.columns:
        reason = column.shown.reason if column.shown else ""
        rows.append((one_line(column.label, 60), one_line(analysis.verdict_words(column), 90), one_line(reason, 100)))
    widths = [max(len(row[index]) for row in rows) for index in range(2)]
    return "\n".join(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}".rstrip() for row in rows)


def _suite(directory: Path) -> int:
    problems: list[str] = []
    try:
        page = suite.render(directory, problems)
        _write(str(directory / "report.html"), page)
    except (OSError, ValueError) as error:
        print(f"headroom compare: {one_line(directory)}: {one_line(error, 200)}", file=sys.stderr)
        return EXIT_NOTHING
    return 0


def _suite_again(directory: Path) -> int:
    """The report of each of its runs, and the front page."""
    for name in suite.read(directory):
        main([str(directory / name)])
    print(directory / "report.html", flush=True)
    return _suite(directory)


def _write(target: str, content: str) -> None:
    # A record can hold what UTF-8 has no bytes for.
    data = content.encode("utf-8", "replace")
    if target == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        Path(target).write_bytes(data)


def main(argv: list[str] | None = None) -> int:
    """Reads, compares, writes."""
    arguments = _arguments(argv)
    if arguments.suite:
        return _suite(arguments.suite)
    if (arguments.dirs[0] / suite.FILE).is_file():
        return _suite_again(arguments.dirs[0])
    problems: list[str] = []
    runs = [load_run(path, problems) for path in arguments.dirs]
    for problem in problems:
        print(f"headroom compare: {one_line(problem, 400)}", file=sys.stderr)
    if not any(run.cells for run in runs):
        print(
            "headroom compare: no cell can be read in " + ", ".join(one_line(path) for path in arguments.dirs),
            file=sys.stderr,
        )
        return EXIT_NOTHING
    comparison = analysis.compare(runs, problems)
    asked = {name: target for name in WRITERS if (target := getattr(arguments, name))}
    targets = asked or {"html": str(arguments.dirs[0] / "report.html")}
    try:
        for name, target in targets.items():
            _write(target, WRITERS[name](comparison))
    except OSError as error:
        print(f"headroom compare: {clean(error.filename or 'stdout')}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    if not asked:
        _write("-", f"{verdict_table(comparison)}\n{clean(targets['html'])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
