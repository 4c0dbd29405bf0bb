// The last requests of this edge, newest first, and where the time of each went.

import { Rows, h, mark, say } from './dom.js';
import { bar, details } from './phases.js';
import { clock, ms } from './words.js';

const HEADS = [['time', 1], ['model', 1], ['region', 1], ['status', 1], ['start', 1], ['first token', 0], ['total', 0], ['tokens', 0], ['phases', 1]];

export class RequestTable {
  constructor(store, most) {
    this.store = store;
    this.most = most;
    const head = h('thead', {}, h('tr', {}, HEADS.map(([name, left]) => h('th', { scope: 'col', class: left ? 'left' : null }, name))));
    const table = h('table', { class: 'requests' }, head);
    this.rows = new Rows(table, (item) => requestRow(item), head);
    this.none = h('p', { class: 'soft none' }, 'No request yet: ', h('a', { href: '#chat' }, 'ask something'), ', or use any OpenAI client.');
    this.element = h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': 'Requests' }, table, this.none);
    this.matches = () => true;
  }

  renew() {
    const found = this.store.requests.filter(this.matches).slice(0, this.most);
    this.rows.show(found, (each) => each.id);
    mark(this.none, 'hidden', this.store.requests.length ? '' : null);
  }
}

function requestRow(item) {
  const good = item.status === 200 && !item.code;
  const more = h('tr', { class: 'more', hidden: true }, h('td', { colspan: HEADS.length }));
  const button = h('button', { type: 'button', class: 'link', 'aria-expanded': 'false', 'aria-label': `${clock(item.at)}, phases` }, clock(item.at));
  const row = h('tr', { class: 'request' },
    h('td', { class: 'left' }, button),
    h('td', { class: 'left name' }, item.model || '–'),
    h('td', { class: 'left' }, item.region || '–'),
    h('td', { class: `left ${good ? 'good' : 'bad'}` }, item.code && item.code !== 'client_gone' ? `${item.status} ${item.code}` : item.status === 499 || item.code ? 'client left' : `${item.status}`),
    h('td', { class: 'left' }, item.start ? h('span', { class: `tier ${item.start}` }, item.start) : '–'),
    h('td', {}, ms(item.ttft_ms)), h('td', {}, item.total_ms ? ms(item.total_ms) : '–'), h('td', {}, item.tokens === null ? '–' : `${item.tokens}`),
    h('td', { class: 'left' }, bar(item)));
  const turn = () => {
    const open = button.getAttribute('aria-expanded') !== 'true';
    mark(button, 'aria-expanded', open);
    mark(more, 'hidden', open ? null : '');
    if (open && !more.firstElementChild.firstElementChild) more.firstElementChild.append(details(item));
  };
  row.addEventListener('click', (event) => {
    if (!getSelection().toString() && event.target.tagName !== 'A') turn();
  });
  return { element: h('tbody', {}, row, more), renew() {} };
}

export class Requests {
  constructor(store) {
    this.store = store;
    this.table = new RequestTable(store, 200);
    this.isPaused = false;
    this.pause = h('button', { type: 'button', class: 'quiet', 'aria-pressed': 'false', onclick: () => this.turn() }, 'Pause');
    this.filter = h('input', { type: 'search', placeholder: 'model, region, tenant, status, id …', 'aria-label': 'Filter the requests', oninput: () => this.table.renew() });
    this.table.matches = (each) => {
      const wanted = this.filter.value.trim().toLowerCase();
      return !wanted || [each.model, each.region, each.tenant, each.key, each.status, each.start, each.id, each.code].join(' ').toLowerCase().includes(wanted);
    };
    this.element = h('div', {},
      h('h1', { tabindex: -1 }, 'Requests'),
      h('section', { class: 'card' },
        h('div', { class: 'head' }, this.filter, this.pause),
        this.table.element,
        h('p', { class: 'soft' }, 'The last requests of this edge, kept in its memory alone. No prompt, no answer and no key is in them.')));
  }

  renew() {
    if (!this.isPaused) this.table.renew();
  }

  turn() {
    this.isPaused = !this.isPaused;
    mark(this.pause, 'aria-pressed', this.isPaused);
    say(this.pause, this.isPaused ? 'Go on' : 'Pause');
    this.renew();
  }
}
