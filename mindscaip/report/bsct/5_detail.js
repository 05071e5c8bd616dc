// One scan: its molecule, its scores, and the four curves along the bond on one axis.

const DETAIL = ['fsd', 'fsd_compress', 'fsd_stretch', 'fsd_intrinsic', 'energy_mae', 'energy_mae_shifted', 'force_mae'];
const LEFT = 96;
const RIGHT = 12;
const ENERGY_SHARE = 1.45; // height of the energies over that of the other panels
const molecule = new Molecule($('molecule'));
let cursor = null; // moves line, readings and molecule without drawing the curves again

function drawDetail() {
  const scan = SCANS[state.current];
  $('detail').hidden = !scan;
  if (!scan) return;
  $('name').replaceChildren(scan.bond, ' ', html('a', { href: `#${encodeURI(scan.key)}`, title: 'Link to this scan', style: 'color:inherit;text-decoration:none' }, scan.id), html('small', {}, [scan.formula, scan.subset].filter(Boolean).join(' · ')));
  const smiles = scan.plain || scan.smiles;
  $('smiles').textContent = `${scan.atoms} atoms, ${scan.frames} frames · ${smiles || 'no SMILES'}`;
  $('smiles').title = scan.smiles;
  document.querySelector('.molecules').classList.toggle('single', !scan.sketch);
  $('sketch').hidden = !scan.sketch;
  $('frame').max = scan.frames - 1;
  molecule.open(scan);
  drawSketch($('sketch'), scan);
  drawScores(scan);
  drawCurves();
  setFrame(state.frame ?? scan.minimum);
  showPlace();
}

function drawScores(scan) {
  const keys = DETAIL.filter(metricOf);
  const more = METRICS.map((metric) => metric.key).filter((key) => !keys.includes(key) && key !== 'seconds');
  const head = [...keys, ...more].map((key) => html('th', { scope: 'col', title: `${titleOf(key)}: ${metricOf(key).help}` }, metricOf(key).short || metricOf(key).label));
  const rows = visible().map((p) => {
    const curve = scan.curves[p];
    const step = curve && curve.worst >= 0 ? 0.5 * (scan.length[curve.worst] + scan.length[curve.worst + 1]) : NaN;
    const cells = [...keys, ...more].map((key) => {
      const x = value(key, p, scan.index);
      return html('td', { class: key === 'max_log_step' && x > 1 ? 'coarse' : null, title: key === 'max_log_step' && x > 1 ? 'above 1: the grid does not resolve the change' : null, 'data-metric': key }, show(x), DATA.references.includes(`${key}_reference`) ? html('small', {}, ` ref ${show(value(`${key}_reference`, p, scan.index))}`) : null);
    });
    cells.splice(1, 0, html('td', {}, Number.isNaN(step) ? '–' : html('button', { type: 'button', title: 'Zoom to the marked step', onclick: () => zoomTo(curve) }, `${step.toFixed(2)} Å`)));
    const absent = POTENTIALS[p].absent[scan.key];
    if (absent) return html('tr', {}, html('td', { title: POTENTIALS[p].title }, glyph(p), POTENTIALS[p].label), html('td', { colspan: cells.length, class: 'text note', title: absent }, Number.isNaN(value('fsd', p, scan.index)) ? 'no score: ' : 'no curves: ', absent));
    return html('tr', {}, html('td', { title: POTENTIALS[p].title }, glyph(p), POTENTIALS[p].label), cells);
  });
  head.splice(1, 0, html('th', { scope: 'col', title: 'Bond length at the marked step' }, 'at'));
  $('scores').replaceChildren(html('thead', {}, html('tr', {}, html('th', {}), head)), html('tbody', {}, rows));
  $('scores-box').hidden = !rows.length;
  const lines = [html('span', {}, svg('svg', { width: 26, height: 8 }, svg('line', { x1: 0, x2: 26, y1: 4, y2: 4, 'stroke-width': 4, opacity: 0.38, style: 'stroke:var(--reference)' })), `reference ${DATA.reference}`)];
  if (rows.length) lines.push(html('span', { title: 'R: reference force at the lowest reference energy (j₀). Drag over the curves to zoom.' }, svg('svg', { width: 14, height: 12 }, svg('rect', { width: 14, height: 12, opacity: 0.25, style: 'fill:var(--p0)' }), svg('path', { d: 'M7,1L12,6L7,11L2,6Z', style: 'fill:var(--p0)' })), 'the step that is the FSD'));
  $('legend').replaceChildren(...lines);
}

