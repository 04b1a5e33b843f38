"""One self-contained HTML page: the frame that every report shares, and how it is written."""

from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from raft_fast.report.text import counted, duration, hundredths, value
from raft_fast.run.durable import replacing


def render(package: str, template: str, **content: Any) -> str:
    """The page of a `template` in `package` that extends frame.html.jinja.

    Whatever comes from data is escaped; only our own plots, as Markup, are not. The frame itself
    reads `verdict` (sentences), `tiles` (label, value, note), `notes` and `config`.
    """
    loader = ChoiceLoader([PackageLoader(package, ""), PackageLoader("raft_fast.report", "")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"counted": counted, "duration": duration, "hundredths": hundredths,
                            "thousandths": value}
    return environment.get_template(template).render(**content)


def write_text(text: str, path: Path) -> Path:
    """Write a whole text file or none; returns its path."""
    with replacing(path) as file:
        file.write(text)
    return path
