// What is chosen, and what happens on a click, a key or another address.

const state = {
  current: -1, frame: null, zoom: null, hidden: new Set(), bonds: new Set(), query: '',
  x: DATA.axes[0], y: DATA.axes[1], xlog: true, ylog: true,
  sort: { column: POTENTIALS.length ? 'p0' : 'bond', descending: POTENTIALS.length > 0 }, summarySort: { column: null, descending: false },
  shown: SCANS.map((scan) => scan.index),
};

function matches(scan) {
  if (state.bonds.size && !state.bonds.has(scan.bond)) return false;
  if (!state.query) return true;
  const lower = state.query.toLowerCase();
  // In SMILES, c and C are different atoms.
  return [scan.key, scan.formula, scan.subset].some((text) => text.toLowerCase().includes(lower)) || [scan.smiles, scan.plain].some((text) => text && text.includes(state.query));
}

function drawOverview() {
  drawSummary();
  drawScatter();
  if (document.documentElement.dataset.ready) drawBelow();
  markPoints();
}

// What is below the first screen; drawn after that when the page opens.
function drawBelow() {
  drawBoxes();
  drawTable();
  markPoints();
  markRow();
}

function filter() {
  state.shown = SCANS.filter(matches).map((scan) => scan.index);
  sortShown();
  $('count').textContent = state.shown.length === SCANS.length ? `${SCANS.length} scans` : `${state.shown.length} of ${SCANS.length} scans`;
  drawChips();
  drawOverview();
  showPlace();
}

function drawChips() {
  $('potentials').replaceChildren(...POTENTIALS.map((potential, p) => html('button', { type: 'button', 'aria-pressed': String(!state.hidden.has(p)), title: `${potential.title}: hide or show (${p + 1})`, 'data-potential': p, onclick: () => togglePotential(p) }, glyph(p), html('span', {}, potential.label))));
  const chip = (label, count, pressed, onclick) => html('button', { type: 'button', 'aria-pressed': String(pressed), 'data-bond': label, onclick, title: `${count} scans` }, label);
  $('bonds').replaceChildren(...(BONDS.length < 2 ? [] : [
    chip('all', SCANS.length, !state.bonds.size, () => chooseBonds([])),
    ...BONDS.map((bond) => chip(bond, SCANS.filter((scan) => scan.bond === bond).length, state.bonds.has(bond), () => {
      const next = new Set(state.bonds);
      if (!next.delete(bond)) next.add(bond);
      chooseBonds(next);
    })),
  ]));
}

function chooseBonds(bonds) {
  const focused = document.activeElement?.dataset?.bond;
  state.bonds = new Set(bonds);
  filter();
  if (focused) document.querySelector(`#bonds [data-bond="${focused}"]`)?.focus();
}

function togglePotential(p) {
  const focused = document.activeElement?.closest?.('#potentials');
  if (!state.hidden.delete(p)) state.hidden.add(p);
  filter();
  drawDetail();
  if (focused) document.querySelector(`#potentials [data-potential="${p}"]`)?.focus();
}

// byUser: the address follows, and on a narrow screen the scan comes to the front.
function openScan(index, byUser = false) {
  if (state.current !== index) Object.assign(state, { current: index, zoom: null, frame: null });
  if (byUser) {
    history.replaceState(null, '', `#${encodeURI(SCANS[index].key)}`);
    document.body.classList.add('open');
  }
  stop();
  drawDetail();
  markPoints();
  markRow();
}

function closeScan() {
  document.body.classList.remove('open');
  stop();
  history.replaceState(null, '', location.pathname + location.search);
}

function move(step) {
  if (!state.shown.length) return;
  const at = state.shown.indexOf(state.current);
  const next = at < 0 ? 0 : (at + step + state.shown.length) % state.shown.length;
  openScan(state.shown[next], true);
}

let timer = null;

function stop() {
  clearInterval(timer);
  timer = null;
  $('play').textContent = '▶';
}

function play() {
  if (timer) return stop();
  $('play').textContent = '❚❚';
  let step = 1;
  timer = setInterval(() => {
    const last = SCANS[state.current].frames - 1;
    if (state.frame + step > last || state.frame + step < 0) step = -step;
    setFrame(state.frame + step);
  }, 40);
}

function readAddress() {
  let key = '';
  try { key = decodeURI(location.hash.slice(1)); } catch { return false; }
  if (!BY_KEY.has(key)) return false;
  openScan(BY_KEY.get(key), true);
  return true;
}

const THEMES = ['auto', 'light', 'dark'];
const darkSystem = matchMedia('(prefers-color-scheme: dark)');
let theme = 'auto';
try { theme = localStorage.getItem('mindscaip-theme') || 'auto'; } catch { /* a page from a file may have no storage */ }

function setTheme(next) {
  theme = THEMES.includes(next) ? next : 'auto';
  document.documentElement.dataset.theme = theme === 'auto' ? (darkSystem.matches ? 'dark' : 'light') : theme;
  $('theme').textContent = { auto: '◐', light: '☀', dark: '☾' }[theme];
  try { localStorage.setItem('mindscaip-theme', theme); } catch { /* not kept, then */ }
}

