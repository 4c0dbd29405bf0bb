// Every model that any region speaks of: its revision, and where its bytes are in each region.

import { ask } from './wire.js';
import { Rows, h, mark, say, toast } from './dom.js';
import { ago, bytes, ms, plural } from './words.js';

const MOST = 200; // rows drawn; the filter finds the others

export class Models {
  constructor(store) {
    this.store = store;
    this.filter = h('input', { type: 'search', placeholder: 'Filter models …', 'aria-label': 'Filter the models', oninput: () => this.renew() });
    const head = h('thead', {}, h('tr', {}, ['model', 'revision', 'kind'].map((each) => h('th', { scope: 'col', class: 'left' }, each)),
      h('th', { scope: 'col' }, 'size'), h('th', { scope: 'col' }, 'pushed'), h('th', { scope: 'col', class: 'left' }, 'regions')));
    const table = h('table', { class: 'models' }, head);
    this.rows = new Rows(table, (item) => modelRow(item, this), head);
    this.count = h('p', { class: 'soft', role: 'status' });
    this.none = h('p', { class: 'soft none' }, 'No model yet: ', h('code', {}, 'nearfield push ./my-model acme/my-model'));
    this.element = h('div', {},
      h('h1', { tabindex: -1 }, 'Models'),
      h('section', { class: 'card' },
        h('div', { class: 'head' }, this.filter, h('ul', { class: 'legend' }, [['origin', 'at home only'], ['region', 'in the region’s store'], ['host', 'in a host’s memory'], ['resident', 'in a live process']].map(([name, words]) => h('li', {}, h('span', { class: `tier ${name}` }, name), ` ${words}`)))),
        h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': 'Models' }, table), this.none, this.count));
  }

  renew() {
    const wanted = this.filter.value.trim().toLowerCase();
    const names = [...this.store.models.keys()].filter((name) => name.toLowerCase().includes(wanted)).sort();
    this.rows.show(names.slice(0, MOST).map((name) => ({ name, where: this.store.models.get(name), now: this.store.now() })), (each) => each.name);
    const shown = names.length > MOST ? `${MOST} of ${plural(names.length, 'model')}; filter to see others.` : `${names.length} of ${plural(this.store.models.size, 'model')}.`;
    mark(this.none, 'hidden', this.store.models.size ? '' : null);
    say(this.count, this.store.models.size ? shown : '');
  }

  async order(region, what, model, body) {
    try {
      await ask('POST', `api/nearfield/regions/${region}/${what}`, { model, ...body });
      toast(what === 'prewarm' ? `${region} wakes ${model}.` : `${region} has let go of ${model}.`);
    } catch (error) {
      toast(error.message, 'bad');
    }
  }
}

function modelRow(item, models) {
  const chips = h('ul', { class: 'chips' });
  const inside = new Rows(chips, (each) => chip(each));
  const open = h('button', { type: 'button', class: 'link name', 'aria-expanded': 'false' }, item.name);
  const cells = ['left', 'left', '', ''].map((name) => h('td', { class: name }));
  const body = h('tbody', {});
  const places = new Rows(body, (each) => placeRow(each, item.name, models));
  const more = h('tr', { class: 'more', hidden: true }, h('td', { colspan: 6 }, h('div', { class: 'details' }, h('table', {},
    h('thead', {}, h('tr', {}, ['region', 'state', 'revision', 'bytes are'].map((each) => h('th', { scope: 'col', class: 'left' }, each)), ['running', 'waiting', 'slots', 'a token'].map((each) => h('th', { scope: 'col' }, each)), h('th', { scope: 'col', class: 'left' }, 'orders'))), body))));
  open.addEventListener('click', () => {
    const wasOpen = open.getAttribute('aria-expanded') === 'true';
    mark(open, 'aria-expanded', !wasOpen);
    mark(more, 'hidden', wasOpen ? '' : null);
  });
  const element = h('tbody', {}, h('tr', {}, h('th', { scope: 'row', class: 'left' }, open), cells, h('td', { class: 'left' }, chips)), more);
  return {
    element,
    renew({ where, now }) {
      const rows = [...where.entries()].sort(([a], [b]) => (a < b ? -1 : 1));
      const revisions = new Set(rows.map(([, row]) => row.revision).filter(Boolean));
      const newest = rows.map(([, row]) => row).sort((a, b) => b.pushed_s - a.pushed_s)[0];
      const revision = revisions.size > 1 ? `${revisions.size} revisions` : (newest.revision || '').slice(0, 12) || '–';
      [revision, newest.kind, bytes(newest.bytes), newest.pushed_s ? ago(now - newest.pushed_s) : '–'].forEach((text, index) => say(cells[index], text));
      inside.show(rows.map(([region, row]) => ({ region, row })), (each) => each.region);
      if (!more.hidden) places.show(rows.map(([region, row]) => ({ region, row })), (each) => each.region);
      else if (places.kept.size === 0) places.show(rows.map(([region, row]) => ({ region, row })), (each) => each.region);
    },
  };
}

const state = (row) => (row.error ? row.error.code : row.progress ? `${row.progress.phase} ${Math.round(row.progress.percent)} %` : row.state);

function chip() {
  const tier = h('span', {}), words = h('span', { class: 'about' }), meter = h('span', { class: 'meter' });
  const name = h('span', { class: 'name' });
  return {
    element: h('li', { class: 'chip' }, tier, name, words, meter),
    renew({ region, row }) {
      mark(tier, 'class', `dot ${row.tier}`);
      say(name, region);
      const is = row.state === 'live' && !row.progress && !row.error ? row.tier : state(row);
      say(words, is);
      mark(words, 'class', row.error ? 'about bad' : 'about');
      meter.style.setProperty('--part', row.progress ? `${row.progress.percent}%` : '0%');
      mark(meter, 'hidden', row.progress ? null : '');
    },
  };
}

function placeRow(item, model, models) {
  const cells = Array.from({ length: 7 }, (_, index) => h('td', { class: index < 3 ? 'left' : null }));
  const fault = h('p', { class: 'error' });
  const warm = h('button', { type: 'button', class: 'quiet', onclick: () => models.order(item.region, 'prewarm', model) }, 'Warm');
  const cool = h('button', { type: 'button', class: 'quiet', onclick: () => models.order(item.region, 'cool', model, { to: 'region' }) }, 'Cool');
  mark(warm, 'aria-label', `Warm ${model} in ${item.region}`);
  mark(cool, 'aria-label', `Cool ${model} in ${item.region}`);
  return {
    element: h('tr', {}, h('th', { scope: 'row', class: 'left' }, item.region), cells, h('td', { class: 'left' }, warm, ' ', cool, fault)),
    renew({ row }) {
      const eta = row.progress && row.progress.eta_s !== null ? `, ${row.progress.eta_s.toFixed(1)} s left` : '';
      [state(row) + eta, row.revision.slice(0, 12) || '–', row.tier, row.running, row.waiting, row.slots, row.step_ms ? ms(row.step_ms) : '–'].forEach((text, index) => say(cells[index], `${text}`));
      say(fault, row.error ? `${row.error.message} ${row.error.next}` : row.waits_for ? `waits for ${row.waits_for}` : '');
      mark(warm, 'disabled', row.tier === 'resident' || row.state !== 'live' ? '' : null);
      mark(cool, 'disabled', !['resident', 'host'].includes(row.tier) || row.state !== 'live' ? '' : null);
    },
  };
}
