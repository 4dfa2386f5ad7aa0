"""The style sheet of ``report.html``."""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1d2b33; background: #fff;
  max-width: 60rem; margin: 0 auto; padding: 1.5rem 1.2rem 4rem; }
h1 { font-size: 1.6rem; border-bottom: 3px solid #2a9d8f; padding-bottom: .4rem; overflow-wrap: anywhere; }
h2.run { margin-top: 3.5rem; border-top: 3px solid #2a9d8f; padding-top: 1rem; }
h3 { margin: 2.4rem 0 .6rem; } h4 { margin: 1.2rem 0 .3rem; color: #46606b; }
.summary { background: #eef6f5; border-left: 4px solid #2a9d8f; padding: .9rem 1.1rem; font-size: 1.05rem; }
.note { color: #5b6b73; font-size: .9rem; margin: .2rem 0 .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid #d9e1e4; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #9db0b5; color: #46606b; }
table.numbers tbody tr:last-child td { font-weight: 600; }
table.examples { width: 100%; } table.examples td:first-child { white-space: normal; min-width: 18rem; }
table.examples td, table.examples th { text-align: left; }
table.confusion td { text-align: center; min-width: 5.5rem; } table.confusion th { text-align: center; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
.row { display: flex; flex-wrap: wrap; gap: 2.5rem; }
img { max-width: 100%; height: auto; display: block; }
details { margin-top: 2.5rem; } summary { cursor: pointer; font-weight: 600; }
pre { background: #f4f6f7; padding: .8rem; overflow-x: auto; font-size: .8rem; }
@media print { body { max-width: none; } .scroll { overflow: visible; } h3, h4 { break-after: avoid; }
  img { break-inside: avoid; } }
"""
