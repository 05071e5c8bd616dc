// The molecule in three dimensions (drag to turn it; it follows the frame) and its structural formula.

const ELEMENTS = {
  1: ['H', '#f4f4f4', 0.27], 6: ['C', '#5a6572', 0.4], 7: ['N', '#3c6fd8', 0.4], 8: ['O', '#d93a32', 0.4], 9: ['F', '#5fae3c', 0.38],
  14: ['Si', '#b89c72', 0.48], 15: ['P', '#dd7d16', 0.48], 16: ['S', '#d9b310', 0.48], 17: ['Cl', '#2c9e4b', 0.46],
  35: ['Br', '#98402a', 0.5], 53: ['I', '#7a3aa6', 0.54],
};
const elementOf = (number) => ELEMENTS[number] || [DATA.symbols[number] || '?', '#a8788f', 0.48];

class Molecule {
  constructor(node) {
    this.node = node;
    this.scan = null;
    let grip = null;
    node.addEventListener('pointerdown', (event) => { grip = event; node.setPointerCapture(event.pointerId); });
    node.addEventListener('pointermove', (event) => {
      if (!grip || !this.scan) return;
      this.turn((event.clientX - grip.clientX) * 0.011, (event.clientY - grip.clientY) * 0.011);
      grip = event;
      this.draw();
    });
    for (const end of ['pointerup', 'pointercancel']) node.addEventListener(end, () => { grip = null; });
  }

  open(scan) {
    if (this.scan === scan) return; // as it was turned
    this.scan = scan;
    this.axes = bestAxes(scan, this.node.clientWidth || 320, this.node.clientHeight || 130);
  }

  turn(around, over) {
    const rotate = (a, b, angle) => [
      a.map((x, c) => x * Math.cos(angle) + b[c] * Math.sin(angle)), b.map((x, c) => x * Math.cos(angle) - a[c] * Math.sin(angle)),
    ];
    let [x, y, z] = this.axes;
    [x, z] = rotate(x, z, around);
    [y, z] = rotate(y, z, over);
    this.axes = [x, y, z];
  }

  // share: 0 at the shortest and 1 at the longest bond
  draw(share = this.share) {
    this.share = share;
    const { scan, axes } = this;
    const { clientWidth: width, clientHeight: height } = this.node;
    if (!scan || !width) return;
    const along = (array, i, axis) => array[3 * i] * axis[0] + array[3 * i + 1] * axis[1] + array[3 * i + 2] * axis[2];
    // Both ends of the scan fit, so that the scale stays while the bond stretches.
    const reach = [0, 1].map((c) => {
      let most = 0.8;
      for (let i = 0; i < scan.atoms; i++) most = Math.max(most, Math.abs(along(scan.first, i, axes[c])), Math.abs(along(scan.last, i, axes[c])));
      return most + 0.45;
    });
    const scale = Math.min(width / 2 / reach[0], height / 2 / reach[1], 46);
    const atoms = [];
    let [near, far] = [-Infinity, Infinity];
    for (let i = 0; i < scan.atoms; i++) {
      const place = axes.map((axis) => along(scan.first, i, axis) * (1 - share) + along(scan.last, i, axis) * share);
      atoms.push({ i, x: width / 2 + place[0] * scale, y: height / 2 - place[1] * scale, z: place[2], kind: elementOf(scan.numbers[i]) });
      near = Math.max(near, place[2]);
      far = Math.min(far, place[2]);
    }
    // What is farther away is paler, not transparent.
    const fade = (colour, z) => `color-mix(in srgb, ${colour} ${Math.round(48 + 52 * ((z - far) / (near - far || 1)))}%, var(--soft))`;
    const parts = [];
    const thick = clamp(scale * 0.15, 1.6, 5);
    // Bonds start at the rim of an atom, so that those towards the viewer leave its letter free.
    const surface = (atom, x, y) => {
      const long = Math.hypot(x - atom.x, y - atom.y) || 1;
      const share = Math.min(0.85 * Math.max(atom.kind[2] * scale, 2.6), long) / long;
      return { x1: atom.x + share * (x - atom.x), y1: atom.y + share * (y - atom.y) };
    };
    for (let b = 0; b < scan.bonds.length; b += 2) {
      const [p, q] = [atoms[scan.bonds[b]], atoms[scan.bonds[b + 1]]];
      const [mx, my, z] = [(p.x + q.x) / 2, (p.y + q.y) / 2, (p.z + q.z) / 2];
      for (const end of [p, q]) {
        const from = surface(end, mx, my);
        parts.push([z - 0.2, svg('line', { ...from, x2: mx, y2: my, 'stroke-width': thick, 'stroke-linecap': 'round', style: `stroke:${fade(end.kind[0] === 'H' ? '#b9c2cc' : end.kind[1], z)}` })]);
      }
    }
    const [a, b] = [atoms[scan.ends[0]], atoms[scan.ends[1]]];
    const [from, to] = [surface(a, b.x, b.y), surface(b, a.x, a.y)];
    const scanned = { ...from, x2: to.x1, y2: to.y1, 'stroke-linecap': 'round' };
    parts.push([(a.z + b.z) / 2 - 0.2, svg('line', { ...scanned, class: 'scanned', 'stroke-width': thick * 1.5, 'stroke-dasharray': `${thick * 1.2} ${thick * 2.1}`, style: 'stroke:var(--mark)' })]);
    for (const atom of atoms) {
      const radius = Math.max(atom.kind[2] * scale, 2.6);
      const marked = atom.i === scan.ends[0] || atom.i === scan.ends[1];
      const ball = svg('g', {},
        svg('circle', { cx: atom.x, cy: atom.y, r: radius, style: `fill:${marked ? atom.kind[1] : fade(atom.kind[1], atom.z)};stroke:${marked ? 'var(--mark)' : fade('#3b4654', atom.z)}`, 'stroke-width': marked ? 2.2 : 0.7 }));
      if (radius > 5.5 && atom.kind[0] !== 'H' && atom.kind[0] !== 'C') {
        ball.append(svg('text', { x: atom.x, y: atom.y, dy: '0.35em', 'text-anchor': 'middle', style: `fill:#fff;font-size:${(radius * (atom.kind[0].length > 1 ? 1 : 1.25)).toFixed(1)}px;font-weight:650` }, atom.kind[0]));
      } else {
        ball.append(svg('circle', { cx: atom.x - radius * 0.3, cy: atom.y - radius * 0.34, r: radius * 0.3, fill: '#fff', opacity: 0.28 }));
      }
      parts.push([atom.z, ball]);
    }
    parts.sort((p, q) => p[0] - q[0]);
    this.node.replaceChildren(svg('svg', { viewBox: `0 0 ${width} ${height}` }, parts.map((part) => part[1])));
  }
}

