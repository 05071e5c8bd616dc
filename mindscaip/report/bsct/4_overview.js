// What is seen of all scans: summary, scatter, distributions per bond type, table.

const visible = () => POTENTIALS.map((_, p) => p).filter((p) => !state.hidden.has(p));

const SUMMARY = ['fsd', 'fsd_compress', 'fsd_stretch', 'fsd_intrinsic', 'energy_mae', 'energy_mae_shifted', 'force_mae'];

function drawSummary() {
  const columns = SUMMARY.filter(metricOf);
  // A fair mean is over the same scans for every potential that is shown.
  const compared = visible();
  const common = state.shown.filter((s) => compared.every((p) => POTENTIALS[p].scored[s]));
  const rows = POTENTIALS.map((potential, p) => {
    const own = state.hidden.has(p) ? state.shown.filter((s) => potential.scored[s]) : common;
    const cells = {};
    for (const key of columns) {
      const sorted = finite(own.map((s) => value(key, p, s))).sort((a, b) => a - b);
      cells[key] = { mean: mean(sorted), median: quantile(sorted, 0.5), count: sorted.length };
    }
    const seconds = own.map((s) => value('seconds', p, s));
    cells.seconds = { mean: seconds.length ? seconds.reduce((sum, x) => sum + x, 0) : NaN };
    return { p, potential, cells, count: own.length, coarse: own.filter((s) => value('max_log_step', p, s) > 1).length };
  });
  const { column, descending } = state.summarySort;
  if (column) {
    const rank = (row) => { const x = row.cells[column].mean; return Number.isNaN(x) ? Infinity : descending ? -x : x; };
    rows.sort((a, b) => rank(a) - rank(b));
  }
  const keys = [...columns, ...(metricOf('seconds') ? ['seconds'] : [])];
  const whole = common.length === SCANS.filter((_, s) => POTENTIALS.every((potential) => potential.scored[s])).length;
  const head = keys.map((key) => {
    const metric = metricOf(key);
    const sorted = column === key ? (descending ? 'descending' : 'ascending') : null;
    return html('th', { 'aria-sort': sorted, title: metric.help, scope: 'col' },
      html('button', { type: 'button', 'data-column': key, onclick: () => { state.summarySort = { column: key, descending: column === key && !descending }; drawSummary(); } }, metric.short || metric.label),
      html('small', {}, metric.unit || '\u00a0'));
  });
  const body = rows.map(({ p, potential, cells, count }) => html('tr', { class: state.hidden.has(p) ? 'off' : null, 'data-potential': p },
    html('td', { title: potential.title }, glyph(p), potential.label, html('small', {}, `${count} scans`)),
    keys.map((key) => {
      const { mean: middle, median } = cells[key];
      if (key === 'seconds') return html('td', {}, showSeconds(middle), html('small', {}, 'total'));
      const interval = whole && potential.intervals[key];
      const title = `${metricOf(key).label}: mean ${show(middle, 5)}${interval ? `, 95 % confidence ${show(interval[0])} to ${show(interval[1])}` : ''}; median ${show(median, 5)} ${metricOf(key).unit}`;
      return html('td', { 'data-metric': key, 'data-value': middle, title }, show(middle), html('small', {}, show(median)));
    })));
  $('summary').replaceChildren(
    html('thead', {}, html('tr', {}, html('th', { class: 'text', scope: 'col' }, 'potential', html('small', {}, 'mean / median')), head)),
    html('tbody', {}, body));
  const filtered = state.shown.length < SCANS.length ? 'chosen ' : '';
  const partial = common.length < state.shown.length && compared.length ? `, those that every shown potential has a score for` : '';
  const coarse = rows.filter((row) => row.coarse && !state.hidden.has(row.p)).map((row) => `${row.potential.label} ${row.coarse}`);
  const known = (row) => row.cells.fsd_intrinsic?.count;
  const gaps = rows.filter((row) => known(row) && known(row) < row.count && !state.hidden.has(row.p)).map((row) => `${row.potential.label} ${known(row)} of ${row.count}`);
  const fewer = gaps.length ? ` Means of the intrinsic FSD are over fewer scans, since a geometry between frames failed: ${gaps.join(', ')}.` : '';
  $('summary-note').textContent = `Over ${common.length} ${filtered}scans${partial}. Lower is better, but never read FSD without the errors beside it: no force at all also has a low FSD.${fewer}${DATA.note ? ` ${DATA.note}` : ''}`;
  $('summary-note').title = coarse.length ? `Scans in which the grid does not resolve a change (log step above 1): ${coarse.join(', ')}` : '';
}

