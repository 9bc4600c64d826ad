// Asks the daemon what runs and shows it. Everything in an answer may have been chosen by a client: it is checked to be of its kind,
// and only ever becomes text.
'use strict';

const every = 1000, kernelsEvery = 5, patience = 12000; // ms, polls, ms
const most = 500; // rows of a table
const bounds = [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5];

const number = v => typeof v === 'number' && Number.isFinite(v) ? v : 0;
const list = v => Array.isArray(v) ? v.filter(x => x !== null && typeof x === 'object') : [];
const object = v => v !== null && typeof v === 'object' && !Array.isArray(v) ? v : {};
// text shows no control characters, and none that turn the direction of writing or take no room.
const text = (v, length = 120) => {
  const s = typeof v === 'string' ? v : typeof v === 'number' ? String(v) : '';
  const clean = s.slice(0, 4 * length).replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, '\ufffd');
  return clean.length > length ? clean.slice(0, length) + '…' : clean;
};

const count = v => v >= 1e9 ? (v / 1e9).toFixed(2) + ' G' : v >= 1e6 ? (v / 1e6).toFixed(2) + ' M' : v >= 1e4 ? (v / 1e3).toFixed(1) + ' k' : v >= 100 || Number.isInteger(v) ? v.toFixed(0) : v.toFixed(1);
const duration = s => s <= 0 ? '–' : s < 1e-3 ? trim(s * 1e6) + ' µs' : s < 1 ? trim(s * 1e3) + ' ms' : trim(s) + ' s';
const trim = v => String(Number(v.toPrecision(3)));
const bytes = b => b >= 2 ** 30 ? (b / 2 ** 30).toFixed(1) + ' GiB' : b >= 2 ** 20 ? (b / 2 ** 20).toFixed(0) + ' MiB' : (b / 2 ** 10).toFixed(0) + ' KiB';
const percent = (part, whole) => whole > 0 ? (100 * part / whole).toFixed(1) + ' %' : '–';

function element(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children); // strings become text nodes
  return e;
}
const cell = (content, kind = 'text') => element('td', { class: kind }, ...(kind.startsWith('text') ? [element('bdi', {}, content)] : [content]));

function fill(id, rows, columns, none) {
  const body = document.querySelector('#' + id + ' tbody');
  const shown = rows.slice(0, most);
  if (rows.length > most) shown.push(element('tr', {}, element('td', { colspan: columns, class: 'weak' }, `and ${rows.length - most} more: heddle ps`)));
  if (rows.length === 0) shown.push(element('tr', {}, element('td', { colspan: columns, class: 'weak' }, none)));
  body.replaceChildren(...shown);
}

// p99 of a histogram, as an upper estimate: the bound below which 99 % lie. above tells that it lies above the last.
function p99(counts) {
  const total = counts.reduce((a, b) => a + b, 0);
  if (total === 0) return '–';
  let seen = 0;
  for (let i = 0; i < counts.length; i++) {
    seen += counts[i];
    if (seen >= 0.99 * total) return i < bounds.length ? '≤ ' + duration(bounds[i]) : '> ' + duration(bounds[bounds.length - 1]);
  }
  return '–';
}
const counts = h => (Array.isArray(object(h).counts) ? h.counts : []).slice(0, bounds.length + 1).map(number);

let before = null; // the poll before: {at, executors, clients} by key
const history = new Map(); // words per second, by executor

// since gives what a counter grew by; a counter that went back belongs to another executor and gives 0.
const since = (now, then) => then === undefined ? 0 : Math.max(0, now - then);

