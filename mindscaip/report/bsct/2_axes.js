// Scales, ticks and axes of the figures: drawn as SVG in CSS pixels, coloured by the style sheet.

const GUTTER = 16; // px of a logarithmic axis kept for values that have no logarithm

function linearScale(low, high, from, to) {
  const scale = (x) => from + ((x - low) / (high - low || 1)) * (to - from);
  scale.invert = (px) => low + ((px - from) / (to - from || 1)) * (high - low);
  scale.ticks = (count) => linearTicks(low, high, count);
  return Object.assign(scale, { low, high, from, to, log: false });
}

function logScale(low, high, from, to, gutter = 0) {
  const start = from + Math.sign(to - from) * gutter;
  const a = Math.log10(low);
  const b = Math.log10(high);
  const scale = (x) => (x > 0 ? start + ((Math.log10(x) - a) / (b - a || 1)) * (to - start) : from + (start - from) / 3);
  scale.ticks = (count) => logTicks(a, b, count);
  return Object.assign(scale, { low, high, from, to, start, gutter, log: true });
}

function linearTicks(low, high, count = 5) {
  const ticks = ticksOfStep(low, high, count);
  return ticks.length > 1 ? ticks : ticksOfStep(low, high, 2 * count);
}

function ticksOfStep(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push(k * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step)) + (String(step / power).startsWith('2.5') ? 1 : 0));
  return ticks.map((at) => ({ at, text: Math.abs(at) < step * 1e-6 ? '0' : plain(at, digits) }));
}

function plain(x, digits) {
  return (Math.abs(x) >= 1e5 ? x.toExponential(1).replace('e+', 'e') : x.toFixed(Math.min(digits, 8))).replaceAll('-', '−');
}

function logTicks(a, b, count = 5) {
  const span = b - a;
  const factors = span < 1.3 ? [1, 2, 3, 5] : span < 2.6 ? [1, 3] : [1];
  const every = span > 2 * count ? Math.ceil(span / count) : 1;
  const ticks = [];
  for (let k = Math.floor(a); k <= Math.ceil(b); k++) {
    for (const factor of k % every ? [] : factors) {
      const at = factor * 10 ** k;
      if (Math.log10(at) >= a - 1e-9 && Math.log10(at) <= b + 1e-9) ticks.push({ at, text: logText(at, k) });
    }
  }
  return ticks;
}

function logText(at, power) {
  if (power >= 5 || power < -3) return at.toExponential(0).replace('e+', 'e').replace('-', '−');
  return String(Number(at.toPrecision(1)));
}

// The range of values with a little air; for a logarithmic axis of the positive ones.
function range(values, log, pad = 0.05) {
  let low = Infinity;
  let high = -Infinity;
  let others = false;
  for (const x of values) {
    if (!Number.isFinite(x)) continue;
    if (log && !(x > 0)) { others = true; continue; }
    if (x < low) low = x;
    if (x > high) high = x;
  }
  if (low > high) return log ? { low: 0.1, high: 10, others } : { low: 0, high: 1, others };
  if (log) {
    const air = Math.max(pad * Math.log10(high / low), 0.06);
    return { low: low / 10 ** air, high: high * 10 ** air, others };
  }
  const air = pad * (high - low) || Math.abs(high) * 0.1 || 1;
  return { low: low >= 0 && low < 0.3 * high ? 0 : low - air, high: high + air, others };
}

function scaleOf(values, log, from, to) {
  const { low, high, others } = range(values, log);
  return log ? logScale(low, high, from, to, others ? GUTTER : 0) : linearScale(low, high, from, to);
}