function zoomTo(curve) {
  const scan = SCANS[state.current];
  const centre = 0.5 * (scan.length[curve.worst] + scan.length[curve.worst + 1]);
  const half = Math.max(0.13 * (scan.length[scan.frames - 1] - scan.length[0]), 3 * (scan.length[1] - scan.length[0]));
  state.zoom = [Math.max(scan.length[0], centre - half), Math.min(scan.length[scan.frames - 1], centre + half)];
  drawCurves();
  setFrame(curve.worst);
}

// Energies from the well to three times its depth; the repulsion at short bonds runs out of sight.
function energyRange(scan, curves, [from, to]) {
  const inside = (k) => scan.length[k] >= from && scan.length[k] <= to;
  const all = [scan.reference, ...curves].flatMap((curve) => [...curve.energy].filter((_, k) => inside(k)));
  if (state.zoom) return range(all, false, 0.08);
  const stretched = [...scan.reference.energy].slice(scan.minimum);
  const depth = Math.max(...stretched) || Math.max(...scan.reference.energy) || 1;
  const low = Math.min(0, ...all.filter((x) => x > -1.5 * depth));
  return { low: low - 0.12 * depth, high: 2.4 * depth };
}

function drawCurves() {
  const scan = SCANS[state.current];
  const node = $('curves');
  const width = node.clientWidth;
  if (!scan || !width) return;
  const potentials = visible().filter((p) => scan.curves[p]);
  const curves = potentials.map((p) => ({ p, ...scan.curves[p], ...intrinsicCurve(scan, scan.curves[p]) }));
  for (const curve of curves) {
    curve.ratio = logRatio(scan, curve);
    curve.slope = slopes(scan, curve.ratio);
  }
  const limits = state.zoom || [scan.length[0], scan.length[scan.frames - 1]];
  const inside = (values, at) => [...values].filter((_, k) => at[k] >= limits[0] && at[k] <= limits[1]);
  const middles = Float32Array.from({ length: scan.frames - 1 }, (_, k) => 0.5 * (scan.length[k] + scan.length[k + 1]));
  const changes = range([scan.reference, ...curves].flatMap((curve) => inside(curve.change, scan.length)), true);
  const panels = [
    { name: 'energy', title: 'E − E(j₀)', unit: 'eV', help: 'each relative to its own energy at j₀, the frame of lowest reference energy', of: (c) => c.energy, reference: true, ...energyRange(scan, curves, limits) },
    { name: 'force', title: '|F − R|', unit: 'eV/Å', help: 'change of the forces from R, the force of the reference at its lowest energy (j₀)', of: (c) => c.change, reference: true, log: true, low: Math.max(changes.low, 0.1), high: Math.max(changes.high, 10) },
  ];
  if (curves.length) {
    panels.push({ name: 'ratio', title: 'log-ratio l', unit: '', help: 'ln s of the potential less that of the reference, s = Σ(F − R)², at least 1 (eV/Å)²', of: (c) => c.ratio, zero: true, ...range([0, ...curves.flatMap((c) => inside(c.ratio, scan.length))], false, 0.12) });
    panels.push({ name: 'slope', title: 'dl/dL', unit: '1/Å', help: 'slope of the log-ratio; the largest magnitude, marked, is the published FSD', of: (c) => c.slope, zero: true, middles: true, ...range([0, ...curves.flatMap((c) => inside(c.slope, middles))], false, 0.14) });
  }
  for (const panel of panels.slice(2)) if (panel.low === 0) panel.low = -0.06 * panel.high;
  if (curves.some((c) => c.dense)) {
    panels.push({ name: 'intrinsic', title: 'intrinsic', unit: '1/Å', help: 'D of the potential less that of the reference, D = d ln(|ΔF|² + (1 eV/Å)²)/dL, each relative to its own force at j₀; the largest magnitude, marked, is the intrinsic FSD', of: (c) => c.dense, dense: true, zero: true, ...range([0, ...curves.filter((c) => c.dense).flatMap((c) => inside(c.dense, c.denseLength))], false, 0.14) });
  }
  const gap = 9;
  const bottom = 38;
  const unit = panelHeight(panels.length + ENERGY_SHARE - 1, panels.length * gap + bottom);
  const heights = panels.map((panel) => Math.round(unit * (panel.name === 'energy' ? ENERGY_SHARE : 1)));
  const height = heights.reduce((sum, tall) => sum + tall + gap, bottom);
  let top = 4;
  const x = linearScale(limits[0], limits[1], LEFT, width - RIGHT);
  const picture = svg('svg', { height, viewBox: `0 0 ${width} ${height}` });
  panels.forEach((panel, n) => {
    const y = (panel.log ? logScale : linearScale)(panel.low, panel.high, top + heights[n], top);
    Object.assign(panel, { y, top });
    top += heights[n] + gap;
    picture.append(drawPanel(panel, { x, scan, curves, middles, last: n === panels.length - 1 }));
  });
  picture.append(svg('text', { class: 'label', x: (LEFT + width - RIGHT) / 2, y: height - 5, 'text-anchor': 'middle' }, `${scan.bond} bond length L (Å)`));
  node.replaceChildren(picture);
  cursor = new Cursor(picture, { x, panels, scan, curves, middles, height: height - bottom });
  $('reset').hidden = !state.zoom;
  $('detail-note').hidden = !scan.dropped;
  $('detail-note').textContent = `${scan.dropped} frames without a reference are left out.`;
}