function show(status) {
  const at = performance.now(), past = before ? (at - before.at) / 1000 : 0;
  const rate = (now, then) => past > 0 ? since(now, then) / past : 0;
  const now = { at, executors: new Map(), classes: new Map(), clients: new Map() };
  const executors = list(status.executors), clients = list(status.clients);
  const started = Date.parse(status.since);
  document.getElementById('daemon').textContent = `version ${text(status.version, 40)}, process ${number(status.pid)}` +
    (started ? `, up ${Math.max(0, Math.round((Date.now() - started) / 1000))} s` : '') +
    `, ${clients.length} clients${status.draining === true ? ', takes no new clients' : ''}`;

  const cards = [], classRows = [], ring = new Map();
  for (const e of executors) {
    const c = object(e.counters), g = object(c.coalescing), key = `${text(e.gpu)} ${number(e.uid)} ${number(e.pid)}`;
    const words = number(g.words_alone) + number(g.words_coalesced);
    const widths = (Array.isArray(g.widths) ? g.widths : []).map(number), launches = widths.reduce((a, b) => a + b, 0);
    const k = { words, launches, kernels: (widths[0] || 0) + number(g.ops_coalesced), joined: number(g.ops_coalesced), ops: number(c.ops), busy: number(c.poller_busy_seconds) };
    now.executors.set(key, k);
    for (const s of list(c.sessions)) ring.set(number(s.client_id), number(s.ring_bytes));
    const was = (before && before.executors.get(key)) || {};
    const wordRate = rate(words, was.words), kernels = since(k.kernels, was.kernels), issued = since(launches, was.launches);
    const line = history.get(key) || [];
    if (before) line.push(wordRate);
    if (line.length > 120) line.shift();
    history.set(key, line);
    const facts = (kind, ...pairs) => element('dl', { class: kind }, ...pairs.flatMap(([name, value]) => [element('dt', {}, name), element('dd', { 'data-fact': name }, value)]));
    cards.push(element('div', { class: 'card' },
      element('h3', {}, `${text(e.gpu, 60)} · user ${number(e.uid)} · `, element('span', { class: e.state === 'live' ? 'good' : 'bad' }, text(e.state, 20))),
      facts('first', ['words/s', count(wordRate)], ['mean width', issued > 0 ? (kernels / issued).toFixed(2) : '–'], ['coalesced', percent(since(k.joined, was.joined), kernels)], ['ops/s', count(rate(k.ops, was.ops))]),
      facts('second', ['in flight', count(number(c.in_flight))], ['waiting', count(number(c.waiting))], ['poller busy', past > 0 ? percent(since(k.busy, was.busy), past) : '–'], ['starts', count(number(e.epoch))]),
      sparkline(line),
      ...(e.last_fault ? [element('p', { class: 'bad' }, element('bdi', {}, 'last fault: ' + text(e.last_fault, 300)))] : [])));

    for (const r of list(c.classes)) {
      const classKey = key + ' ' + text(r.class);
      const h = { requests: number(r.requests), attained: number(r.attained), ops: number(r.ops), joined: number(r.coalesced), gpu: number(r.gpu_seconds),
        latency: counts(r.latency), queue: counts(r.queue), stagger: number(object(r.stagger).sum) };
      now.classes.set(classKey, h);
      const w = before && before.classes.get(classKey);
      const grown = (a, b) => w ? a.map((v, i) => since(v, b[i])) : a;
      const requests = w ? since(h.requests, w.requests) : h.requests, attained = w ? since(h.attained, w.attained) : h.attained;
      const ops = since(h.ops, w ? w.ops : undefined);
      const [whole, part] = requests > 0 ? [requests, attained] : [h.requests, h.attained];
      const share = whole > 0 ? Math.min(1, part / whole) : 0;
      const met = element('td', { class: 'met' });
      if (whole > 0 && number(r.objective_seconds) > 0) {
        met.append(element('meter', { min: '0', max: '1', low: '0.95', high: '0.99', optimum: '1', value: String(share) }), ' ', percent(part, whole));
      } else {
        met.append('–');
      }
      const latency = grown(h.latency, w ? w.latency : []), queue = grown(h.queue, w ? w.queue : []);
      classRows.push(element('tr', { 'data-class': text(r.class) }, cell(text(r.class, 60)), cell(text(e.gpu, 12)), cell(count(number(r.clients)), 'n'),
        cell(count(w ? rate(h.requests, w.requests) : 0), 'n'), cell(duration(number(r.objective_seconds)), 'n'),
        cell(p99(latency.some(v => v > 0) ? latency : h.latency), 'n'), met,
        cell(p99(queue.some(v => v > 0) ? queue : h.queue), 'n'), cell(ops > 0 ? duration(since(h.stagger, w.stagger) / ops) : '–', 'n'),
        cell(percent(since(h.joined, w ? w.joined : undefined), ops), 'n'), cell(w && past > 0 ? percent(since(h.gpu, w.gpu), past) : '–', 'n')));
    }
  }
  for (const key of history.keys()) if (!now.executors.has(key)) history.delete(key);
  if (cards.length === 0) cards.push(element('p', { class: 'weak' }, 'none: no client is here. Start one with: heddle run -- COMMAND'));
  document.getElementById('executors').replaceChildren(...cards);
  fill('classes', classRows, 11, 'no executor has told of classes');

  const lanes = clients.map(c => {
    const id = number(c.id), ops = number(c.ops);
    now.clients.set(id, ops);
    return { c, id, rate: before && before.clients.has(id) ? rate(ops, before.clients.get(id)) : 0 };
  });
  const top = Math.max(1, ...lanes.map(l => l.rate));
  lanes.sort((a, b) => text(a.c.class).localeCompare(text(b.c.class)) || a.id - b.id);
  fill('lanes', lanes.map(({ c, id, rate }, i) => i > most ? null : element('tr', { 'data-client': String(id) },
    cell(String(id), 'n'), cell(text(c.class, 60)), cell(text(c.label, 64)), cell(text(c.exe)), cell(text(c.state, 20), c.state === 'live' ? 'text' : 'text weak'),
    cell(count(rate), 'n'), element('td', {}, element('progress', { max: String(top), value: String(rate) })),
    cell(count(number(c.in_flight)), 'n'), cell(bytes(ring.get(id) || 0), 'n'), cell(bytes(number(c.device_bytes)), 'n'),
    c.error ? cell(`error ${number(c.error)}: ${text(c.error_reason, 200)}`, 'text bad') : cell(c.refused_reason ? 'native: ' + text(c.refused_reason, 200) : '', 'text weak'))),
  11, 'no client is here');
  before = now;
}