function drawScatter() {
  const node = $('scatter');
  const width = node.clientWidth;
  const compared = visible();
  marked.scatter = null;
  if (!width) return;
  if (!compared.length || !state.shown.length) {
    node.replaceChildren(html('p', { class: 'empty' }, compared.length ? 'No scan matches the filters.' : 'All potentials are hidden: choose one above.'));
    $('scatter-note').textContent = '';
    return;
  }
  const height = clamp(width * 0.74, 270, 440);
  const raw = compared.flatMap((p) => state.shown.map((s) => ({ p, s, vx: value(state.x, p, s), vy: value(state.y, p, s) })));
  const all = raw.filter((point) => Number.isFinite(point.vx) && Number.isFinite(point.vy));
  const x = scaleOf(all.map((point) => point.vx), state.xlog, 56, width - 10);
  const y = scaleOf(all.map((point) => point.vy), state.ylog, height - 42, 8);
  for (const point of all) Object.assign(point, { x: x(point.vx), y: y(point.vy) });
  const dots = svg('g', { class: 'dots', 'fill-opacity': 0.55 });
  // Potentials in turns, so that none lies wholly on top of another.
  for (const point of [...all].sort((a, b) => a.s - b.s || a.p - b.p)) {
    dots.append(svg('path', { d: shape(point.p), transform: `translate(${point.x.toFixed(1)},${point.y.toFixed(1)}) scale(${all.length > 900 ? 0.72 : 0.88})`, class: `c${point.p % 8}`, 'data-scan': SCANS[point.s].key, 'data-potential': point.p }));
  }
  const picture = svg('svg', { height, viewBox: `0 0 ${width} ${height}` },
    drawAxes(x, y, { x: titleOf(state.x), y: titleOf(state.y) }), dots);
  node.replaceChildren(picture);
  marked.scatter = { picture, points: all, size: 1.6, joined: true };
  pickable(picture, all, { describe: describePoint, open: (point) => openScan(point.s, true) });
  const missing = raw.length - all.length;
  $('scatter-note').textContent = `${all.length} points, one for each scan and potential; click one to open its scan.${missing ? ` ${missing} without a value are not shown.` : ''}`;
}

// The points of the open scan, over all others; cheap, so that scans can be leafed through.
const marked = { scatter: null, boxes: null };

function markPoints() {
  for (const chart of Object.values(marked)) {
    if (!chart) continue;
    chart.picture.querySelector('.chosen')?.remove();
    const here = chart.points.filter((point) => point.s === state.current).sort((a, b) => a.p - b.p);
    const group = svg('g', { class: 'chosen', 'pointer-events': 'none' });
    if (chart.joined && here.length > 1) group.append(svg('path', { d: `M${here.map((point) => `${point.x},${point.y}`).join('L')}`, fill: 'none', 'stroke-width': 1.2, style: 'stroke:var(--ink)', opacity: 0.6 }));
    for (const point of here) {
      group.append(svg('path', { d: shape(point.p), transform: `translate(${point.x},${point.y}) scale(${chart.size})`, 'stroke-width': 1.2, 'data-scan': SCANS[point.s].key, 'data-potential': point.p, style: `fill:${colour(point.p)};stroke:var(--ink)` }));
    }
    chart.picture.append(group);
  }
}