// As tall as the window leaves room for.
function panelHeight(count, taken) {
  if (innerWidth <= 980) return 118;
  const used = $('curves').offsetTop + $('bar').offsetHeight + document.querySelector('header').offsetHeight + taken + 26;
  return clamp((innerHeight - used) / count, 54, 190);
}

function drawPanel(panel, { x, scan, curves, middles, last }) {
  const { y, top } = panel;
  const clip = `clip-${panel.name}`;
  const group = svg('g', { 'data-panel': panel.name });
  group.append(svg('clipPath', { id: clip }, svg('rect', { x: x.from, y: y.to, width: x.to - x.from, height: y.from - y.to })));
  const axes = drawAxes(x, y, { beside: [panel.title, panel.unit, panel.help], xTicks: last });
  group.append(axes);
  if (!last) for (const tick of x.ticks(6)) axes.prepend(svg('line', { class: 'gridline', x1: x(tick.at), x2: x(tick.at), y1: y.to, y2: y.from }));
  const inner = svg('g', { 'clip-path': `url(#${clip})` });
  if (panel.zero && panel.low < 0) inner.append(svg('line', { class: 'guide', x1: x.from, x2: x.to, y1: y(0), y2: y(0) }));
  if (panel.name === 'force') inner.append(svg('line', { class: 'guide', x1: x.from, x2: x.to, y1: y(DATA.floor), y2: y(DATA.floor) }, svg('title', {}, `changes below ${DATA.floor} eV/Å count as that`)));
  const minimum = x(scan.length[scan.minimum]);
  inner.append(svg('line', { class: 'guide', x1: minimum, x2: minimum, y1: y.to, y2: y.from }));
  for (const curve of curves) {
    if (curve.worst < 0) continue;
    const [from, to] = [x(scan.length[curve.worst]), x(scan.length[curve.worst + 1])];
    inner.append(svg('rect', { class: 'offending', 'data-potential': curve.p, 'data-frame': curve.worst, x: from, width: Math.max(to - from, 3), y: y.to, height: y.from - y.to, style: `fill:${colour(curve.p)}`, opacity: 0.22 }));
  }
  if (panel.reference) inner.append(svg('path', { class: 'reference', d: curvePath(scan.length, panel.of(scan.reference), x, y), fill: 'none', 'stroke-width': 4.5, 'stroke-linejoin': 'round', style: 'stroke:var(--reference)', opacity: 0.36 }));
  for (const curve of curves) {
    const ys = panel.of(curve);
    if (!ys) continue;
    const at = panel.dense ? curve.denseLength : panel.middles ? middles : scan.length;
    inner.append(svg('path', { class: 'curve', 'data-potential': curve.p, d: curvePath(at, ys, x, y), fill: 'none', 'stroke-width': 1.7, 'stroke-linejoin': 'round', 'stroke-dasharray': dash(curve.p), style: `stroke:${colour(curve.p)}` }));
    // With the scan zoomed in, the frames themselves.
    if (state.zoom && !panel.dense) {
      for (let k = 0; k < ys.length; k++) {
        if (at[k] >= x.low && at[k] <= x.high && Number.isFinite(ys[k])) inner.append(svg('circle', { cx: x(at[k]), cy: y(Math.max(ys[k], panel.log ? 1e-9 : -Infinity)), r: 2, style: `fill:${colour(curve.p)}` }));
      }
    }
  }
  group.append(inner);
  const mark = (curve, at, height, data) => {
    if (at < x.low || at > x.high) return;
    group.append(svg('path', { class: 'mark', 'data-potential': curve.p, ...data, d: 'M0,-6.5L6.5,0L0,6.5L-6.5,0Z', transform: `translate(${x(at)},${y(height)})`, 'stroke-width': 1.6, style: `fill:${colour(curve.p)};stroke:var(--card)` }));
  };
  for (const curve of curves) {
    if (panel.name === 'slope' && curve.worst >= 0) mark(curve, middles[curve.worst], curve.slope[curve.worst], { 'data-frame': curve.worst, 'data-slope': curve.slope[curve.worst] });
    if (panel.dense && curve.dense && curve.worstLength > 0) {
      const k = nearest(curve.denseLength, curve.worstLength);
      mark(curve, curve.denseLength[k], curve.dense[k], { 'data-length': curve.worstLength, 'data-height': curve.dense[k] });
    }
  }
  panel.reading = svg('text', { class: 'quiet halo', x: x.to - 8, y: top + 14, 'text-anchor': 'end' });
  group.append(panel.reading);
  if (panel.name === 'energy' && minimum > x.from && minimum < x.to) group.append(svg('text', { class: 'quiet halo', x: minimum + 4, y: y.from - 5 }, 'j₀'));
  return group;
}

