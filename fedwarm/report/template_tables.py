"""The tables of the report's page as jinja2 macros: one for each table, joined to `fedwarm.report.template`."""

from __future__ import annotations

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
<tr><th scope="row">{{ run.called(loop.index0) }}</th>
{% for n in row %}<td class="cell" style="--v:{{ '%.2f'|format(n / (peak or 1)) }}">{{ n }}</td>{% endfor %}
<td>{{ row|sum }}</td></tr>
{% endfor %}
<tr class="sum"><th scope="row">all</th>
{% for i in range(run.counts[0]|length) %}<td>{{ run.counts|map(attribute=i)|sum }}</td>{% endfor %}
<td>{{ run.counts|map('sum')|sum }}</td></tr>
</tbody></table>{% endcall %}
{% endmacro %}

{% macro picture_table(grid) %}
{% call scroll('Pictures') %}<table class="pictures">
{{ head('client', [''] + grid.classes) }}
{% for row in grid.rows %}
<tbody>
{% for kind, cells in row.cells %}
<tr>{% if loop.first %}<th scope="rowgroup" rowspan="{{ row.cells|length }}">{{ row.client }}</th>{% endif %}
<th scope="row">{{ kind }}</th>
{% for picture in cells %}
{% set what = kind ~ ', client ' ~ row.client ~ ', class ' ~ grid.classes[loop.index0] %}
<td>{% if picture %}<img src="{{ picture }}" alt="{{ what }}">{% else %}<span class="soft">–</span>{% endif %}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
{% endfor %}
</table>{% endcall %}
{% endmacro %}

{% macro gap_table(gaps) %}
{% call scroll('Images per client and class, real and synthetic', gaps.rows|length) %}<table class="heat">
<caption>Training images of each client and class, real <small>+ synthetic</small>; the more together, the darker. Distance: total
variation from an even share of all classes, before and after; below, its mean.</caption>
{{ head('client', gaps.classes + ['all', 'distance']) }}
<tbody>
{% for row in gaps.rows %}
<tr{% if row.sum %} class="sum"{% endif %}><th scope="row">{{ row.client }}</th>
{% for real, made in row.cells %}
<td{% if not row.sum %} class="cell" style="--v:{{ '%.2f'|format(((real or 0) + (made or 0)) / gaps.peak) }}"{% endif %}>
{{ count_pair(real, made) }}</td>
{% endfor %}
<td>{{ count_pair(*row.all) }}</td>
<td>{% if row.distances %}{{ row.distances[0]|distance }} → {{ row.distances[1]|distance }}{% else %}–{% endif %}</td></tr>
{% endfor %}
</tbody></table>{% endcall %}
{% endmacro %}

{% macro count_pair(real, made) %}
{{ real|known }}
{% if made or (made is none and real is not none) %}<small>+&nbsp;{{ '?' if made is none else made|known }}</small>{% endif %}
{% endmacro %}

{% macro gap_cost_table(gaps) %}
{% call scroll('What it took', gaps.costs|length) %}<table>
<caption>What it {{ 'will take' if gaps.planned else 'took' }}</caption>
{{ head('client', ['images made', 'there already', 'time', 'on the disk']) }}
<tbody>
{% for row in gaps.costs %}
<tr{% if row.sum %} class="sum"{% endif %}><th scope="row">{{ row.client }}</th><td>{{ row.made|known }}</td>
<td>{{ row.reused|known }}</td><td>{{ row.seconds|time }}</td><td>{{ size(row.bytes) }}</td></tr>
{% endfor %}
</tbody></table>{% endcall %}
{% endmacro %}

{% macro width_table(rows) %}
{% set both = rows|map(attribute='cells')|map(attribute=1)|map(attribute=0)|reject('none')|list %}
{% set trained = rows|map(attribute='seen')|select|list %}
{% set loss = 'points lost' %}
{% call scroll('Bit-widths', rows|length) %}<table>
{{ head('bits', ['weights alone', loss] + (['weights and activations', loss] if both else [])
  + (['seen in training'] if trained else [])) }}
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.bits }}</th>
{% for share, lost in (row.cells if both else row.cells[:1]) %}<td>{{ share|percent }}</td><td>{{ lost|points }}</td>{% endfor %}
{% if trained %}<td class="text">{{ row.seen }}</td>{% endif %}</tr>
{% endfor %}
</tbody></table>{% endcall %}
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

{% macro group_table(label, measures, comparison, colours, each=true) %}
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
{% for run in g.runs if each and g.runs|length > 1 %}
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
