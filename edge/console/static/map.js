// The map: this edge in the middle, each region as far from it as its round trip is long (measured, on a log scale), the
// fleet's other edges each beside the region that is nearest to it.

import { h, s, say, mark } from './dom.js';
import { carried, nearest } from './edges.js';
import { heard, standing } from './store.js';
import { bytes, ms, perSecond, plural, rate } from './words.js';

const WIDTH = 760, HEIGHT = 430, X = WIDTH / 2, Y = HEIGHT / 2, NARROW = 400, LABEL = 32; // half of what stands below a region
const RINGS = [1, 10, 100];
const isNarrow = matchMedia('(max-width: 760px)');
const stretch = () => (isNarrow.matches ? 0.9 : 1.62); // wider than high, as most screens are
const room = () => (isNarrow.matches ? NARROW / 2 - LABEL : WIDTH / 2 - 66);
const radius = (rtt) => 82 + 34 * Math.log10(1 + Math.max(rtt, 0.05) * 4);
const NODE = 9;

export class PlatformMap {
  constructor(store) {
    this.store = store;
    this.nodes = new Map();
    this.edges = new Map();
    this.links = s('g', {});
    this.marks = s('g', {});
    this.rings = s('g', { class: 'rings' });
    this.element = h('figure', { class: 'map' },
      s('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-labelledby': 'map-title map-words' },
        s('title', { id: 'map-title' }, 'Regions by their distance from this edge, and the other edges'),
        s('desc', { id: 'map-words' }),
        this.rings, this.links, this.marks, this.edge()),
      h('figcaption', {},
        key('requests', 'requests'), key('bytes', 'weights from home'), key('loading', 'weights into memory'),
        h('span', { class: 'soft' }, 'distance: measured round trip')));
    this.words = this.element.querySelector('desc');
    this.fit();
    isNarrow.addEventListener('change', () => {
      this.fit();
      if (store.state) this.renew();
    });
  }

  fit() {
    this.rings.replaceChildren(...RINGS.flatMap((rtt) => ring(rtt)));
    const width = isNarrow.matches ? NARROW : WIDTH;
    mark(this.element.querySelector('svg'), 'viewBox', `${(WIDTH - width) / 2} 0 ${width} ${HEIGHT}`);
  }

  edge() {
    this.edgeName = s('text', { y: -20, 'text-anchor': 'middle', class: 'name' });
    this.edgeFacts = s('text', { y: 29, 'text-anchor': 'middle', class: 'facts' });
    return s('g', { transform: `translate(${X} ${Y})`, class: 'edge' },
      s('rect', { x: -12, y: -12, width: 24, height: 24, rx: 7 }), s('circle', { r: 3.5 }), this.edgeName, this.edgeFacts);
  }

  renew() {
    const state = this.store.state;
    say(this.edgeName, state.edge);
    say(this.edgeFacts, `${perSecond(this.store.total('answers_per_s'))} answers/s`);
    const names = Object.keys(state.regions).sort();
    const homeFirst = names.map((name, index) => [name, index]).sort(([a], [b]) => (b === state.home) - (a === state.home)); // others' lines begin there
    for (const [name, index] of homeFirst) this.place(name, state.regions[name], index, names.length, state.home);
    for (const [name, node] of this.nodes) if (!(name in state.regions)) this.drop(name, node, this.nodes);
    this.placeEdges(state);
    const edges = Object.entries(state.edges).map(([name, edge]) => toldOf(name, edge));
    say(this.words, [...names.map((name) => told(name, state.regions[name])), ...edges].join('. '));
    for (const each of this.store.fresh) if (each.region) this.pulse(each.region);
  }

  place(name, region, index, count, home) {
    const node = this.nodes.get(name) || this.make(name, name === home);
    const far = radius(region.rtt_ms === null ? 400 : region.rtt_ms);
    const angle = -Math.PI / 2 + ((index + 0.5) * 2 * Math.PI) / count + (count === 1 ? Math.PI / 2 : 0);
    const x = X + Math.cos(angle) * Math.min(far * stretch(), room());
    const y = Y + Math.sin(angle) * Math.min(far, HEIGHT / 2 - 46);
    node.at = [x, y];
    mark(node.element, 'transform', `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    mark(node.element, 'class', `region ${standing(region)}`);
    say(node.facts, standing(region) === 'down' ? 'out of reach' : ms(region.rtt_ms));
    say(node.load, loads(region));
    this.flow(node.requests, `M${X} ${Y}L${x} ${y}`, region.busy + region.answers_per_s, `requests ${standing(region)}`);
    mark(node.ring, 'class', region.loading_bytes_per_s && standing(region) !== 'down' ? 'ring loading' : 'ring');
    const from = this.nodes.get(home);
    if (node.fromHome && from && from.at) {
      const path = `M${from.at[0]} ${from.at[1]}Q${(from.at[0] + x) / 2} ${(from.at[1] + y) / 2 - 110} ${x} ${y}`;
      this.flow(node.fromHome, path, region.from_home_bytes_per_s && standing(region) !== 'down' ? 4 : 0, 'bytes');
    }
  }

  placeEdges(state) {
    const beside = new Map(); // how many stand by a region already
    for (const name of Object.keys(state.edges).sort()) {
      const edge = state.edges[name], near = nearest(edge);
      const by = near && this.nodes.has(near[0]) ? near[0] : '';
      const count = beside.get(by) || 0;
      beside.set(by, count + 1);
      this.placeEdge(name, edge, by ? this.besides(by, count) : [X + (count - (Object.keys(state.edges).length - 1) / 2) * 110, HEIGHT - 34]);
    }
    for (const [name, node] of this.edges) if (!(name in state.edges)) this.drop(name, node, this.edges);
  }

  // Off the way from the middle to that region, on both sides in turn; behind it, or before it where that is the border.
  besides(region, count) {
    const [x, y] = this.nodes.get(region).at;
    const dx = (x - X) / stretch(), dy = y - Y, part = Math.hypot(dx, dy) > 120 ? 0.62 : 1.75;
    const turn = (count % 2 ? -1 : 1) * (0.36 + 0.36 * Math.floor(count / 2));
    return [X + (dx * Math.cos(turn) - dy * Math.sin(turn)) * stretch() * part, Y + (dx * Math.sin(turn) + dy * Math.cos(turn)) * part];
  }

  placeEdge(name, edge, [x, y]) {
    const how = heard(edge);
    const node = this.edges.get(name) || this.makeEdge(name);
    mark(node.element, 'transform', `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    mark(node.element, 'class', `edge other ${how}`);
    say(node.facts, edge.heard_s === null ? 'not heard of' : how === 'down' ? `silent for ${edge.heard_s.toFixed(0)} s` : `${perSecond(carried(edge, 'answers_per_s'))} answers/s`);
    for (const [region, way] of Object.entries(edge.regions)) {
      const at = this.nodes.get(region) && this.nodes.get(region).at;
      if (!at) continue;
      if (!node.lines.has(region)) node.lines.set(region, this.links.appendChild(s('path', {})));
      const amount = how === 'down' ? 0 : way.busy + way.answers_per_s;
      this.flow(node.lines.get(region), `M${x} ${y}L${at[0]} ${at[1]}`, amount, `requests ${way.down || how === 'down' ? 'down' : 'up'} other`);
    }
  }

  makeEdge(name) {
    const node = { lines: new Map(), facts: s('text', { y: 24, 'text-anchor': 'middle', class: 'facts' }) };
    node.element = s('g', {}, s('rect', { x: -8, y: -8, width: 16, height: 16, rx: 5 }), s('circle', { r: 2.4 }),
      s('text', { y: -14, 'text-anchor': 'middle', class: 'name' }, name), node.facts);
    this.marks.append(node.element);
    this.edges.set(name, node);
    return node;
  }

  // A line whose dashes travel; the more there is, the faster, in four steps.
  flow(line, path, amount, name) {
    const step = amount <= 0 ? 0 : amount < 2 ? 1 : amount < 20 ? 2 : 3;
    mark(line, 'd', path);
    mark(line, 'class', `flow ${name} pace${step}`);
  }

  make(name, isHome) {
    const node = {
      requests: s('path', {}), fromHome: isHome ? null : s('path', {}),
      facts: s('text', { y: 30, 'text-anchor': 'middle', class: 'facts' }),
      load: s('text', { y: 43, 'text-anchor': 'middle', class: 'facts load' }),
      ring: s('circle', { class: 'ring', r: NODE + 5 }),
    };
    node.element = s('g', {}, node.ring, s('circle', { class: 'core', r: NODE }),
      isHome && s('circle', { class: 'home', r: 3.2 }),
      s('text', { y: -17, 'text-anchor': 'middle', class: 'name' }, isHome ? `${name} · home` : name), node.facts, node.load);
    this.links.append(node.requests, ...(node.fromHome ? [node.fromHome] : []));
    this.marks.append(node.element);
    this.nodes.set(name, node);
    return node;
  }

  drop(name, node, among) {
    for (const each of [node.element, node.requests, node.fromHome, ...(node.lines ? node.lines.values() : [])]) if (each) each.remove();
    among.delete(name);
  }

  pulse(name) {
    const node = this.nodes.get(name);
    if (!node || node.element.querySelectorAll('.pulse').length > 2) return;
    const circle = s('circle', { class: 'pulse', r: NODE });
    circle.addEventListener('animationend', () => circle.remove());
    setTimeout(() => circle.remove(), 1500); // no animation, no end of it
    node.element.prepend(circle);
  }
}

function ring(rtt) {
  const r = radius(rtt);
  return [s('ellipse', { cx: X, cy: Y, rx: r * stretch(), ry: r }),
    s('text', { x: X + 6, y: Y - r - 4 }, `${rtt} ms`)];
}

const key = (name, words) => h('span', { class: `key ${name}` }, words);

function loads(region) {
  if (standing(region) === 'down') return '';
  if (region.from_home_bytes_per_s) return `${rate(region.from_home_bytes_per_s)} from home`;
  if (region.loading_bytes_per_s) return `${rate(region.loading_bytes_per_s)} into memory`;
  if (region.busy) return `${region.busy} under way`;
  return region.behind_bytes ? `${bytes(region.behind_bytes)} behind` : '';
}

const toldOf = (name, edge) => `edge ${name} is ${heard(edge)}, ${perSecond(carried(edge, 'answers_per_s'))} answers a second`;
const told = (name, region) => `${name} is ${standing(region)}, ${ms(region.rtt_ms)} away, ${plural(region.busy, 'request')} under way`;
