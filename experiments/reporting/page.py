"""The report as one page that holds all of it: no script, and nothing that it loads."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from experiments.reporting import tables
from experiments.reporting.contents import Section

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c1c1c; --faint: #666; --line: #ddd; --paper: #fff; --band: #f5f5f3; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e6e6; --faint: #a0a0a0; --line: #3a3a3a; --paper: #161616; --band: #202020; }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; line-height: 1.2; }}
h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }}
p {{ margin: .4rem 0; max-width: 46rem; }}
pre {{ background: var(--band); padding: .6rem; white-space: pre-wrap; font-size: .85rem; }}
figure {{ margin: 1rem 0; }}
img {{ width: 100%; max-width: 36rem; height: auto; background: #fff; border-radius: 4px; }}
.scroll {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
th, td {{ text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }}
th {{ color: var(--faint); font-weight: 600; vertical-align: bottom; }}
td {{ min-width: 7rem; }}
.number {{ text-align: right; white-space: nowrap; min-width: 0; }}
</style></head><body>
<h1>{title}</h1>
<pre>{command}</pre>
{sections}</body></html>
"""


def write(path: Path, title: str, command: str, sections: Sequence[Section], figures: Path) -> None:
    """Writes the page.

    Args:
        command: the line that made it.
        figures: the folder of the sections' pictures.
    """
    parts = "".join(_section(section, figures) for section in sections)
    path.write_text(_PAGE.format(title=html.escape(title), command=html.escape(command), sections=parts))


def _section(section, figures):
    text = f"<h2>{html.escape(section.title)}</h2>\n"
    text += "".join(f"<p>{html.escape(sentence)}</p>\n" for sentence in section.sentences)
    for name, picture in section.pictures.items():
        data = base64.b64encode((figures / name).read_bytes()).decode()
        text += f'<figure><img alt="{html.escape(picture.title)}" src="data:image/png;base64,{data}"></figure>\n'
    return text + (tables.to_html(section.table) if section.table else "")
