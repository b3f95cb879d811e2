"""The jinja2 template of the report's page, as text: bundles of Flower apps carry no .html.

`MACROS` are the smallest parts, `TABLES` has a macro for each table, `SECTION` is about one run, `PAGE` is the page; they are
joined to one template.
"""

from __future__ import annotations

MACROS = """
{% macro size(n) %}
{% if n is none %}–{% else %}<data value="{{ n|round|int }}" title="{{ n|round|int|known }} bytes">{{ n|bytes }}</data>{% endif %}
{% endmacro %}

{% macro shown(value, form) %}{{ size(value) if form == 'bytes' else value|apply(form) }}{% endmacro %}

{% macro spread(s, form) %}
{{ shown(s.mean, form) }}{% if s.deviation is not none and (s.deviation or form in ['percent', 'time']) %}
 <small>±&nbsp;{{ shown(s.deviation, form) }}</small>{% endif %}
{% endmacro %}

{% macro scroll(label, rows=0) %}
<div class="scroll{{ ' tall' if rows > 15 }}" role="region" aria-label="{{ label }}" tabindex="0">{{ caller() }}</div>
{% endmacro %}

{% macro head(first, columns) %}
<thead>
<tr><th scope="col" class="text">{{ first }}</th>{% for c in columns %}<th scope="col">{{ c }}</th>{% endfor %}</tr>
</thead>
{% endmacro %}

{% macro heading(level, text, id) %}<h{{ level }} id="{{ id }}">{{ text }}</h{{ level }}>{% endmacro %}

{% macro charts(figures, id='') %}
{% if figures %}
<div class="charts{{ ' three' if figures|length in [3, 5, 6] }}">
{% for svg, caption in figures %}
<figure>{{ svg|placed(id ~ 'figure-' ~ loop.index ~ '-') }}<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>
{% endif %}
{% endmacro %}

{% macro fact(name, value, note='') %}
<div><dt>{{ name }}</dt><dd>{{ value }}{% if note %}<small>{{ note }}</small>{% endif %}</dd></div>
{% endmacro %}

{% macro facts(run) %}
<dl class="facts">
{{ fact('Global accuracy', run.accuracy|percent,
  'worst tenth ' ~ run.worst_tenth|percent if run.accuracy is not none else 'no global model') }}
{{ fact('Personal mean', run.personal_mean|percent,
  'worst tenth ' ~ run.personal_worst_tenth|percent if run.personal_mean is not none else 'no personal models') }}
{{ fact('Worst personal', run.personal_worst|percent) }}
{% if run.best %}{{ fact('Best ' ~ run.best.text, run.best.value|percent, 'in round ' ~ run.best.round) }}{% endif %}
{{ fact('Up per client', size(run.up_per_client), size(run.up) ~ ' in all') }}
{{ fact('Down per client', size(run.down_per_client), size(run.down) ~ ' in all') }}
{{ fact('Time', run.seconds|time, run.rounds|length|many('round')) }}
{% if run.epsilon is not none %}{{ fact('Epsilon', run.epsilon|number) }}{% endif %}
</dl>
{% endmacro %}
"""

