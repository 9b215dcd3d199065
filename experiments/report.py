"""What runs found, as tables, figures and one page; runs that differ by their seed alone are one configuration:

    python -m experiments.report --workdir=runs/ablation --out=runs/ablation/report

Each folder is a run or holds some, as a sweep's does; several may follow each other. Only finished runs count.
docs/report.md says how the figures are made.
"""

import sys
from pathlib import Path

from absl import flags

from experiments import command_line

_WORKDIR = flags.DEFINE_multi_string("workdir", [], "a run's workdir, or a folder of them, as a sweep's; or several")
_OUT = flags.DEFINE_string("out", None, "folder for report.html, tables/ and figures/")
_BASELINE = flags.DEFINE_string(
    "baseline",
    "",
    "what the others are compared with: a configuration's name, or model.mixer=attention,...; the plain counterpart, "
    "with no idea on, if not given, or where there is none the configuration that is nearest to all others",
)
command_line.require("workdir", "runs/ablation")
command_line.require("out", "report")


def main():
    # Imported only here, so that a wrong flag is answered at once: Matplotlib comes with them.
    from experiments.reporting import output, tables

    with command_line.user_errors():
        first, left_out = output.write(Path(_OUT.value), _WORKDIR.value, _BASELINE.value)
    for path, reason in left_out.items():
        print(f"left out: {path}: {reason}", file=sys.stderr)
    print(tables.to_markdown(first.table), end="")
    print(Path(_OUT.value) / "report.html")
    return 0


def spread(argv: list[str]) -> list[str]:
    """`--workdir=A B C` as `--workdir=A --workdir=B --workdir=C`: what a shell makes of `runs/*`."""
    found, is_listed = [], False
    for argument in argv:
        is_flag = argument.startswith("-")
        found.append(f"--workdir={argument}" if is_listed and not is_flag else argument)
        is_listed = argument.startswith("--workdir=") if is_flag else is_listed
    return found


if __name__ == "__main__":
    sys.argv[:] = spread(sys.argv)
    command_line.run(main)
