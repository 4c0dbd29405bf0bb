// The fleet's edges as a table: this one, and what the others last said of themselves by way of the regions.

import { Rows, h, mark, say } from './dom.js';
import { heard } from './store.js';
import { ms, perSecond } from './words.js';

const COLUMNS = ['heard', 'under way', 'answers/s', 'failing/s', 'processes', 'nearest region'];

export class EdgeTable {
  constructor(store) {
    this.store = store;
    this.body = h('tbody', {});
    this.rows = new Rows(this.body, (item) => edgeRow(item));
    this.element = h('section', { class: 'card', hidden: true },
      h('div', { class: 'head' }, h('h2', {}, 'Edges')),
      h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': 'Edges' }, h('table', {},
        h('thead', {}, h('tr', {}, ['edge', 'state'].map((each) => h('th', { scope: 'col', class: 'left' }, each)),
          COLUMNS.map((each) => h('th', { scope: 'col' }, each)))),
        this.body)),
      h('p', { class: 'soft' }, 'Edges tell each other by way of the regions, every two seconds: one that is silent is down, or reaches no region that this one reaches.'));
  }

  renew() {
    const state = this.store.state;
    const others = Object.entries(state.edges).sort(([a], [b]) => (a < b ? -1 : 1));
    mark(this.element, 'hidden', others.length ? null : '');
    const own = { regions: state.regions, processes: state.processes, failed_per_s: state.failed_per_s, own: true };
    this.rows.show([[state.edge, own], ...others].map(([name, each]) => ({ name, each })), (item) => item.name);
  }
}

export function carried(edge, name) {
  return Object.values(edge.regions).reduce((sum, each) => sum + each[name], 0);
}

// The region that an edge has the shortest way to, with that way; null: it reaches none.
export function nearest(edge) {
  const near = Object.entries(edge.regions).filter(([, each]) => !each.down && each.rtt_ms !== null);
  return near.sort(([, a], [, b]) => a.rtt_ms - b.rtt_ms)[0] || null;
}

function edgeRow({ name, each: first }) {
  const cells = Array.from({ length: 1 + COLUMNS.length }, (_, index) => h('td', { class: index === 0 ? 'left' : null }));
  return {
    element: h('tr', {}, h('th', { scope: 'row', class: 'left' }, name, first.own && h('span', { class: 'badge' }, 'this one')), cells),
    renew({ each }) {
      const how = each.own ? 'up' : heard(each), near = nearest(each), live = how !== 'down';
      mark(cells[0], 'class', `left state ${how}`);
      [how, each.own ? '–' : each.heard_s === null ? 'never' : `${each.heard_s.toFixed(1)} s`,
        live ? carried(each, 'busy') : '–', live ? perSecond(carried(each, 'answers_per_s')) : '–', live ? perSecond(each.failed_per_s) : '–',
        each.processes || '–', live && near ? `${near[0]}, ${ms(near[1].rtt_ms)}` : '–',
      ].forEach((value, index) => say(cells[index], `${value}`));
    },
  };
}