TABLES = """
{% macro round_table(run) %}
{% set losses = run.rounds|rejectattr('train_loss', 'none')|list %}
{% call scroll('Rounds', run.rounds|length) %}<table>
{{ head('round', ['global accuracy', 'its worst client', 'personal, mean', 'personal, worst']
  + (['training loss'] if losses else []) + ['bytes up', 'bytes down', 'for evaluation', 'time']) }}
<tbody>
{% for r in run.rounds %}
<tr><th scope="row">{{ r.number }}</th>
{% for share in [r.accuracy, r.clients|least, r.personal_mean, r.personal|least] %}<td>{{ share|percent }}</td>{% endfor %}
{% if losses %}<td>{{ r.train_loss|number }}</td>{% endif %}
{% for n in [r.up|sum, r.down|sum, r.evaluation_bytes] %}<td>{{ size(n) }}</td>{% endfor %}
<td>{{ r.seconds|time }}</td></tr>
{% endfor %}
</tbody></table>{% endcall %}
{% endmacro %}

{% macro client_table(rows) %}
{% set adapted = rows|rejectattr('adapter', 'none')|list %}
{% call scroll('Clients', rows|length) %}<table>
{{ head('client', ['examples', 'global accuracy', 'personal accuracy', 'payload up', 'wire up', 'payload down', 'wire down']
  + (['adapter file'] if adapted else []) + ['time']) }}
<tbody>
{% for c in rows %}
<tr><th scope="row">{{ c.client }}</th>
<td>{{ c.examples|known }}</td><td>{{ c.shared|percent }}</td><td>{{ c.personal|percent }}</td>
{% for n in c.bytes %}<td>{{ size(n) }}</td>{% endfor %}
{% if adapted %}<td>{{ size(c.adapter) }}</td>{% endif %}
<td>{{ c.seconds|time }}</td></tr>
{% endfor %}
</tbody></table>{% endcall %}
{% endmacro %}

{% macro count_table(run, peak, most) %}
{% call scroll('Examples per client and class', run.counts|length) %}<table class="heat">
<caption>Training images of each client and class; the more, the darker.</caption>
{{ head('client', run.classes + ['all']) }}
<tbody>
{% for row in run.counts[:most] %}
<tr><th scope="row">{{ loop.index0 }}</th>
{% for n in row %}<td class="cell" style="--v:{{ '%.2f'|format(n / (peak or 1)) }}">{{ n }}</td>{% endfor %}
<td>{{ row|sum }}</td></tr>
{% endfor %}
<tr class="sum"><th scope="row">all</th>
{% for i in range(run.counts[0]|length) %}<td>{{ run.counts|map(attribute=i)|sum }}</td>{% endfor %}
<td>{{ run.counts|map('sum')|sum }}</td></tr>
</tbody></table>{% endcall %}
{% endmacro %}

{% macro picture_table(grid) %}
{% set kinds = ['generated'] if grid.note else ['real', 'generated'] %}
{% call scroll('Pictures') %}<table class="pictures">
{{ head('client', [''] + grid.classes) }}
{% for row in grid.rows %}
<tbody>
{% for kind in kinds %}
<tr>{% if loop.first %}<th scope="rowgroup" rowspan="{{ kinds|length }}">{{ row.client }}</th>{% endif %}
<th scope="row">{{ kind }}</th>
{% for picture in row[kind] %}
{% set what = kind ~ ', client ' ~ row.client ~ ', class ' ~ grid.classes[loop.index0] %}
<td>{% if picture %}<img src="{{ picture }}" alt="{{ what }}">{% else %}<span class="soft">–</span>{% endif %}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
{% endfor %}
</table>{% endcall %}
{% endmacro %}

{% macro stage_table(rows) %}
{% call scroll('Stages', rows|length) %}<table>
{{ head('stage', ['time', 'replies', 'payload up', 'wire up', 'payload down', 'wire down', 'mean reply', 'longest reply']) }}
<tbody>
{% for t in rows %}
<tr><th scope="row">{{ t.name }}</th><td>{{ t.seconds|time }}</td>
{% if t.replies %}
<td>{{ t.replies }}{% if t.failures %} <small>{{ t.failures }} left out</small>{% endif %}</td>
{% for n in t.bytes %}<td>{{ size(n) }}</td>{% endfor %}
<td>{{ t.mean_seconds|time }}</td><td>{{ t.longest_seconds|time }}</td>
{% else %}
<td class="text soft" colspan="7">on the server</td>
{% endif %}
</tr>
{% endfor %}
</tbody></table>{% endcall %}
{% endmacro %}

{% macro setting_table(rows, label) %}
{% call scroll(label) %}<table class="settings">
<caption>{{ label }}</caption>
<thead><tr>{% for name in ['setting', 'value', 'default', 'meaning'] %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for r in rows %}
<tr class="{{ 'changed' if r.changed else 'default' }}"><th scope="row"><code>{{ r.key }}</code></th>
<td class="value"><code>{{ r.value|setting }}</code></td>
<td><code>{{ r.default|setting }}</code></td><td>{{ r.text|marked }}</td></tr>
{% endfor %}
</tbody></table>{% endcall %}
{% endmacro %}

{% macro group_table(label, measures, comparison, colours) %}
{% call scroll(label) %}<table>
<caption>{{ label }}</caption>
{{ head('method, and what differs', ['seed'] + measures|map(attribute='heading')|list) }}
<tbody>
{% for g in comparison.groups %}
<tr class="sum"><th scope="row" class="wide">
<span class="key" style="background:var(--c{{ g.style % colours }})"></span>{{ g.name }}
{% if g.details %}<small>{{ g.details }}</small>{% endif %}</th>
<td>{{ g.runs[0].seed if g.runs|length == 1 else g.runs|length|many('run') }}</td>
{% for m in measures %}<td>{{ spread(comparison.spread(g.runs|map('measured', m)), m.form) }}</td>{% endfor %}</tr>
{% for run in g.runs if g.runs|length > 1 %}
<tr class="one"><th scope="row">{{ run.folder.name }}</th><td>{{ run.seed }}</td>
{% for m in measures %}<td>{{ shown(m.of(run), m.form) }}</td>{% endfor %}</tr>
{% endfor %}
{% endfor %}
</tbody></table>{% endcall %}
{% endmacro %}

{% macro facts_table(label, rows, form='bytes') %}
{% call scroll(label) %}<table>
<caption>{{ label }}</caption>
<tbody>
{% for name, value in rows %}
<tr><th scope="row">{{ name }}</th><td class="text">{{ shown(value, form) if value is number else value }}</td></tr>
{% endfor %}
</tbody></table>{% endcall %}
{% endmacro %}
"""

