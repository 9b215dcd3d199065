"""Fills the tables of FINDINGS.md and draws its figures, from the runs that are kept in experiments/results:

    python -m experiments.findings

experiments/reporting/document.py says how a text names its tables and figures.
"""

import sys
from pathlib import Path

from absl import flags

from experiments import command_line

_PAGE = flags.DEFINE_string("page", "FINDINGS.md", "the text whose tables are filled")
_RESULTS = flags.DEFINE_string("results", "experiments/results", "folder of files of runs, as reports leave them")


def main():
    # Imported only here, so that a wrong flag is answered at once: Matplotlib comes with it.
    from experiments.reporting import document

    page, results = Path(_PAGE.value), Path(_RESULTS.value)
    with command_line.user_errors():
        text = page.read_text()
        filled = document.fill(text, results)
        for path, picture in document.pictures(filled, results).items():
            (page.parent / path).parent.mkdir(parents=True, exist_ok=True)
            picture.draw(page.parent / path)
        page.write_text(filled)
    print(f"{page}: {'as it was' if filled == text else 'filled anew'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    command_line.run(main)