// The line at one frame, the values there, and dragging to zoom.
class Cursor {
  constructor(picture, parts) {
    Object.assign(this, parts);
    this.line = svg('line', { class: 'cursor', y1: 4, y2: this.height - 5, 'pointer-events': 'none' });
    this.band = svg('rect', { y: 4, height: this.height - 9, opacity: 0.16, style: 'fill:var(--accent)', visibility: 'hidden', 'pointer-events': 'none' });
    picture.append(this.band, this.line);
    let from = null;
    const at = (event) => clamp(event.clientX - picture.getBoundingClientRect().left, this.x.from, this.x.to);
    picture.addEventListener('pointerdown', (event) => {
      if (event.pointerType === 'mouse' && event.button === 0) { from = at(event); picture.setPointerCapture(event.pointerId); }
      setFrame(this.frameAt(at(event)));
    });
    picture.addEventListener('pointermove', (event) => {
      const here = at(event);
      setFrame(this.frameAt(here));
      if (from === null) return;
      this.band.setAttribute('visibility', Math.abs(here - from) > 6 ? 'visible' : 'hidden');
      this.band.setAttribute('x', Math.min(from, here));
      this.band.setAttribute('width', Math.abs(here - from));
    });
    picture.addEventListener('pointerup', (event) => {
      const here = at(event);
      const limits = from === null || Math.abs(here - from) <= 6 ? null : [from, here].sort((a, b) => a - b).map(this.x.invert);
      from = null;
      this.band.setAttribute('visibility', 'hidden');
      if (limits && limits[1] - limits[0] > 1.5 * (this.scan.length[1] - this.scan.length[0])) { state.zoom = limits; drawCurves(); setFrame(state.frame); }
    });
    picture.addEventListener('pointercancel', () => { from = null; });
    picture.addEventListener('dblclick', resetZoom);
  }

  frameAt(px) {
    return nearest(this.scan.length, this.x.invert(px));
  }

  move(frame) {
    const { scan, curves, panels, x } = this;
    const px = x(scan.length[frame]);
    const seen = px >= x.from - 0.5 && px <= x.to + 0.5;
    this.line.setAttribute('visibility', seen ? 'visible' : 'hidden');
    this.line.setAttribute('x1', px);
    this.line.setAttribute('x2', px);
    for (const panel of panels) {
      const step = Math.min(frame, scan.frames - 2);
      const pick = (curve) => { const ys = panel.of(curve); return panel.dense ? ys[nearest(curve.denseLength, scan.length[frame])] : ys[panel.middles ? step : frame]; };
      const parts = panel.reference ? [svg('tspan', { style: 'fill:var(--reference);font-weight:600' }, show(pick(scan.reference)))] : [];
      for (const curve of curves.filter(panel.of)) parts.push(svg('tspan', { dx: 9, style: `fill:${colour(curve.p)};font-weight:600` }, show(pick(curve))));
      panel.reading.replaceChildren(...parts);
    }
  }
}

function nearest(values, wanted) {
  let best = 0;
  for (let k = 1; k < values.length; k++) if (Math.abs(values[k] - wanted) < Math.abs(values[best] - wanted)) best = k;
  return best;
}

function setFrame(frame) {
  const scan = SCANS[state.current];
  if (!scan) return;
  state.frame = clamp(frame, 0, scan.frames - 1);
  $('frame').value = state.frame;
  $('length').textContent = `L = ${scan.length[state.frame].toFixed(3)} Å, frame ${state.frame}`;
  molecule.draw((scan.length[state.frame] - scan.length[0]) / (scan.length[scan.frames - 1] - scan.length[0]));
  if (cursor && cursor.scan === scan) cursor.move(state.frame);
}

function resetZoom() {
  state.zoom = null;
  drawCurves();
  setFrame(state.frame);
}

function showPlace() {
  const at = state.shown.indexOf(state.current);
  $('place').textContent = at < 0 ? 'not in the table' : `${at + 1} of ${state.shown.length}`;
  $('previous').disabled = $('next').disabled = !state.shown.length;
}
