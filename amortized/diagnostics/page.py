"""A report as data, and as one HTML page that needs nothing beside it."""

import base64
import html
import inspect
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ALARM = 0.01
"""Level of a test below which a report warns."""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #14213d; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } td { padding: .15rem 1.2rem .15rem 0; vertical-align: top; }
td:first-child { color: #555; white-space: nowrap; }
figure { display: inline-block; margin: 1rem 1rem 0 0; width: 28rem; max-width: 100%;
  vertical-align: top; } img { width: 100%; }
figcaption { font-size: .85rem; color: #555; max-width: 30rem; }
.warnings { border-left: .4rem solid #c2410c; background: #fbf1ec; padding: .5rem 1rem; }
.fine { border-left: .4rem solid #3b9ab2; background: #eef5f7; padding: .5rem 1rem; }
"""


@dataclass(frozen=True)
class Report:
    """What was asked, what was answered, and why to trust it or not.

    Attributes:
        title: of the page.
        sections: ``{section: {what: number or text}}``, in the order of the page.
        warnings: in plain words; none where nothing speaks against the answer.
        figures: ``{caption: figure}``.

    Example:
        >>> report = Report("A test", {"Answer": {"mean": 0.5}}, ["It is made up."])
        >>> report.to_dict()["Answer"]["mean"]
        0.5
        >>> "It is made up." in report.to_html()
        True
    """

    title: str
    sections: dict[str, dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)

    def texts(self, section: str) -> dict[str, str]:
        """A section as the page writes it, numbers rounded."""
        return {str(what): _text(value) for what, value in self.sections[section].items()}

    def to_dict(self) -> dict[str, Any]:
        """Title, sections and warnings as numbers, texts and lists, fit for JSON."""
        return {"title": self.title, **self.sections, "warnings": list(self.warnings)}

    def to_html(self) -> str:
        """The page, figures included."""
        head = f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style>"
        parts = [f"<h1>{html.escape(self.title)}</h1>", self._verdict()]
        for name in self.sections:
            cells = "".join(
                f"<tr><td>{html.escape(what)}</td><td>{html.escape(text)}</td></tr>"
                for what, text in self.texts(name).items()
            )
            parts.append(f"<h2>{html.escape(name)}</h2><table>{cells}</table>")
        parts += [_figure(caption, figure) for caption, figure in self.figures.items()]
        body = "\n".join(parts)
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f"{head}</head><body>{body}</body></html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Writes the page, or the dictionary where the name ends in ``.json``."""
        path = Path(path)
        text = json.dumps(self.to_dict(), indent=1) if path.suffix == ".json" else self.to_html()
        path.write_text(text, encoding="utf-8")
        return path

    def _verdict(self) -> str:
        if not self.warnings:
            return '<p class="fine">No check speaks against this answer.</p>'
        items = "".join(f"<li>{html.escape(warning)}</li>" for warning in self.warnings)
        return f'<div class="warnings"><strong>Mind:</strong><ul>{items}</ul></div>'

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        lines = [self.title]
        for name in self.sections:
            lines += [f"  {name}", *(f"    {k}: {text}" for k, text in self.texts(name).items())]
        return "\n".join([*lines, *(f"  ! {warning}" for warning in self.warnings)])


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(caption: str, figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    text = html.escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    width = ' style="width: 100%"' if figure.get_figwidth() > 7 else ""
    return f"<figure{width}>{image}<figcaption>{text}</figcaption></figure>"


def in_words(make: Callable[[], Any]) -> str:
    """What the catalogue says of a prior, without the marks of formulas."""
    return (inspect.getdoc(make) or "").split("\n\n")[0].replace("\n", " ")
