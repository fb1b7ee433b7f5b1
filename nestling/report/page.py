"""Self-contained pages: no script, no network, no other file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nestling.core.result import write_whole
from nestling.report.table import Table

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1b1b; background: #fff }
h1 { line-height: 1.2 } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #e4e4e4 }
.left { text-align: left } .right { text-align: right }
caption { text-align: left; font-weight: 600 }
/* what is wider than the page is moved inside itself, never the page */
.wide, figure { margin: 1rem 0; overflow-x: auto }
.wide table { margin: 0 } h1, h2, p, footer { overflow-wrap: anywhere }
td.left { min-width: 8rem } svg { width: 100%; min-width: 32rem; max-width: 46rem; height: auto }
pre { background: #f6f6f4; padding: .8rem; overflow-x: auto; white-space: pre-wrap }
/* boxes in boxes, slow outside; a text in colours */
.level { border: 2px solid #777; border-radius: .6rem; padding: .5rem .7rem; margin: .5rem 0 0;
         background: var(--level); color: #1b1b1b }
.level ul { margin: 0; padding: 0; list-style: none }
.told { white-space: pre-wrap; line-height: 1.8 }
.told, .level, li { overflow-wrap: anywhere }
footer { margin-top: 3rem; color: #5b5b5b; font-size: .85rem }
@media (prefers-color-scheme: dark) {
  body { background: #16181a; color: #e6e6e6 }
  pre { background: #202326 } figure { background: #fff }
  th, td { border-color: #333 } h2 { border-color: #444 } footer { color: #aaa }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if lead %}<p>{{ lead }}</p>{% endif %}
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
{% for paragraph in section.text.split("\\n\\n") if paragraph %}<p>{{ paragraph }}</p>
{% endfor %}
{% for table in section.tables %}<div class="wide">{{ table.html() | safe }}</div>
{% endfor %}
{% for part in section.html %}{{ part | safe }}
{% endfor %}
{% for figure in section.figures %}<figure>{{ figure | safe }}</figure>
{% endfor %}
{% if section.listing %}<pre>{{ section.listing }}</pre>{% endif %}
</section>
{% endfor %}
<footer>
{% for key, value in provenance.items() %}
{{ key }}: {{ value }}{{ "; " if not loop.last }}
{% endfor %}
</footer>
</body>
</html>
"""


class Section(NamedTuple):
    """A heading with paragraphs (separated by empty lines), tables, SVG figures and a listing.

    ``html`` are further parts, inserted without escaping.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[str] = ()
    listing: str = ""
    html: Sequence[str] = ()


def page(
    title: str, sections: Sequence[Section], *, lead: str = "", provenance: dict[str, Any]
) -> str:
    """The page as HTML; all text is escaped, but not figures and ``html``."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE).render(
        title=title, lead=lead, sections=sections, provenance=provenance
    )


def write_page(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    provenance: dict[str, Any],
) -> Path:
    """Write a page to a file, atomically; the arguments are those of ``page``."""
    text = page(title, sections, lead=lead, provenance=provenance)
    return write_whole(path, text.encode())
