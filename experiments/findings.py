"""Fills the tables of FINDINGS.md and docs/recipe.md and draws their figures, of the runs kept in experiments/results:

    python -m experiments.findings

experiments/reporting/document.py says how a text names its tables and figures.
"""

import sys
from pathlib import Path

from absl import flags

from experiments import command_line

_PAGES = flags.DEFINE_list("pages", "FINDINGS.md,docs/recipe.md", "the texts whose tables are filled")
_RESULTS = flags.DEFINE_string("results", "experiments/results", "folder of files of runs, as reports leave them")


def main():
    # Imported only here, so that a wrong flag is answered at once: Matplotlib comes with it.
    from experiments.reporting import document

    results = Path(_RESULTS.value)
    with command_line.user_errors():
        for page in map(Path, _PAGES.value):
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