const nextTheme = () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);

function toggleZoom() {
  const curve = visible().map((p) => SCANS[state.current]?.curves[p]).find((one) => one && one.worst >= 0);
  if (state.zoom) resetZoom();
  else if (curve) zoomTo(curve);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest('input[type=search], select, dialog');
  if (event.key === 'Escape') {
    if ($('guide').open) return;
    if (document.body.classList.contains('open') && getComputedStyle($('close')).display !== 'none') closeScan();
    else { $('search').value = ''; state.query = ''; $('search').blur(); chooseBonds([]); }
    return;
  }
  if (typing) {
    if (event.key === 'Enter' && event.target === $('search') && state.shown.length) openScan(state.shown[0], true);
    return;
  }
  const slider = event.target === $('frame');
  const keys = {
    ArrowLeft: () => move(-1), k: () => move(-1), ArrowRight: () => move(1), j: () => move(1), '/': () => $('search').focus(),
    ',': () => setFrame(state.frame - 1), '.': () => setFrame(state.frame + 1), ' ': play, z: toggleZoom, t: nextTheme, '?': () => $('guide').showModal(),
  };
  if (slider && event.key.startsWith('Arrow')) return;
  if (event.key === ' ' && event.target.closest('button, summary, [tabindex], input')) return;
  if (/^[1-9]$/.test(event.key) && Number(event.key) <= POTENTIALS.length) togglePotential(Number(event.key) - 1);
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
}

function start() {
  setTheme(theme);
  darkSystem.addEventListener('change', () => setTheme(theme));
  $('lead').textContent = DATA.lead;
  $('footer').textContent = DATA.footer;
  $('definitions').replaceChildren(...METRICS.filter((metric) => metric.help).flatMap((metric) => [html('dt', {}, titleOf(metric.key)), html('dd', {}, metric.help)]));
  document.body.classList.toggle('alone', !POTENTIALS.length);
  document.body.classList.toggle('several', POTENTIALS.length > 2);
  $('summary-card').hidden = !POTENTIALS.length && !Object.keys(DATA.unreadable).length;
  $('summary-note').hidden = !POTENTIALS.length;
  for (const axis of ['x', 'y']) {
    $(axis).append(...METRICS.map((metric) => html('option', { value: metric.key }, titleOf(metric.key))));
    $(axis).value = state[axis];
    $(axis).addEventListener('change', (event) => { state[axis] = event.target.value; nameMetric(); filter(); });
    $(`${axis}log`).addEventListener('change', (event) => { state[`${axis}log`] = event.target.checked; drawScatter(); drawBoxes(); markPoints(); });
  }
  nameMetric();
  showMissing();
  $('search').addEventListener('input', (event) => { state.query = event.target.value.trim(); filter(); });
  $('previous').addEventListener('click', () => move(-1));
  $('next').addEventListener('click', () => move(1));
  $('close').addEventListener('click', closeScan);
  $('reset').addEventListener('click', resetZoom);
  $('play').addEventListener('click', play);
  $('frame').addEventListener('input', (event) => { stop(); setFrame(Number(event.target.value)); });
  $('theme').addEventListener('click', nextTheme);
  $('help').addEventListener('click', () => $('guide').showModal());
  $('guide-close').addEventListener('click', () => $('guide').close());
  addEventListener('keydown', onKey);
  addEventListener('hashchange', readAddress);
  filter();
  if (!readAddress()) openScan(state.shown[0]);
  // On a phone the height changes whenever the address bar hides: no reason to draw again.
  const extent = () => `${innerWidth} ${innerWidth > 980 ? innerHeight : 0}`;
  const measure = () => document.documentElement.style.setProperty('--bar', innerWidth > 640 ? `${$('bar').offsetHeight}px` : '0px');
  let last = extent();
  measure();
  addEventListener('resize', () => {
    if (extent() === last) return;
    last = extent();
    measure();
    drawScatter();
    drawBoxes();
    markPoints();
    drawDetail();
  });
  requestAnimationFrame(() => setTimeout(() => {
    drawBelow();
    document.documentElement.dataset.ready = 'yes';
  }));
}

function nameMetric() {
  for (const node of document.querySelectorAll('.metric')) node.textContent = titleOf(state.y);
}

function showMissing() {
  const lines = Object.entries(DATA.unreadable).map(([key, reason]) => `${key}: cannot be read (${reason})`);
  for (const potential of POTENTIALS) for (const [key, reason] of Object.entries(potential.absent)) lines.push(`${potential.label}, ${key}: ${reason}`);
  $('missing').hidden = !lines.length;
  $('missing').querySelector('summary').textContent = `${lines.length} ${lines.length === 1 ? 'result is' : 'results are'} missing`;
  $('missing').querySelector('ul').replaceChildren(...lines.map((line) => html('li', {}, line)));
}

start();
