"""How every page and figure looks: one palette, one figure template, one style sheet, no fonts from elsewhere."""

from __future__ import annotations

import plotly.graph_objects as go

INK = "#1f2a37"
MUTED = "#5d6b7a"
GRID = "#e6eaee"
REFERENCE = "#3b4754"
"""Reference method: dark and neutral."""
MODEL = "#2166ac"
SECOND = "#d1672a"
"""What is compared with the first series: a second engine or model."""
QUIET = "#93a1b0"
"""What stands in the background: training errors, guides."""
MARK = "#b2182b"
"""The one place in a figure to look at."""
DENSITY = [[0.0, "#dbe8f4"], [0.35, "#8bb8dd"], [0.7, "#2f78b8"], [1.0, "#0b2f5c"]]
SERIES = (MODEL, SECOND, "#2f7f6f", "#7a4fa3", REFERENCE)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_AXIS = {
    "showline": True,
    "linecolor": "#b6c0ca",
    "gridcolor": GRID,
    "zeroline": False,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#b6c0ca",
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13}},
}


def template() -> go.layout.Template:
    """The layout that every figure starts from."""
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 12.5, "color": INK},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "colorway": list(SERIES),
            "margin": {"l": 56, "r": 16, "t": 34, "b": 48},
            "hovermode": "closest",
            "hoverlabel": {"bgcolor": "white", "bordercolor": "#b6c0ca", "font": {"family": FONT, "color": INK}},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"},
            "xaxis": _AXIS,
            "yaxis": _AXIS,
        }
    )


CSS = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: #f6f7f9; color: {INK}; font: 16px/1.55 {FONT}; -webkit-text-size-adjust: 100%; }}
main, header {{ max-width: 1080px; margin: 0 auto; padding: 0 24px; }}
header {{ padding-top: 44px; padding-bottom: 6px; }}
h1 {{ font-size: 1.85rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; margin: 0 0 10px; }}
h2 {{ font-size: 1.2rem; font-weight: 650; margin: 0 0 6px; }}
h3 {{ font-size: 0.82rem; font-weight: 650; color: {MUTED}; margin: 0 0 6px; }}
p {{ margin: 0 0 12px; max-width: 74ch; }}
code {{ font: 0.86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }}
.lead {{ font-size: 1.06rem; color: {MUTED}; }}
nav {{ display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0 20px; font-size: 0.9rem; }}
nav a {{ color: {MODEL}; text-decoration: none; }}
nav a:hover {{ text-decoration: underline; }}
.headline {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px; margin: 0 0 16px; }}
.card {{ background: white; border: 1px solid {GRID}; border-radius: 8px; padding: 14px 16px; }}
.card .value {{ font-size: 1.4rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }}
.card .value span {{ white-space: nowrap; }}
.card .unit {{ font-size: 0.9rem; font-weight: 400; color: {MUTED}; }}
.card .name {{ font-size: 0.86rem; color: {MUTED}; line-height: 1.35; margin-top: 4px; }}
section {{ background: white; border: 1px solid {GRID}; border-radius: 8px; padding: 24px; margin: 0 0 16px; }}
.columns {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 8px 28px; }}
.columns > * {{ min-width: 0; }}
.facts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 18px 32px; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 0; font-size: 0.9rem; }}
dt {{ color: {MUTED}; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
figure {{ margin: 12px 0 4px; }}
figcaption {{ font-size: 0.88rem; color: {MUTED}; margin-top: 4px; max-width: 80ch; }}
.plot {{ width: 100%; }}
.scroll {{ overflow-x: auto; margin: 10px 0 4px; }}
table {{ border-collapse: collapse; width: 100%; font-size: 0.9rem; }}
th, td {{ text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid {GRID}; vertical-align: baseline; }}
th {{ font-weight: 600; color: {MUTED}; border-bottom-color: #c9d1d9; }}
th.number, td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
td.unit {{ color: {MUTED}; white-space: nowrap; }}
td.note {{ color: {MUTED}; min-width: 15em; }}
tr.group th {{ color: {INK}; padding-top: 18px; }}
ol.commands {{ list-style: none; margin: 10px 0 0; padding: 0; font-size: 0.9rem; }}
ol.commands li {{ padding: 8px 0; border-top: 1px solid {GRID}; }}
ol.commands .time {{ float: right; color: {MUTED}; font-variant-numeric: tabular-nums; padding-left: 12px; }}
ol.commands code {{ display: block; color: {INK}; }}
footer {{ max-width: 1080px; margin: 0 auto; padding: 6px 24px 40px; color: {MUTED}; font-size: 0.85rem; }}
sup {{ line-height: 0; }}
@media (max-width: 640px) {{
  main, header, footer {{ padding-left: 12px; padding-right: 12px; }}
  header {{ padding-top: 26px; }}
  h1 {{ font-size: 1.5rem; }}
  section {{ padding: 16px 14px; }}
  .headline {{ grid-template-columns: 1fr 1fr; }}
  .card {{ padding: 10px 12px; }}
  .card .value {{ font-size: 1.15rem; }}
  dl {{ gap: 2px 10px; }}
}}
@media print {{ body {{ background: white; }} section {{ break-inside: avoid; }} }}
"""
