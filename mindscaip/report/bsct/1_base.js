// Elements, numbers for people, and the data of the page unpacked from base64.

function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const $ = (id) => document.getElementById(id);
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// Three digits; powers of ten where these say more; a dash where there is no value.
function show(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  if (!Number.isFinite(value)) return value > 0 ? '∞' : '−∞';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size < 1e-3 || size >= 1e5) {
    const [mantissa, exponent] = value.toExponential(Math.max(0, digits - 2)).split('e');
    return `${mantissa}e${Number(exponent)}`.replaceAll('-', '−');
  }
  return value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size)))).replace('-', '−');
}

function showSeconds(seconds) {
  if (!(seconds >= 0)) return '–';
  if (seconds < 99.5) return `${show(seconds, 2)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

const finite = (values) => values.filter(Number.isFinite);
const mean = (values) => (values.length ? values.reduce((sum, x) => sum + x, 0) / values.length : NaN);

// The quantile of sorted values, linear between neighbours.
function quantile(sorted, share) {
  if (!sorted.length) return NaN;
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

function unpack(text, Type) {
  const bytes = atob(text);
  const array = new Uint8Array(bytes.length);
  for (let k = 0; k < bytes.length; k++) array[k] = bytes.charCodeAt(k);
  return new Type(array.buffer);
}

const DATA = JSON.parse($('data').textContent);
const POTENTIALS = DATA.potentials;
const METRICS = DATA.metrics;
const SCANS = DATA.scans.map((scan, index) => ({ ...scan, index, key: `${scan.bond}/${scan.id}` }));
const BY_KEY = new Map(SCANS.map((scan) => [scan.key, scan.index]));
const BONDS = [...new Set(SCANS.map((scan) => scan.bond))].sort();
let value; // value(metric, potential, scan): NaN where there is no score

{
  const values = unpack(DATA.values, Float32Array);
  const curves = unpack(DATA.curves, Float32Array);
  const places = unpack(DATA.places, Uint8Array);
  const molecules = unpack(DATA.molecules, Int16Array);
  let [curve, place, atom] = [0, 0, 0];
  const take = (count) => curves.subarray(curve, (curve += count));
  const takeBytes = (count) => places.subarray(place, (place += count));
  const takeInts = (count) => molecules.subarray(atom, (atom += count));
  const coordinates = (n) => {
    const places = new Float32Array(takeInts(3 * n));
    for (let k = 0; k < places.length; k++) places[k] *= DATA.coordinate_unit;
    return places;
  };
  for (const scan of SCANS) {
    scan.length = take(scan.frames);
    scan.reference = { energy: take(scan.frames), change: take(scan.frames) };
    scan.curves = POTENTIALS.map((_, p) => {
      if (scan.worst[p] === null) return null;
      const one = { energy: take(scan.frames), change: take(scan.frames), worst: scan.worst[p] };
      if (scan.intrinsic[p] !== null) one.packed = [take(scan.frames), take(scan.frames - 1), takeBytes(scan.frames - 1), scan.intrinsic[p]];
      return one;
    });
    scan.numbers = takeInts(scan.atoms);
    scan.first = coordinates(scan.atoms);
    scan.last = coordinates(scan.atoms);
    scan.ends = takeInts(2);
    scan.bonds = takeInts(2 * takeInts(1)[0]);
  }

  const columns = new Map([...METRICS.map((metric) => metric.key), ...DATA.references].map((key, c) => [key, c]));
  value = (metric, potential, scan) =>
    columns.has(metric) ? values[(potential * columns.size + columns.get(metric)) * SCANS.length + scan] : NaN;
}

// The difference of the intrinsic metric: its values at the frames, and between two frames its extreme.
function intrinsicCurve(scan, curve) {
  if (!curve.packed) return {};
  const [frames, between, places, worstLength] = curve.packed;
  const [at, ys] = [[], []];
  for (let k = 0; k < scan.frames; k++) {
    at.push(scan.length[k]);
    ys.push(frames[k]);
    if (k + 1 === scan.frames || places[k] === 0 || places[k] === 255) continue;
    at.push(scan.length[k] + (places[k] / 255) * (scan.length[k + 1] - scan.length[k]));
    ys.push(between[k]);
  }
  return { denseLength: Float32Array.from(at), dense: Float32Array.from(ys), worstLength };
}

const metricOf = (key) => METRICS.find((metric) => metric.key === key);
const titleOf = (key) => {
  const metric = metricOf(key);
  return metric ? metric.label + (metric.unit ? ` (${metric.unit})` : '') : '';
};

// l(k) and its slope from the two force changes, with the floor of the published metric.
function logRatio(scan, curve) {
  const floored = (x) => 2 * Math.log(Math.max(x, DATA.floor));
  return Float64Array.from(curve.change, (x, k) => floored(x) - floored(scan.reference.change[k]));
}

function slopes(scan, ratio) {
  return Float64Array.from({ length: scan.frames - 1 }, (_, k) => (ratio[k + 1] - ratio[k]) / (scan.length[k + 1] - scan.length[k]));
}

// How a potential looks: colour, shape and dash each tell it apart.
const SHAPES = [
  'M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z', 'M0,-4.8L4.6,3.6H-4.6Z', 'M-3.7,-3.7H3.7V3.7H-3.7Z', 'M0,-5L5,0L0,5L-5,0Z',
  'M0,4.8L4.6,-3.6H-4.6Z', 'M-1.5,-4.6H1.5V-1.5H4.6V1.5H1.5V4.6H-1.5V1.5H-4.6V-1.5H-1.5Z',
];
const DASHES = ['', '7 3', '2.5 2.5', '9 3 2.5 3', '12 4', '5 2 2 2 2 2'];
const colour = (p) => `var(--p${p % 8})`;
const shape = (p) => SHAPES[p % SHAPES.length];
const dash = (p) => DASHES[p % DASHES.length];

function glyph(p) {
  return svg('svg', { class: 'glyph', viewBox: '-6 -6 12 12', 'aria-hidden': 'true' }, svg('path', { d: shape(p), style: `fill:${colour(p)}` }));
}