// The view from which most is seen: a large picture, the bond in its plane, few atoms behind each other.
function bestAxes(scan, width, height) {
  const steps = 7;
  let best = null;
  let most = -1;
  for (let a = 0; a < steps; a++) {
    for (let b = 0; b < steps; b++) {
      for (let c = 0; c < steps; c++) {
        const axes = eulerAxes((a / steps) * Math.PI, Math.acos(1 - (2 * b + 1) / steps), (c / steps) * 2 * Math.PI);
        const score = viewScore(scan, axes, width, height);
        if (score > most) [most, best] = [score, axes];
      }
    }
  }
  return best;
}

function viewScore(scan, axes, width, height) {
  const at = (array, i, c) => array[3 * i] * axes[c][0] + array[3 * i + 1] * axes[c][1] + array[3 * i + 2] * axes[c][2];
  const reach = [0.8, 0.8];
  const places = [];
  for (let i = 0; i < scan.atoms; i++) {
    const place = [0, 1].map((c) => {
      const [p, q] = [at(scan.first, i, c), at(scan.last, i, c)];
      reach[c] = Math.max(reach[c], Math.abs(p), Math.abs(q));
      return (p + q) / 2;
    });
    places.push(place);
  }
  const scale = Math.min(width / 2 / reach[0], height / 2 / reach[1], 46);
  const [i, j] = scan.ends;
  const along = [0, 1, 2].map((c) => at(scan.last, j, c) - at(scan.last, i, c));
  const flat = Math.hypot(along[0], along[1]) / (Math.hypot(...along) || 1);
  // Atoms behind each other, and worse: in front of or behind the scanned bond.
  let hidden = 0;
  const near = (p, q, reach2) => (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 < reach2;
  const middle = [0, 1].map((c) => (places[i][c] + places[j][c]) / 2);
  places.forEach((place, p) => {
    if (p !== i && p !== j) for (const spot of [places[i], places[j], middle]) if (near(place, spot, 0.55)) hidden += 0.12 * places.length;
    if (scan.numbers[p] !== 1) for (let q = 0; q < p; q++) if (scan.numbers[q] !== 1 && near(place, places[q], 0.3)) hidden++;
  });
  return (scale * (0.35 + 0.65 * flat)) / (1 + (3 * hidden) / places.length);
}

function eulerAxes(a, b, c) {
  const [ca, sa, cb, sb, cc, sc] = [Math.cos(a), Math.sin(a), Math.cos(b), Math.sin(b), Math.cos(c), Math.sin(c)];
  return [
    [ca * cc - sa * cb * sc, -ca * sc - sa * cb * cc, sa * sb],
    [sa * cc + ca * cb * sc, -sa * sc + ca * cb * cc, -ca * sb],
    [sb * sc, sb * cc, cb],
  ];
}

function drawSketch(node, scan) {
  const { clientWidth: width, clientHeight: height } = node;
  node.replaceChildren();
  if (!scan.sketch || !width) return;
  const atoms = scan.sketch.atoms.map(([x, y, label]) => ({ x: x / 100, y: -y / 100, label, to: [] }));
  const bonds = scan.sketch.bonds;
  for (const [i, j] of bonds) { atoms[i].to.push(j); atoms[j].to.push(i); }
  const xs = atoms.map((a) => a.x);
  const ys = atoms.map((a) => a.y);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = Math.min((width - 54) / (x1 - x0 || 1), (height - 34) / (y1 - y0 || 1), 30);
  for (const atom of atoms) {
    atom.x = width / 2 + (atom.x - (x0 + x1) / 2) * scale;
    atom.y = height / 2 + (atom.y - (y0 + y1) / 2) * scale;
  }
  const size = clamp(scale * 0.5, 7, 13);
  const lines = svg('g', { 'stroke-linecap': 'round', 'stroke-width': clamp(scale * 0.055, 1, 1.7), style: 'stroke:var(--ink)' });
  const marks = svg('g');
  for (const [i, j, order, scanned] of bonds) {
    const [a, b] = [atoms[i], atoms[j]];
    const long = Math.hypot(b.x - a.x, b.y - a.y) || 1;
    const [ux, uy] = [(b.x - a.x) / long, (b.y - a.y) / long];
    const line = (off, cut) => svg('line', { x1: a.x - uy * off + ux * cut, y1: a.y + ux * off + uy * cut, x2: b.x - uy * off - ux * cut, y2: b.y + ux * off - uy * cut });
    if (scanned) marks.append(svg('line', { class: 'scanned', x1: a.x, y1: a.y, x2: b.x, y2: b.y, 'stroke-width': clamp(scale * 0.34, 5, 9), 'stroke-linecap': 'round', style: 'stroke:var(--mark)', opacity: 0.55 }));
    // The second line of a double bond stands on the side of the neighbours: inside a ring.
    let side = 0;
    for (const [end, other] of [[a, j], [b, i]]) for (const k of end.to) if (k !== other) side += Math.sign(Math.round(((atoms[k].x - end.x) * -uy + (atoms[k].y - end.y) * ux) * 8));
    const gap = scale * 0.15;
    if (order === 2 && side !== 0) lines.append(line(0, 0), line(Math.sign(side) * gap, long * 0.13));
    else if (order === 2) lines.append(line(gap / 2, 0), line(-gap / 2, 0));
    else lines.append(line(0, 0));
    if (order === 3) lines.append(line(gap, 0), line(-gap, 0));
  }
  const labels = svg('g');
  for (const atom of atoms) if (atom.label) labels.append(...atomLabel(atom, atoms, size));
  node.append(svg('svg', { viewBox: `0 0 ${width} ${height}` }, marks, lines, labels));
}

function atomLabel(atom, atoms, size) {
  const [, symbol, hydrogens = '', charge = ''] = atom.label.match(/^([A-Z][a-z]?)(H\d*)?(.*)$/);
  const side = atom.to.reduce((sum, k) => sum + atoms[k].x - atom.x, 0);
  const left = hydrogens && side > 0.1; // neighbours on the right: HO–, not OH–
  const own = size * (symbol.length > 1 ? 0.6 : 0.36);
  const text = svg('text', { x: atom.x + (left ? own : -own), y: atom.y, dy: '0.35em', 'text-anchor': left ? 'end' : 'start', style: `font-size:${size}px;font-weight:600` });
  const counted = hydrogens ? [hydrogens[0], ...(hydrogens.length > 1 ? [sub(hydrogens.slice(1), 0.24, size), sub('', -0.24, size)] : [])] : [];
  text.append(...(left ? [...counted, symbol] : [symbol, ...counted]));
  if (charge) text.append(svg('tspan', { dy: '-0.4em', style: `font-size:${size * 0.8}px` }, charge));
  const around = svg('circle', { cx: atom.x, cy: atom.y, r: size * 0.68, style: 'fill:var(--soft)' });
  return [around, text];
}

function sub(text, shift, size) {
  return svg('tspan', { dy: `${shift * size}px`, style: text ? `font-size:${size * 0.72}px` : '' }, text || '\u200b');
}
