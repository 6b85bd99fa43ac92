"""A report as one HTML file that needs nothing beside it."""

import base64
from html import escape

__all__ = ["to_html"]

# Ends of a diverging map that colour-blind readers can tell apart, and light: text is on them.
_NEGATIVE, _POSITIVE = (244, 165, 110), (120, 180, 225)

_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 1180px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin-bottom: .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid #ddd; }
nav { color: #666; font-size: .9rem; }
nav a { margin-right: 1.1em; white-space: nowrap; }
a { color: #0b5c96; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .55rem; text-align: right; border-bottom: 1px solid #e4e4e4;
  white-space: nowrap; }
th { border-bottom: 2px solid #999; vertical-align: bottom; font-weight: 600;
  white-space: normal; }
.text { text-align: left; }
.wide .text { white-space: normal; }
.wide .text + .text { overflow-wrap: anywhere; }
td:first-child { font-weight: 600; }
tbody tr:hover td { background-color: #f5f5f5; }
ul { color: #555; font-size: .87rem; max-width: 60rem; padding-left: 1.1rem; margin-top: .7rem; }
pre { background: #f5f5f5; padding: .6rem .8rem; overflow-x: auto; font-size: .87rem; }
img { max-width: 100%; height: auto; display: block; margin: .8rem 0; }
@media print { body { max-width: none; } nav { display: none; } }
"""


def to_html(document):
    """
    Args:
        document (Document):

    Returns:
        str: a page with its pictures and style in it.
    """
    title = escape(document.title)
    links = "\n".join(
        f'<a href="#section-{i}">{escape(section.title)}</a>'
        for i, section in enumerate(document.sections)
        if section.title
    )
    body = "\n".join(_section(i, section) for i, section in enumerate(document.sections))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_CSS}</style>
</head>
<body>
<h1>{title}</h1>
<nav>{links}</nav>
{body}
</body>
</html>
"""


def _section(i, section):
    parts = [f'<h2 id="section-{i}">{escape(section.title)}</h2>'] if section.title else []
    parts += [f"<p>{escape(text)}</p>" for text in section.before]
    parts += [f"<pre>{escape(section.code)}</pre>"] if section.code else []
    parts += map(_picture, section.pictures)
    parts += [_table(section.table)] if section.table else []
    if section.after:
        items = "".join(f"<li>{escape(text)}</li>" for text in section.after)
        parts.append(f"<ul>{items}</ul>")
    return "\n".join(parts)


def _picture(picture):
    data = base64.b64encode(picture.png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(picture.description)}">'


def _table(table):
    # Sentences may be broken over lines; numbers and their labels may not.
    wide = " wide" if table.text_columns == len(table.header) else ""
    shades = table.shades or [[None] * len(table.header)] * len(table.rows)
    rows = [
        "".join(
            _cell("td", cell, j < table.text_columns, shade)
            for j, (cell, shade) in enumerate(zip(row, row_shades, strict=True))
        )
        for row, row_shades in zip(table.rows, shades, strict=True)
    ]
    header = "".join(
        _cell("th", cell, j < table.text_columns) for j, cell in enumerate(table.header)
    )
    head = f"<thead><tr>{header}</tr></thead>" if any(table.header) else ""
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f'<div class="table{wide}"><table>{head}\n<tbody>\n{body}</tbody></table></div>'


def _cell(tag, text, is_text, shade=None):
    kind = ' class="text"' if is_text else ""
    style = f' style="background-color: {_colour(shade)}"' if shade is not None else ""
    return f"<{tag}{kind}{style}>{escape(text)}</{tag}>"


def _colour(shade):
    end = _POSITIVE if shade > 0 else _NEGATIVE
    weight = min(abs(shade), 1.0)
    channels = (round(255 + weight * (channel - 255)) for channel in end)
    return f"rgb({', '.join(map(str, channels))})"
