// Reports that `nearfield report` brought here.

import { askJson } from './wire.js';
import { h, say } from './dom.js';
import { TIERS, ms } from './words.js';

export class Reports {
  constructor() {
    this.list = h('div', {});
    this.words = h('p', { class: 'soft' });
    this.element = h('div', {}, h('h1', { tabindex: -1 }, 'Reports'), this.list, this.words);
  }

  shown() {
    this.load();
  }

  renew() {}

  async load() {
    try {
      const { reports } = await askJson('GET', 'reports');
      this.list.replaceChildren(...reports.map((each) => report(each)));
      const brings = h('code', {}, 'nearfield report MODEL');
      this.words.replaceChildren(...(reports.length ? ['The last 20 are kept. ', brings, ' brings one more.'] : ['No report yet. Cold start against warm, phase by phase: ', brings]));
    } catch (error) {
      say(this.words, error.message);
    }
  }
}

function report(each) {
  const regions = [...new Set(each.rows.map((row) => row.region))];
  const starts = TIERS.filter((start) => each.rows.some((row) => row.start === start));
  const cell = (region, start) => each.rows.find((row) => row.region === region && row.start === start);
  return h('section', { class: 'card' },
    h('div', { class: 'head' }, h('h2', {}, each.model), h('a', { href: `report/${each.id}`, target: '_blank', rel: 'noopener', class: 'button' }, 'Open the report')),
    h('p', { class: 'soft' }, each.made_at.replace('T', ' ').replace('+00:00', ' UTC'), each.revision && [' · revision ', h('code', {}, each.revision.slice(0, 12))]),
    h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': `Time to first token of ${each.model}` }, h('table', {},
      h('caption', {}, 'Median time to first token'),
      h('thead', {}, h('tr', {}, h('th', { scope: 'col', class: 'left' }, 'region'), starts.map((start) => h('th', { scope: 'col' }, h('span', { class: `tier ${start}` }, start))))),
      h('tbody', {}, regions.map((region) => h('tr', {}, h('th', { scope: 'row', class: 'left' }, region),
        starts.map((start) => h('td', {}, cell(region, start) ? ms(cell(region, start).p50_ms) : '–'))))))));
}
