"""The page's one style sheet: light and dark by the reader's setting, phone to paper, no file beside it."""

from deploy.report.page.markup import Html
from deploy.report.page.palette import DARK, LIGHT, variables

COLOURS = f""":root {{ color-scheme: light dark; {variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}
"""
STYLE = Html(
    COLOURS
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", sans-serif; font-variant-numeric: tabular-nums;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 56px; }
h1 { font-size: clamp(1.7rem, 4.4vw, 2.6rem); line-height: 1.12; letter-spacing: -.025em; margin: 6px 0 10px;
  overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 1.25rem; letter-spacing: -.01em; margin: 0 0 4px; line-height: 1.3; }
h3 { font-size: .95rem; margin: 22px 0 8px; }
p { margin: 0 0 12px; max-width: 68ch; }
.kicker { color: var(--soft); font-size: .82rem; letter-spacing: .08em; text-transform: uppercase; margin: 0; }
strong { white-space: nowrap; }
.lead { font-size: 1.12rem; max-width: 62ch; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.meta { color: var(--soft); font-size: .88rem; display: flex; flex-wrap: wrap; gap: 2px 18px; max-width: none; }
.badges { display: flex; flex-wrap: wrap; gap: 8px; margin: 0 0 18px; padding: 0; list-style: none; }
.badges li { border-radius: 6px; padding: 3px 10px; font-size: .85rem; border: 1px solid var(--line); }
.badges .simulated { background: var(--note-back); color: var(--note); border-color: transparent; font-weight: 600; }
.badges .good::before { content: "\\2713\\00a0"; color: var(--good); font-weight: 700; }
.badges .bad { color: var(--bad); border-color: var(--bad); }
.badges .bad::before { content: "\\2717\\00a0"; font-weight: 700; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 24px 26px;
  margin: 18px 0; }
figure { margin: 0; }
.rung .name small { color: var(--soft); font-weight: 400; }
.ladder { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
  margin: 22px 0 8px; }
.rung { background: var(--card); border: 1px solid var(--line); border-top: 5px solid var(--colour);
  border-radius: 10px;
  padding: 14px 16px; }
.rung .name { font-weight: 650; }
.rung .figure { font-size: 1.85rem; font-weight: 680; letter-spacing: -.03em; line-height: 1.25;
  white-space: nowrap; }
.rung .figure small { font-size: 1rem; font-weight: 500; letter-spacing: 0; color: var(--soft); }
.rung p { margin: 2px 0 0; font-size: .82rem; line-height: 1.4; color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 10px 0 4px; padding: 0; list-style: none;
  font-size: .85rem;
  color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 6px; }
.swatch { width: 12px; height: 12px; border-radius: 3px; background: var(--colour); flex: none; }
.plot { margin-top: 8px; }
.bar { display: grid; grid-template-columns: 5.6rem 1fr 5.4rem; align-items: center; gap: 10px; margin: 5px 0;
  font-size: .9rem; }
.bar .name { color: var(--soft); text-align: right; overflow-wrap: anywhere; line-height: 1.25; }
.bar .value { white-space: nowrap; font-weight: 600; }
.track { position: relative; height: 26px; background: var(--track); border-radius: 4px; overflow: hidden; }
.track svg, .field svg { position: absolute; inset: 0; width: 100%; height: 100%; display: block; }
.track span { position: absolute; top: 0; line-height: 26px; padding: 0 7px; font-size: .76rem;
  white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; pointer-events: none;}
.axis { display: grid; grid-template-columns: 5.6rem 1fr 5.4rem; gap: 10px; font-size: .78rem; color: var(--soft); }
.axis div { position: relative; height: 20px; border-top: 1px solid var(--line); }
.axis div span, .field .tick { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.axis div span { top: 3px; }
.axis div span:first-child { transform: none; }
.axis div span.end { transform: translateX(-100%); }
.thin .track { height: 16px; }
.thin .bar { grid-template-columns: 12.5rem 1fr 5.4rem; margin: 2px 0; font-size: .85rem; }
.thin .axis { grid-template-columns: 12.5rem 1fr 5.4rem; }
.trio .bar { grid-template-columns: 4.4rem 1fr 4.4rem; }
.trio { display: grid; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); gap: 8px 26px; }
.field { position: relative; height: 210px; margin: 6px 12px 26px 46px; border-left: 1px solid var(--line);
  border-bottom: 1px solid var(--line); font-size: .78rem; color: var(--soft); }
.field .tick { top: calc(100% + 3px); }
.field .share { white-space: nowrap; position: absolute; right: calc(100% + 5px); transform: translateY(-50%); }
.field path { fill: none; stroke-width: 2.4; vector-effect: non-scaling-stroke; stroke: var(--colour); }
.field line { stroke: var(--line); vector-effect: non-scaling-stroke; }
.spacious { height: 240px; margin: 14px 22px 30px 66px; }
.dot { position: absolute; width: 11px; height: 11px; border-radius: 50%; background: var(--colour); opacity: .85;
  transform: translate(-50%, 50%); border: 1.5px solid var(--card); }
.dense .track { height: 9px; border-radius: 2px; } .dense .bar { margin: 1px 0; font-size: .76rem; line-height: 1.2; }
.heat { width: auto; border-collapse: separate; border-spacing: 4px; }
.heat td {
  background: color-mix(in srgb, var(--warm) var(--heat), var(--card)); border: 2px solid transparent;
  border-radius: 7px; text-align: center; padding: 12px 20px; min-width: 7rem; }
.heat thead td { background: none; }
.heat th { border: 0; text-align: center; vertical-align: middle; }
.heat th.left { text-align: left; }
.heat td small { display: block; color: inherit; opacity: .8; } .heat td.soonest { border-color: var(--ink); }
details { margin: 12px 0 0; font-size: .9rem; } summary { cursor: pointer; color: var(--soft); width: max-content; }
summary:focus-visible, .wide:focus-visible {
  outline: 2px solid var(--region); outline-offset: 3px; border-radius: 3px; }
.wide { overflow-x: auto; margin: 8px -4px 0; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { padding: 6px 8px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { white-space: normal; color: var(--soft); font-weight: 550; font-size: .8rem; vertical-align: bottom; }
th:first-child, td:first-child, th.left, td.left { text-align: left; }
tbody tr.first td { border-top: 2px solid var(--line); }
td small { color: var(--soft); font-size: .86em; }
td .swatch { display: inline-block; margin-right: 7px; vertical-align: -1px; }
.failed { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 10px 0; font-size: .92rem; }
dt { font-weight: 600; } dd { margin: 0; color: var(--soft); }
.method { padding-left: 1.1rem; margin: 8px 0; font-size: .92rem; color: var(--soft); max-width: 78ch; }
.method li { margin: 5px 0; overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: .85rem; padding: 8px 4px; overflow-wrap: anywhere; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; font-size: .92em; }
.method code { white-space: nowrap; }
@media (max-width: 620px) {
  main { padding: 24px 14px 40px; }
  section { padding: 18px 14px; border-radius: 10px; }
  .ladder { grid-template-columns: 1fr 1fr; gap: 9px; }
  .rung { padding: 10px 12px; } .rung .figure { font-size: 1.5rem; }
  .bar, .axis { grid-template-columns: 3.9rem 1fr 4.1rem; gap: 7px; font-size: .8rem; }
  .thin .bar, .thin .axis { grid-template-columns: 6.2rem 1fr 3.9rem; font-size: .76rem; }
  .trio { grid-template-columns: 1fr; }
  .track span { display: none; }
  .axis div span:nth-child(even), .thin .axis div span:not(:first-child, :last-child) { display: none; }
  .thin .axis div span:last-child { display: inline; }
  .heat { border-spacing: 3px; } .heat td, .heat th { padding: 8px 5px; }
  .heat td { min-width: 0; white-space: normal; }
  th, td { padding: 6px 5px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
}
@media print {
  :root { --page: #fff; --card: #fff; }
  details:not([open]) { display: none; } .plot { break-inside: avoid; }
  section > p, .legend { break-after: avoid; }
  html { font-size: 12px; } body { font-size: 11px; }
  main { max-width: none; padding: 0; }
  section, .rung { border-color: #ccc; break-inside: avoid; }
  .bar, .track, .swatch, .rung, .badges li { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  .wide { overflow: visible; }
  .dot, .heat td { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  section { break-inside: auto; } .bar, .field, tr, .trio > div, h2, h3 { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .ladder { grid-template-columns: repeat(5, 1fr); }
  .trio { grid-template-columns: repeat(3, 1fr); }
  .thin .bar, .thin .axis { grid-template-columns: 9rem 1fr 4rem; }
  th, td { padding: 3px 5px; }
}
"""
)
