"""Reports, made of sections: as data, as text, and as one self-contained HTML page."""

import base64
import html
import inspect
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amortized.diagnostics.reports.advice import ADVICE, SOUND, Advice
from amortized.progress import with_progress

ALARM = 0.01
"""Level of a test below which a report warns."""

# Figures have a white background, also in dark mode.
_STYLE = """
:root { color-scheme: light dark; --text: #14213d; --page: #fff; --quiet: #555; --line: #ddd;
  --bad: #c2410c; --bad-back: #fbf1ec; --good: #3b9ab2; --good-back: #eef5f7; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ee; --page: #14171f; --quiet: #a9b0bf;
  --line: #333a48; --bad: #f08a5d; --bad-back: #33221b; --good: #6cc3d9; --good-back: #18292f; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; }
td { padding: .15rem 1.2rem .15rem 0; vertical-align: top; }
td:first-child { color: var(--quiet); min-width: 9rem; }
figure { display: inline-block; margin: 1rem 1rem 0 0; width: 28rem; max-width: 100%;
  vertical-align: top; break-inside: avoid; }
img { width: 100%; background: #fff; border-radius: .3rem; }
figcaption { font-size: .85rem; color: var(--quiet); max-width: 30rem; }
.warnings { border-left: .4rem solid var(--bad); background: var(--bad-back); padding: .5rem 1rem; }
.warnings ul { padding-left: 1.2rem; }
.fine { border-left: .4rem solid var(--good); background: var(--good-back); padding: .5rem 1rem; }
@media (max-width: 600px) { body { margin: 1rem auto; } h1 { font-size: 1.3rem; }
  table { width: 100%; } tr { border-bottom: 1px solid var(--line); }
  td { display: block; padding: .1rem 0; } figure { margin-right: 0; } }
@media print { :root { --text: #000; --page: #fff; --quiet: #333; --bad: #c2410c;
  --bad-back: #fff; --good: #3b9ab2; --good-back: #fff; }
  body { margin: 0; max-width: none; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        name: heading; sections with the same name are joined.
        entries: ``{label: number or text}``.
        warnings: warnings, as sentences.
        figures: ``{caption: figure}``.
    """

    name: str
    entries: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The result of an inference, its diagnostics, and every reason to distrust it.

    Attributes:
        title: what the report is about; the page's heading adds the verdict.
        sections: ``{section: {label: number or text}}``, in the order of the page.
        warnings: warnings, as sentences; empty if no check found a problem.
        figures: ``{caption: figure}``.
        advice: what the warnings mean and what to do, one entry for each section that has some.

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
    figures: dict[str, Any] = field(default_factory=dict)
    advice: list[Advice] = field(default_factory=list)

    @classmethod
    def of(cls, title: str, sections: Iterable[Section]) -> "Report":
        """Combines sections, with their warnings and figures, in their order.

        After two seconds a progress bar is shown, on terminals and in notebooks, unless the
        environment has TQDM_DISABLE=1.

        Args:
            title: title of the report.
            sections: the sections; a generator is consumed one by one.

        Example:
            >>> Report.of("A test", [Section("Answer", {"mean": 0.5}, ["It is made up."])])
            A test: It is made up.
              Answer
                mean: 0.5
              ! It is made up.

        A section named in `amortized.diagnostics.reports.advice` adds what its warnings mean.
        """
        report = cls(title, {})
        for section in with_progress(sections, title, "section"):
            report.sections.setdefault(section.name, {}).update(section.entries)
            report.warnings.extend(section.warnings)
            advice = ADVICE.get(section.name)
            if section.warnings and advice is not None and advice not in report.advice:
                report.advice.append(advice)
            report.figures.update(section.figures)
        return report

    @property
    def verdict(self) -> str:
        """One sentence: the first warning, and the number of others."""
        if not self.warnings:
            return "No check found a problem."
        first = re.split(r"[.:;](?:\s|$)", self.warnings[0], maxsplit=1)[0]
        more = len(self.warnings) - 1
        return first + (f" (and {more} more)." if more else ".")

    def texts(self, section: str) -> dict[str, str]:
        """A section as shown on the page, with rounded numbers."""
        return {str(what): _text(value) for what, value in self.sections[section].items()}

    def to_dict(self) -> dict[str, Any]:
        """Title, verdict, sections and warnings as numbers, texts and lists, ready for JSON."""
        return {
            "title": self.title,
            "verdict": self.verdict,
            "what this means": [advice.meaning for advice in self._advice],
            "what to do": [advice.remedy for advice in self._advice],
            **self.sections,
            "warnings": list(self.warnings),
        }

    def to_html(self) -> str:
        """The HTML page, including figures."""
        heading = html.escape(f"{self.title}: {self.verdict}")
        head = (
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width, '
            f'initial-scale=1"><title>{heading}</title><style>{_STYLE}</style>'
        )
        parts = [f"<h1>{heading}</h1>", self._warnings()]
        for name, texts in self._consequences().items():
            paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in texts)
            parts.append(f"<h2>{name}</h2>{paragraphs}")
        for name in self.sections:
            cells = "".join(
                f"<tr><td>{html.escape(what)}</td><td>{html.escape(text)}</td></tr>"
                for what, text in self.texts(name).items()
            )
            parts.append(f"<h2>{html.escape(name)}</h2><table>{cells}</table>")
        parts += [_figure(caption, figure) for caption, figure in self.figures.items()]
        body = "\n".join(parts)
        return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'

    def save(self, path: str | Path) -> Path:
        """Writes the page, or the dictionary if the name ends in ``.json``."""
        path = Path(path)
        text = json.dumps(self.to_dict(), indent=1) if path.suffix == ".json" else self.to_html()
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def _advice(self) -> list[Advice]:
        return self.advice if self.warnings else [SOUND]

    def _consequences(self) -> dict[str, list[str]]:
        """What the verdict means for the reader, and what to do, by heading."""
        texts = {
            "What this means for you": [advice.meaning for advice in self._advice],
            "What to do": [advice.remedy for advice in self._advice],
        }
        return {heading: lines for heading, lines in texts.items() if lines}

    def _warnings(self) -> str:
        if not self.warnings:
            return f'<p class="fine">{self.verdict}</p>'
        items = "".join(f"<li>{html.escape(warning)}</li>" for warning in self.warnings)
        return f'<div class="warnings"><strong>Warnings:</strong><ul>{items}</ul></div>'

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        lines = [f"{self.title}: {self.verdict}"]
        for name in self.sections:
            lines += [f"  {name}", *(f"    {k}: {text}" for k, text in self.texts(name).items())]
        lines += [f"  ! {warning}" for warning in self.warnings]
        if self.warnings:
            lines += [f"  > {advice.remedy}" for advice in self.advice]
        return "\n".join(lines)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(caption: str, figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    text = html.escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    width = ' style="width: 100%"' if figure.get_figwidth() > 7 else ""
    return f"<figure{width}>{image}<figcaption>{text}</figcaption></figure>"


def in_words(make: Callable[[], Any]) -> str:
    """The docstring of a prior as plain text, without the markup of formulas."""
    return (inspect.getdoc(make) or "").split("\n\n")[0].replace("\n", " ")