function sparkline(values) {
  const space = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(space, 'svg');
  svg.setAttribute('viewBox', '0 0 119 32');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', 'words per second of the last two minutes');
  const line = document.createElementNS(space, 'polyline'), top = Math.max(1, ...values);
  line.setAttribute('points', values.map((v, i) => `${119 - (values.length - 1 - i)},${(31 - 30 * v / top).toFixed(1)}`).join(' '));
  svg.append(line);
  return svg;
}

function showKernels(all) {
  const rows = [];
  for (const e of list(all)) for (const r of list(e.kernels)) if (number(r.launches) > 0) rows.push({ gpu: e.gpu, r });
  rows.sort((a, b) => number(b.r.launches) - number(a.r.launches));
  fill('kernels', rows.map(({ gpu, r }, i) => i > most ? null : element('tr', {},
    cell(text(r.name, 160)), cell(text(gpu, 12)), cell(count(number(r.launches)), 'n'), cell(percent(number(r.coalesced), number(r.launches)), 'n'),
    cell(number(r.mean_width) > 0 ? number(r.mean_width).toFixed(1) : '–', 'n'), cell(duration(number(r.alone_ns) / 1e9), 'n'),
    cell((Array.isArray(r.forms) ? r.forms : []).slice(0, 8).map(f => text(f, 40)).join(', ')), cell(why(r)))), 8, 'no kernel was launched');
}

// why gives the reason for having no form, or the reasons that mostly kept launches apart.
function why(r) {
  if (r.why) return text(r.why, 300);
  return Object.entries(object(r.apart)).map(([code, n]) => [text(code, 40), number(n)]).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([code, n]) => `${code} (${count(n)})`).join(', ');
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(patience), cache: 'no-store' });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

let polls = 0, quiet = 0;
async function poll() {
  const trouble = document.getElementById('trouble');
  try {
    if (!document.hidden || polls === 0) {
      show(object(await ask('v1/status')));
      if (polls % kernelsEvery === 0) showKernels(await ask('v1/kernels'));
      polls++;
    }
    quiet = 0;
    trouble.hidden = true;
  } catch (err) {
    quiet = quiet || Date.now();
    trouble.textContent = `the daemon has not answered for ${Math.round((Date.now() - quiet) / 1000)} s (${text(err.message)}); what follows is old`;
    trouble.hidden = false;
  }
  document.documentElement.dataset.polls = String(polls);
  document.documentElement.dataset.trouble = String(quiet > 0);
  setTimeout(poll, every);
}
poll();
