// The first page: what is up, what moves, and the last requests.

import { ask } from './wire.js';
import { Rows, confirm, h, mark, s, say, toast } from './dom.js';
import { PlatformMap } from './map.js';
import { EdgeTable } from './edges.js';
import { heard, standing } from './store.js';
import { RequestTable } from './requests.js';
import { bytes, ms, perSecond, rate } from './words.js';

const NUM_LATEST = 8;
const LEAST_TRACE = 8; // points: a line of fewer is a scratch

export class Overview {
  constructor(store) {
    this.store = store;
    this.map = new PlatformMap(store);
    this.tiles = ['regions', 'models', 'answers', 'under way', 'failing'].map((name) => tile(name));
    this.trace = s('polyline', { class: 'trace' });
    this.spark = s('svg', { viewBox: '0 0 60 20', class: 'spark', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, this.trace);
    this.tiles[2].element.append(this.spark);
    this.body = h('tbody', {});
    this.rows = new Rows(this.body, (item) => regionRow(item));
    this.edges = new EdgeTable(store);
    this.latest = new RequestTable(store, NUM_LATEST);
    this.freeze = h('button', { type: 'button', class: 'quiet', onclick: () => this.turn() }, 'Freeze the map');
    this.element = h('div', {},
      h('h1', { tabindex: -1 }, 'Overview'),
      h('dl', { class: 'tiles' }, this.tiles.map((each) => each.element)),
      h('section', { class: 'card', 'aria-label': 'Map' }, this.map.element),
      h('section', { class: 'card' },
        h('div', { class: 'head' }, h('h2', {}, 'Regions'), this.freeze),
        h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': 'Regions' }, h('table', {},
          h('thead', {}, h('tr', {}, ['region', 'state'].map((each) => h('th', { scope: 'col', class: 'left' }, each)),
            ['round trip', 'heard', 'under way', 'answers/s', 'models', 'store', 'memory', 'home', 'behind', 'estimates off'].map((each) => h('th', { scope: 'col' }, each)))),
          this.body)),
        h('p', { class: 'soft' }, 'store, memory and home: the bandwidth that starts were measured to have from there')),
      this.edges.element,
      h('section', { class: 'card' }, h('div', { class: 'head' }, h('h2', {}, 'Last requests'), h('a', { href: '#requests' }, 'All')), this.latest.element));
  }

  renew() {
    const state = this.store.state;
    if (!state) return;
    const regions = Object.entries(state.regions);
    const up = regions.filter(([, each]) => standing(each) !== 'down').length;
    this.tiles[0].say(`${up}`, `of ${regions.length} up`, up < regions.length);
    this.tiles[1].say(`${this.live()}`, `of ${this.store.models.size} live`);
    const heardOf = Object.values(state.edges).filter((edge) => heard(edge) !== 'down');
    const failed = heardOf.reduce((sum, edge) => sum + edge.failed_per_s, state.failed_per_s);
    this.tiles[2].say(perSecond(this.store.everywhere('answers_per_s')), heardOf.length ? `/s at ${1 + heardOf.length} edges` : 'a second');
    this.tiles[3].say(`${this.store.everywhere('busy')}`, 'requests');
    this.tiles[4].say(perSecond(failed), 'a second', failed > 0);
    const most = Math.max(1, ...this.store.trace);
    mark(this.spark, 'hidden', this.store.trace.length < LEAST_TRACE ? '' : null);
    mark(this.trace, 'points', this.store.trace.map((each, index) => `${60 - this.store.trace.length + index},${(19 - (each / most) * 18).toFixed(1)}`).join(' '));
    this.map.renew();
    this.rows.show(regions.map(([name, each]) => ({ name, each, home: state.home })).sort((a, b) => (a.name < b.name ? -1 : 1)), (item) => item.name);
    say(this.freeze, state.rows.frozen ? 'Thaw the map' : 'Freeze the map');
    this.edges.renew();
    this.latest.renew();
  }

  live() {
    return [...this.store.models.values()].filter((where) => [...where.values()].some((row) => row.state === 'live')).length;
  }

  async turn() {
    const { frozen } = this.store.state.rows;
    const text = 'This edge then takes no row of any region until it is thawed: it routes by what it knows now, over restarts too.';
    if (!frozen && !(await confirm('Freeze the map?', text, 'Freeze'))) return;
    try {
      await ask('POST', `api/nearfield/rows/${frozen ? 'thaw' : 'freeze'}`);
      toast(frozen ? 'The map is thawed.' : 'The map is frozen.');
    } catch (error) {
      toast(error.message, 'bad');
    }
  }
}

function tile(name) {
  const figure = h('span', { class: 'figure' }), about = h('span', { class: 'about' });
  const value = h('dd', {}, figure, ' ', about);
  return {
    element: h('div', { class: 'tile' }, h('dt', {}, name), value),
    say(number, words, isBad) {
      say(figure, number);
      say(about, words);
      mark(value, 'class', isBad ? 'bad' : null);
    },
  };
}

function regionRow({ name, home }) {
  const cells = Array.from({ length: 11 }, (_, index) => h('td', { class: index === 0 ? 'left' : null }));
  return {
    element: h('tr', {}, h('th', { scope: 'row', class: 'left' }, name, name === home && h('span', { class: 'badge' }, 'home')), cells),
    renew({ each }) {
      const how = standing(each);
      mark(cells[0], 'class', `left state ${how}`);
      [how, ms(each.rtt_ms), each.heard_s === null ? 'never' : `${each.heard_s.toFixed(1)} s`, each.busy, perSecond(each.answers_per_s), each.num_models,
        rate(each.store_bytes_per_s), rate(each.host_bytes_per_s), rate(each.origin_bytes_per_s), each.behind_bytes ? bytes(each.behind_bytes) : '–',
        each.eta_error ? `${Math.round(each.eta_error * 100)} %` : '–',
      ].forEach((value, index) => say(cells[index], `${value}`));
    },
  };
}
