"""The jinja2 template of the report's page, as text: bundles of Flower apps carry no .html.

`MACROS` are the smallest parts, `SECTION` is about one run, `PAGE` is the page, and `GAP_PAGE` one about augmentation alone;
with the tables of `fedwarm.report.template_tables` they are joined to one template.
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

{% macro charts(figures, id='', kind='') %}
{% if figures %}
<div class="charts {{ kind or ('three' if figures|length in [3, 5, 6]) }}">
{% for svg, caption in figures %}
<figure{{ ' tabindex="0"'|safe if kind == 'wide' }}>
{{ svg|placed(id ~ 'figure-' ~ loop.index ~ '-') }}<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>
{% endif %}
{% endmacro %}

{% macro fact(name, value, note='') %}
<div><dt>{{ name }}</dt><dd>{{ value }}{% if note %}<small>{{ note }}</small>{% endif %}</dd></div>
{% endmacro %}

{% macro document(title) %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fedwarm: {{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
{{ caller() }}
</body>
</html>
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

SECTION = """
{% macro sampled(grid) %}
{% if grid.note %}<p>{{ grid.note }}</p>{% endif %}
{% if grid.real %}
<p class="soft">Training images of each client, and below them its {{ grid.kind }} ones. The upper ones are real data of the
clients: mind whom you give this page to.</p>
{% endif %}
{% if grid.rows %}{{ picture_table(grid) }}{% endif %}
{% if grid.hidden %}<p class="soft">{{ grid.hidden|many('more client') }}{{ ' in ' ~ grid.file if grid.file }}.</p>{% endif %}
{% endmacro %}

{% macro gap_section(gaps, id) %}
{% set a = gaps.augment %}
<dl class="facts gaps">
{{ fact('Synthetic images', a.synthetic|sum|known,
  'beside ' ~ a.real|sum|known ~ ' real ones' if a.real else 'real ones unknown') }}
{% set made, reused, bytes = a.total('made'), a.total('reused'), a.total('bytes') %}
{% if made is not none %}
{{ fact('To be made' if gaps.planned else 'Made', made|known, reused|known ~ ' there already' if reused is not none else '') }}
{% endif %}
{% if a.seconds is not none %}{{ fact("Clients' time", a.seconds|time, 'of all clients together') }}{% endif %}
{% if bytes is not none %}{{ fact("On the clients' disks", size(bytes)) }}{% endif %}
{% if a.distances %}
{{ fact('Distance to even classes', a.distances[0]|distance ~ ' → ' ~ a.distances[1]|distance,
  'total variation, mean over clients') }}
{% endif %}
{% if a.shared %}
{{ fact('Histogram shared', 'epsilon ' ~ a.epsilon|number if a.epsilon else 'as it is', 'to say what all clients lack') }}
{% endif %}
</dl>
{{ charts(gaps.figures, id ~ 'gap-', 'wide') }}
{{ gap_table(gaps) }}
{% if gaps.hidden %}<p class="soft">{{ gaps.hidden|many('more client') }} in the sum.</p>{% endif %}
{% if gaps.costs %}{{ gap_cost_table(gaps) }}{% endif %}
{% if gaps.pictures %}{{ sampled(gaps.pictures) }}{% endif %}
{% endmacro %}

{% macro section(s, level, id) %}
{% set run = s.run %}
{{ charts(s.figures, id) }}
{% if s.pictures %}
{{ heading(level, 'Pictures', id ~ 'pictures') }}
{{ sampled(s.pictures) }}
{% endif %}
{% if s.augment %}
{{ heading(level, 'Augmentation', id ~ 'augment') }}
<p class="soft">What the clients added to their training images by {{ run.augment.method or 'augmentation' }}.</p>
{{ gap_section(s.augment, id) }}
{% endif %}
{% if s.widths %}
{{ heading(level, 'Bit-widths', id ~ 'widths') }}
<p class="soft">The final model on all clients' test images, its numbers rounded to so many bits after training.</p>
{{ width_table(s.widths) }}
{% endif %}
{{ heading(level, 'Rounds', id ~ 'rounds') }}
{% if run.rounds %}{{ round_table(run) }}{% else %}<p>No round was finished.</p>{% endif %}
{% if run.failures %}
<p>Replies that were left out:</p>
<ul>{% for failure in run.failures[:s.most_rows] %}<li>{{ failure }}</li>{% endfor %}</ul>
{% if run.failures|length > s.most_rows %}<p>{{ run.failures|length - s.most_rows }} more stand in results.json.</p>{% endif %}
{% endif %}
{{ heading(level, 'Clients', id ~ 'clients') }}
<p class="soft">Accuracies are the last ones, on each client's own test images, where it has some. Payload is what the method
sends, wire what Flower makes of it; evaluation is not counted.</p>
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

PAGE = """
{% call document(sections|length ~ ' runs compared' if comparison else sections[0].run.title) %}
{% if comparison %}
<h1>{{ sections|length }} runs compared</h1>
<p class="soft">Runs that differ in nothing but the seed stand together, with their mean ± sample standard deviation.</p>
{% for label, measures in comparison.tables %}{{ group_table(label, measures, comparison, colours) }}{% endfor %}
<p class="soft">The worst tenth are the clients with the lowest accuracies, at least one.
{% if comparison.watched %}Best is the highest {{ comparison.watched|join(' or ') }} of any round.{% endif %}</p>
{{ charts(comparison.figures) }}
{% if comparison.widths %}
<h2>Bit-widths</h2>
<p class="soft">The final models on all clients' test images, their numbers rounded to so many bits after training.</p>
{% for label, measures in comparison.widths %}{{ group_table(label, measures, comparison, colours, false) }}{% endfor %}
{% endif %}
<h2>The runs</h2>
{% for s in sections %}
<details class="run" id="run-{{ loop.index }}">
<summary>{{ s.run.title }} <small>seed {{ s.run.seed }}, engine {{ s.run.engine }}, {{ s.run.folder.name }}</small></summary>
<h3>{{ s.run.title }}, seed {{ s.run.seed }}</h3>
<p class="soft">Tested on {{ s.run.tested_on }}.</p>
{{ facts(s.run) }}
{{ section(s, 4, 'run-' ~ loop.index ~ '-') }}
</details>
{% endfor %}
{% else %}
{% set s = sections[0] %}
{% set run = s.run %}
<h1>{{ run.method }}{% if run.reference %} <span class="tag">reference, not federated</span>{% endif %}</h1>
<p class="soft">{% if run.summary %}{{ run.summary[0]|upper }}{{ run.summary[1:] }}. {% endif %}
Engine {{ run.engine }}, seed {{ run.seed }}, {{ run.clients|many('client') }}. Tested on {{ run.tested_on }}.</p>
{% if not run.complete %}<p><strong>This run is not finished:</strong> the page shows how far it came.</p>{% endif %}
{{ facts(run) }}
<nav aria-label="Sections">
{% for id, text in parts if id not in s or s[id] %}<a href="#{{ id }}">{{ text }}</a>{% endfor %}
</nav>
<h2>Accuracy and time</h2>
{{ section(s, 2, '') }}
{% endif %}
</main>
<footer>Written by fedwarm report. The global model's accuracy is over all test images together, a personal model's on its own
client's. Point at a number of bytes to see it exactly.</footer>
{% endcall %}
"""

GAP_PAGE = """
{% call document(title) %}
<h1>{{ title }}</h1>
<p class="soft">{{ text }}</p>
{{ gap_section(gaps, '') }}
</main>
<footer>Written by fedwarm augment. Point at a number of bytes to see it exactly.</footer>
{% endcall %}
"""