function describePoint(point) {
  const scan = SCANS[point.s];
  const lines = [[html('b', {}, `${scan.key}`), ` ${scan.formula}`], [glyph(point.p), POTENTIALS[point.p].label]];
  for (const key of [...new Set([state.y, state.x])]) {
    const metric = metricOf(key);
    lines.push([`${metric.label} ${show(value(key, point.p, point.s))} ${metric.unit}`]);
  }
  return lines.map((line) => html('div', {}, ...line));
}

function drawBoxes() {
  const node = $('boxes');
  const width = node.clientWidth;
  marked.boxes = null;
  if (!width) return;
  const compared = visible();
  const bonds = BONDS.filter((bond) => state.shown.some((s) => SCANS[s].bond === bond));
  if (!compared.length || !bonds.length) return node.replaceChildren(html('p', { class: 'empty' }, 'Nothing to show.'));
  const height = clamp(width * 0.5, 230, 330);
  const points = [];
  const groups = [];
  for (const bond of bonds) {
    for (const p of compared) {
      const scans = state.shown.filter((s) => SCANS[s].bond === bond && Number.isFinite(value(state.y, p, s)));
      groups.push({ bond, p, scans, sorted: scans.map((s) => value(state.y, p, s)).sort((a, b) => a - b) });
    }
  }
  const y = scaleOf(groups.flatMap((group) => group.sorted), state.ylog, height - 40, 8);
  const x = linearScale(0, bonds.length, 56, width - 6);
  const picture = svg('svg', { height, viewBox: `0 0 ${width} ${height}` }, drawAxes(x, y, { xTicks: false, y: titleOf(state.y) }));
  const slot = (x(1) - x(0)) * 0.84 / compared.length;
  const half = Math.min(slot * 0.4, 15);
  bonds.forEach((bond, b) => {
    const count = state.shown.filter((s) => SCANS[s].bond === bond).length;
    const centre = x(b + 0.5);
    if (b) picture.append(svg('line', { class: 'gridline', x1: x(b), x2: x(b), y1: y.to, y2: y.from }));
    const only = state.bonds.size === 1 && state.bonds.has(bond);
    picture.append(svg('g', { class: 'pick', 'data-bond': bond, style: 'cursor:pointer', onclick: (event) => { event.stopPropagation(); chooseBonds(only ? [] : [bond]); } },
      svg('rect', { x: x(b), y: y.from, width: x(b + 1) - x(b), height: 38, fill: 'transparent' }),
      svg('text', { class: 'label', x: centre, y: height - 24, 'text-anchor': 'middle' }, bond),
      svg('text', { class: 'tick', x: centre, y: height - 9, 'text-anchor': 'middle' }, String(count))));
  });
  for (const { bond, p, scans, sorted } of groups) {
    const centre = x(bonds.indexOf(bond) + 0.5) + (compared.indexOf(p) - (compared.length - 1) / 2) * slot;
    for (const s of scans) {
      const jitter = (((s * 2654435761) % 1000) / 1000 - 0.5) * 1.7;
      points.push({ p, s, x: centre + jitter * half, y: y(value(state.y, p, s)) });
    }
    if (!sorted.length) continue;
    const [low, first, middle, third, high] = [0.05, 0.25, 0.5, 0.75, 0.95].map((share) => y(quantile(sorted, share)));
    const style = `stroke:${colour(p)};fill:${colour(p)}`;
    picture.append(svg('g', { class: 'box', style, 'data-bond': bond, 'data-potential': p },
      svg('path', { d: `M${centre},${low}V${first}M${centre},${third}V${high}`, 'stroke-width': 1.3 }),
      svg('rect', { x: centre - half, width: 2 * half, y: third, height: Math.max(first - third, 1), 'fill-opacity': 0.16, 'stroke-width': 1.2 }),
      svg('path', { d: `M${centre - half},${middle}h${2 * half}`, 'stroke-width': 2.6 })));
  }
  const dots = svg('g', { 'fill-opacity': 0.5 });
  for (const point of points) dots.append(svg('circle', { cx: point.x.toFixed(1), cy: point.y.toFixed(1), r: 1.7, class: `c${point.p % 8}` }));
  picture.append(dots);
  node.replaceChildren(picture);
  marked.boxes = { picture, points, size: 1.2 };
  pickable(picture, points, { describe: describePoint, open: (point) => openScan(point.s, true), reach: 10 });
}

