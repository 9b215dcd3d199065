"""A report on disk: report.html, tables/, figures/ and the runs that it is of."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from experiments.reporting import configurations, contents, page, run_file, run_folders, tables
from experiments.reporting.runs import require_comparable


def write(out: Path, folders: Iterable[str], baseline: str = "") -> tuple[contents.Section, dict[str, str]]:
    """Writes the report on the runs of these folders; the same runs give the same bytes, in whatever order.

    Args:
        baseline: as of `configurations.baseline`.
    Returns: its first section, and the runs that are left out, by path, with the reason.
    Raises: ValueError in one sentence, before anything is written; OSError where it cannot be.
    """
    folders = sorted(set(folders))
    runs, unfinished = run_folders.find(folders)
    require_comparable(runs)
    design = configurations.arrange(runs)
    compared = configurations.baseline(design, baseline)
    left_out = dict(sorted((unfinished | design.doubles).items()))
    for folder in (out / "tables", out / "figures"):
        folder.mkdir(parents=True, exist_ok=True)
    sections = list(contents.sections(design, compared, left_out))
    run_file.write(out / "runs.jsonl", runs)
    for section in sections:
        if table := section.table:
            (out / "tables" / f"{table.name}.csv").write_text(tables.to_csv(table))
            (out / "tables" / f"{table.name}.md").write_text(tables.to_markdown(table))
        for name, picture in section.pictures.items():
            picture.draw(out / "figures" / name)
    command = ["python", "-m", "experiments.report", f"--workdir={folders[0]}", *folders[1:]]
    command += [f"--baseline={baseline}"] * bool(baseline) + [f"--out={out}"]
    page.write(out / "report.html", "What the runs found", shlex.join(command), sections, out / "figures")
    return sections[0], left_out