SECTION = """
{% macro section(s, level, id) %}
{% set run = s.run %}
{{ charts(s.figures, id) }}
{% if s.pictures %}
{{ heading(level, 'Pictures', id ~ 'pictures') }}
{% if s.pictures.note %}
<p>{{ s.pictures.note }}</p>
{% else %}
<p class="soft">Training images of each client, and below them what was generated for it. The upper ones are real data of the
clients: mind whom you give this page to.</p>
{% endif %}
{{ picture_table(s.pictures) }}
{% if s.pictures.hidden %}<p class="soft">{{ s.pictures.hidden|many('more client') }} in {{ s.pictures.file }}.</p>{% endif %}
{% endif %}
{{ heading(level, 'Rounds', id ~ 'rounds') }}
{% if run.rounds %}{{ round_table(run) }}{% else %}<p>No round was finished.</p>{% endif %}
{% if run.failures %}
<p>Replies that were left out:</p>
<ul>{% for failure in run.failures[:s.most_rows] %}<li>{{ failure }}</li>{% endfor %}</ul>
{% if run.failures|length > s.most_rows %}<p>{{ run.failures|length - s.most_rows }} more stand in results.json.</p>{% endif %}
{% endif %}
{{ heading(level, 'Clients', id ~ 'clients') }}
<p class="soft">Accuracies are the last ones, on each client's own test images. Payload is what the method sends, wire what Flower
makes of it; evaluation is not counted.</p>
{{ client_table(s.clients) }}
{% if run.clients > s.clients|length %}
<p class="soft">{{ run.clients - s.clients|length }} more stand in results.json and ledger.jsonl.</p>
{% endif %}
{% if not run.ledger %}<p>This folder has no ledger, so what each client sent is unknown.</p>{% endif %}
{% if run.unread_lines %}<p>Not counted: {{ run.unread_lines|many('line') }} of ledger.jsonl that cannot be read.</p>{% endif %}
{{ heading(level, 'What the clients hold', id ~ 'data') }}
{% if run.counts %}
{{ count_table(run, s.peak, s.most_rows) }}
{% else %}
<p>The clients did not share how many images of each class they hold.</p>
{% endif %}
{% if s.stages %}
{{ heading(level, 'Stages', id ~ 'stages') }}
{{ stage_table(s.stages) }}
{% endif %}
{% if run.privacy %}
{{ heading(level, 'Privacy', id ~ 'privacy') }}
{{ facts_table('What was spent', run.privacy.items(), 'number') }}
{% endif %}
{{ heading(level, 'Settings', id ~ 'settings') }}
{% set changed, kept = s.settings|selectattr('changed')|list, s.settings|rejectattr('changed')|list %}
{% if changed %}{{ setting_table(changed, 'Changed') }}{% else %}<p>Every setting is at its default.</p>{% endif %}
{% if kept %}
<details><summary>{{ kept|length|many('setting') }} at the default</summary>{{ setting_table(kept, 'At the default') }}</details>
{% endif %}
{{ heading(level, 'Record', id ~ 'record') }}
{% for note in run.notes %}<p><strong>Note:</strong> {{ note }}</p>{% endfor %}
<div class="beside">
{{ facts_table('Versions', [('commit', run.commit or 'unknown')] + run.versions.items()|list) }}
{{ facts_table('Files', [('folder', run.folder)] + s.files) }}
</div>
{% endmacro %}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fedwarm: {{ sections|length ~ ' runs compared' if comparison else sections[0].run.title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
{% if comparison %}
<h1>{{ sections|length }} runs compared</h1>
<p class="soft">Runs that differ in nothing but the seed stand together, with their mean ± sample standard deviation.</p>
{% for label, measures in comparison.tables %}{{ group_table(label, measures, comparison, colours) }}{% endfor %}
<p class="soft">The worst tenth are the clients with the lowest accuracies, at least one.
{% if comparison.watched %}Best is the highest {{ comparison.watched|join(' or ') }} of any round.{% endif %}</p>
{{ charts(comparison.figures) }}
<h2>The runs</h2>
{% for s in sections %}
<details class="run" id="run-{{ loop.index }}">
<summary>{{ s.run.title }} <small>seed {{ s.run.seed }}, engine {{ s.run.engine }}, {{ s.run.folder.name }}</small></summary>
<h3>{{ s.run.title }}, seed {{ s.run.seed }}</h3>
{{ facts(s.run) }}
{{ section(s, 4, 'run-' ~ loop.index ~ '-') }}
</details>
{% endfor %}
{% else %}
{% set s = sections[0] %}
{% set run = s.run %}
<h1>{{ run.method }}{% if run.reference %} <span class="tag">reference, not federated</span>{% endif %}</h1>
<p class="soft">{% if run.summary %}{{ run.summary[0]|upper }}{{ run.summary[1:] }}. {% endif %}
Engine {{ run.engine }}, seed {{ run.seed }}, {{ run.clients|many('client') }}.</p>
{% if not run.complete %}<p><strong>This run is not finished:</strong> the page shows how far it came.</p>{% endif %}
{{ facts(run) }}
<nav aria-label="Sections">
{% for id, text in parts if id not in ['pictures', 'stages'] or s[id] %}<a href="#{{ id }}">{{ text }}</a>{% endfor %}
</nav>
<h2>Accuracy and time</h2>
{{ section(s, 2, '') }}
{% endif %}
</main>
<footer>Written by fedwarm report. The global model's accuracy is over all clients' test images together, a personal model's on
its own client's. Point at a number of bytes to see it exactly.</footer>
</body>
</html>
"""