function tableColumns() {
  const text = (key) => ({ key, label: key, text: true, of: (s) => SCANS[s][key] });
  return [
    text('bond'), text('id'), text('formula'), { key: 'atoms', label: 'atoms', of: (s) => SCANS[s].atoms },
    ...visible().map((p) => ({ key: `p${p}`, p, label: POTENTIALS[p].label, of: (s) => value(state.y, p, s) })),
  ];
}

const natural = new Intl.Collator('en', { numeric: true });

function sortShown() {
  const columns = tableColumns();
  const column = columns.find((one) => one.key === state.sort.column) || columns.find((one) => one.p !== undefined) || columns[0];
  const sign = state.sort.descending ? -1 : 1;
  state.shown.sort((a, b) => {
    const [u, v] = [column.of(a), column.of(b)];
    if (column.text) return sign * natural.compare(u, v) || a - b;
    if (Number.isNaN(u) || Number.isNaN(v)) return Number.isNaN(u) - Number.isNaN(v) || a - b; // without a value: last
    return sign * (u - v) || a - b;
  });
}

const classOf = (column) => [column.text ? 'text' : '', ['formula', 'atoms'].includes(column.key) ? `extra ${column.key}` : ''].join(' ').trim() || null;

function drawTable() {
  const columns = tableColumns();
  const head = columns.map((column) => html('th', { scope: 'col', class: classOf(column), title: column.p === undefined ? null : column.label, 'aria-sort': state.sort.column === column.key ? (state.sort.descending ? 'descending' : 'ascending') : null },
    html('button', { type: 'button', 'data-column': column.key, onclick: () => sortBy(column) },
      column.p === undefined ? column.label : [glyph(column.p), column.label.length > 12 ? `${column.label.slice(0, 11)}…` : column.label])));
  const body = html('tbody', { onclick: (event) => { const row = event.target.closest('tr'); if (row) openScan(Number(row.dataset.index), true); } });
  for (const s of state.shown) {
    body.append(html('tr', { 'data-index': s, 'data-scan': SCANS[s].key, 'aria-selected': String(s === state.current) },
      columns.map((column) => html('td', { class: classOf(column), title: column.text ? column.of(s) : null }, column.p === undefined ? String(column.of(s)) : show(column.of(s))))));
  }
  if (!state.shown.length) body.append(html('tr', {}, html('td', { colspan: columns.length, class: 'note' }, 'No scan matches: clear the search or the bond types (Esc).')));
  $('scans').replaceChildren(html('thead', {}, html('tr', {}, head)), body);
}

function sortBy(column) {
  const again = state.sort.column === column.key;
  state.sort = { column: column.key, descending: again ? !state.sort.descending : !column.text };
  sortShown();
  drawTable();
  showPlace();
  $('rows').scrollTop = 0;
}

// The row of the open scan, in sight within the table (the page itself stays where it is).
function markRow() {
  for (const row of document.querySelectorAll('#scans tbody tr')) {
    const here = Number(row.dataset.index) === state.current;
    if (row.getAttribute('aria-selected') !== String(here)) row.setAttribute('aria-selected', String(here));
    if (!here) continue;
    const box = $('rows');
    const [top, bottom] = [row.offsetTop - 34, row.offsetTop + row.offsetHeight - box.clientHeight + 6];
    if (box.scrollTop > top) box.scrollTop = top;
    else if (box.scrollTop < bottom) box.scrollTop = bottom;
  }
}
