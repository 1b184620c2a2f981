"""`./dev bench [NAME ...]`: each benchmark against its peer in the same run, as a table, JSON and a plot.

A benchmark is a module here with `run(workdir) -> Row...`; ours and the peer's runs alternate, and medians are compared.
Figures are ratios on one machine; absolute times of shared machines say little.
"""

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

BENCHMARKS = (
    "publish",
    "staging",
    "assembly",
    "deploy",
    "order",
    "swarm",
    "update",
    "restart",
    "freshness",
    "decision",
    "placement",
    "ec2",
    "site",
)
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run the benchmarks named, or all."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; all if none is given"
    )
    parser.add_argument("--workdir", type=Path, help="where files are put; a temporary directory if not given")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    rows: list[dict[str, Any]] = []
    for name in options.names or BENCHMARKS:
        workdir = Path(tempfile.mkdtemp(prefix=f"partita-bench-{name}-", dir=options.workdir))
        try:
            print(f"-- {name}", file=sys.stderr, flush=True)
            found = importlib.import_module(f"benchmarks.{name}").run(workdir)["rows"]
            rows += [{"benchmark": name, **row} for row in found]
            print(_table(rows[-len(found) :]), flush=True)
        finally:
            shutil.rmtree(workdir, ignore_errors=True)
    print(f"\n{_table(rows)}")
    RESULTS.mkdir(exist_ok=True)
    report = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.release()},
        "rows": rows,
    }
    (RESULTS / "latest.json").write_text(json.dumps(report, indent=2) + "\n")
    _plot(rows, RESULTS / "latest.svg")
    print(f"\nwritten: {RESULTS.name}/latest.json, {RESULTS.name}/latest.svg")
    return 0 if all(row["met"] for row in rows) else 1


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [("BENCHMARK", "WHAT", "OURS", "PEER", "RATIO", "TARGET", "MET", "CPU s", "RSS MiB"), *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["benchmark"],
        row["name"],
        f"{row['ours']:.4g} {row['unit']}",
        f"{row['peer']:.4g} {row['unit']}",
        f"{row['ratio']:.2f}",
        row["target"],
        "yes" if row["met"] else "NO",
        f"{row['cpu_s']:.2f}" if row.get("cpu_s") is not None else "",
        f"{row['rss_mib']:.0f}" if row.get("rss_mib") is not None else "",
    )


def _plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 1 + 0.5 * len(rows)))
    names = [f"{row['benchmark']}: {row['name']}" for row in rows]
    axes.barh(names, [row["ratio"] for row in rows], color=["#2a7" if row["met"] else "#c33" for row in rows])
    for index, row in enumerate(rows):
        axes.plot([row["bound"]] * 2, [index - 0.4, index + 0.4], color="black")
    axes.set_xscale("log")
    axes.set_xlabel("ratio of ours to the peer (black: the target)")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    sys.exit(main())
