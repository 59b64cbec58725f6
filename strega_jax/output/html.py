"""What all HTML pages share: one file each, style, scripts and disclaimer inside, tables that sort.

Nothing is fetched: pages open offline, and their content security policy says so.
"""

import html
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from strega_jax.scans.files import replacing

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
DISCLAIMER = (
    "For research only. This is no medical device: nothing here may be used for diagnosis or treatment, "
    "and a scan without detections is not a healthy scan."
)


def document(title: str, sections: Sequence[str], scripts: Sequence[str] = ()) -> str:
    """A page of sections (HTML) under its title (plain text), after the disclaimer.

    Args:
        title: heading, and name of the page.
        sections: HTML.
        scripts: names of packaged scripts that it needs.
    """
    heading = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<link rel="icon" href="data:,">\n'
        f"<style>{_packaged('page.css')}</style></head>\n<body>\n<h1>{heading}</h1>\n"
        f'<p class="note">{html.escape(DISCLAIMER)}</p>\n'
        + "\n".join(section for section in sections if section)
        + "".join(f"\n<script>{_packaged(script)}</script>" for script in scripts)
        + "\n</body></html>\n"
    )


def write_document(path: Path, title: str, sections: Sequence[str], scripts: Sequence[str] = ()) -> None:
    """Write `document`; the file appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(document(title, sections, scripts), encoding="utf-8")


def section(heading: str, content: str) -> str:
    """A heading (plain text) over HTML; nothing where there is no content."""
    return f"<h2>{html.escape(heading)}</h2>{content}" if content else ""


def definitions(about: Mapping[str, Any]) -> str:
    """A table of names and values; nothing where there are none."""
    rows = (
        f'<tr><td>{html.escape(name)}</td><td class="words">{html.escape(str(value))}</td></tr>'
        for name, value in about.items()
    )
    return f"<table>{''.join(rows)}</table>" if about else ""


def link(text: str, page: str) -> str:
    """Plain text that leads to a file beside the page or below, or the text alone where there is no file."""
    shown = html.escape(text)
    return f'<a href="{html.escape(quote(page))}">{shown}</a>' if page else shown


def sortable(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that sorts by the heading that is clicked; its page needs the script `sort.js`.

    Args:
        heads: of `head`.
        rows: cells of each row, of `cell`.
    """
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def head(text: str, kind: str = "", name: str = "", meaning: str = "") -> str:
    """A heading of a sortable table: what it shows, `text` or `words` where cells are no numbers, and what it means."""
    attributes = {"class": kind, "data-name": name, "title": meaning, "tabindex": "0"}
    return f"<th{_attributes(attributes)}>{html.escape(text)}</th>"


def cell(shown: str, value: Any, kind: str = "", style: str = "") -> str:
    """A cell of a sortable table: HTML, and the value that it is sorted by; empty values stay last."""
    sorted_by = html.escape("" if value is None else str(value), quote=True)
    return f'<td{_attributes({"class": kind, "style": style})} data-value="{sorted_by}">{shown}</td>'


def _attributes(values: Mapping[str, str]) -> str:
    return "".join(f' {name}="{html.escape(value, quote=True)}"' for name, value in values.items() if value)


def _packaged(name: str) -> str:
    """A style or script of this package."""
    return resources.files("strega_jax.output.web").joinpath(name).read_text(encoding="utf-8")