function drawAxes(x, y, titles = {}) {
  const left = x.from;
  const right = x.to;
  const bottom = y.from;
  const top = y.to;
  const group = svg('g', { class: 'axes' });
  if (titles.xTicks !== false) {
    for (const tick of x.ticks(Math.max(3, Math.floor((right - left) / 75)))) {
      const at = x(tick.at);
      group.append(svg('line', { class: 'gridline', x1: at, x2: at, y1: top, y2: bottom }));
      group.append(svg('text', { class: 'tick', x: at, y: bottom + 14, 'text-anchor': 'middle' }, tick.text));
    }
  }
  for (const tick of y.ticks(clamp(Math.floor((bottom - top) / 26), 2, 8))) {
    const at = y(tick.at);
    group.append(svg('line', { class: 'gridline', x1: left, x2: right, y1: at, y2: at }));
    group.append(svg('text', { class: 'tick', x: left - 6, y: at + 4, 'text-anchor': 'end' }, tick.text));
  }
  if (y.gutter) {
    group.append(svg('line', { class: 'guide', x1: left, x2: right, y1: y.start, y2: y.start }));
    group.append(svg('text', { class: 'tick', x: left - 6, y: y(0) + 4, 'text-anchor': 'end' }, '≤ 0'));
  }
  if (x.gutter) {
    group.append(svg('line', { class: 'guide', x1: x.start, x2: x.start, y1: top, y2: bottom }));
    group.append(svg('text', { class: 'tick', x: x(0), y: bottom + 14, 'text-anchor': 'middle' }, '≤ 0'));
  }
  group.append(svg('path', { class: 'axisline', d: `M${left},${top}V${bottom}H${right}` }));
  if (titles.x) group.append(svg('text', { class: 'label', x: (left + right) / 2, y: bottom + 32, 'text-anchor': 'middle' }, titles.x));
  if (titles.beside) {
    // In the margin, where no curve runs through it.
    group.append(svg('text', { class: 'label', x: 0, y: (top + bottom) / 2 - 1, style: 'font-weight:650' }, titles.beside[0], svg('title', {}, titles.beside[2] || '')));
    group.append(svg('text', { class: 'quiet', x: 0, y: (top + bottom) / 2 + 13 }, titles.beside[1]));
  }
  if (titles.y) {
    const at = `translate(${13},${(top + bottom) / 2}) rotate(-90)`;
    group.append(svg('text', { class: 'label', transform: at, 'text-anchor': 'middle' }, titles.y));
  }
  return group;
}

// A curve through points; a value that is not finite leaves a gap.
function curvePath(xs, ys, x, y) {
  let path = '';
  let pen = false;
  const [low, high] = [Math.min(y.from, y.to) - 4000, Math.max(y.from, y.to) + 4000];
  for (let k = 0; k < ys.length; k++) {
    if (!Number.isFinite(ys[k])) { pen = false; continue; }
    const at = clamp(y.log && !(ys[k] > 0) ? y.from + 40 : y(ys[k]), low, high);
    path += `${pen ? 'L' : 'M'}${x(xs[k]).toFixed(2)},${at.toFixed(2)}`;
    pen = true;
  }
  return path;
}

// Hover and click on the nearest of many points: easier to hit than the points themselves, also with a finger.
function pickable(node, points, { describe, open, reach = 16 }) {
  const ring = svg('circle', { r: 7.5, fill: 'none', style: 'stroke:var(--ink)', 'stroke-width': 1.6, visibility: 'hidden', 'pointer-events': 'none' });
  node.append(ring);
  const nearest = (event) => {
    const box = node.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    let least = reach * reach;
    for (const point of points) {
      const distance = (point.x - px) ** 2 + (point.y - py) ** 2;
      if (distance < least) [least, best] = [distance, point];
    }
    return best;
  };
  node.addEventListener('pointermove', (event) => {
    const found = nearest(event);
    node.style.cursor = found ? 'pointer' : '';
    ring.setAttribute('visibility', found ? 'visible' : 'hidden');
    if (!found) return hideTip();
    ring.setAttribute('cx', found.x);
    ring.setAttribute('cy', found.y);
    if (event.pointerType === 'mouse') showTip(event, describe(found));
  });
  node.addEventListener('pointerleave', () => { ring.setAttribute('visibility', 'hidden'); hideTip(); });
  node.addEventListener('click', (event) => {
    const found = nearest(event);
    if (found) { hideTip(); open(found); }
  });
}

function showTip(event, content) {
  const tip = $('tip');
  tip.replaceChildren(...content);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${clamp(event.clientY + 14, 4, innerHeight - height - 4)}px`;
}

function hideTip() {
  $('tip').hidden = true;
}
