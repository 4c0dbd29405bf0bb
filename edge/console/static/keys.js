// API keys and what they may use: made, rotated and revoked by the operators' own routes.

import { ask, askJson } from './wire.js';
import { confirm, h, say, toast } from './dom.js';
import { day, plural } from './words.js';

const PATH = 'api/nearfield/keys';

export class Keys {
  constructor() {
    this.body = h('tbody', {});
    this.made = h('div', { class: 'made', role: 'status' });
    this.form = this.makeForm();
    this.count = h('p', { class: 'soft' });
    this.element = h('div', {},
      h('h1', { tabindex: -1 }, 'Keys'),
      this.made,
      h('section', { class: 'card' },
        h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': 'Keys' }, h('table', {},
          h('thead', {}, h('tr', {}, ['key', 'name', 'tenant', 'may', 'models', 'ends'].map((each) => h('th', { scope: 'col', class: 'left' }, each)),
            ['requests/min', 'tokens/min', 'at a time', 'weight'].map((each) => h('th', { scope: 'col' }, each)), h('th', { scope: 'col', class: 'left' }, 'orders'))), this.body)),
        this.count),
      h('section', { class: 'card' }, h('h2', {}, 'A new key'), this.form));
  }

  shown() {
    this.load();
  }

  renew() {}

  async load() {
    try {
      const { keys } = await askJson('GET', PATH);
      this.body.replaceChildren(...keys.map((each) => this.row(each)));
      say(this.count, `${plural(keys.length, 'key')}. A quota holds at each edge; – is no bound. The keys themselves are kept nowhere.`);
    } catch (error) {
      say(this.count, error.message);
    }
  }

  row(key) {
    const quota = key.quota || {};
    const bound = (number) => (number ? number.toLocaleString() : '–');
    return h('tr', {}, h('th', { scope: 'row', class: 'left' }, h('code', {}, key.id)),
      [key.name || '–', key.tenant, key.scopes.join(', '), key.models.join(', '), key.expires_s ? day(key.expires_s) : 'never'].map((each) => h('td', { class: 'left' }, each)),
      [bound(quota.requests_per_min), bound(quota.tokens_per_min), bound(quota.streams), quota.weight || 1].map((each) => h('td', {}, `${each}`)),
      h('td', { class: 'left' },
        h('button', { type: 'button', class: 'quiet', 'aria-label': `Rotate ${key.id}`, onclick: () => this.rotate(key) }, 'Rotate'), ' ',
        h('button', { type: 'button', class: 'quiet', 'aria-label': `Revoke ${key.id}`, onclick: () => this.revoke(key) }, 'Revoke')));
  }

  async rotate(key) {
    if (!(await confirm('Rotate this key?', `A new key grants what ${key.id} does; the old one goes on for 24 hours.`, 'Rotate'))) return;
    await this.order(async () => this.tell(await askJson('POST', `${PATH}/${key.id}/rotate`, { overlap_s: 86400 })));
  }

  async revoke(key) {
    if (!(await confirm('Revoke this key?', `Every edge refuses ${key.id} (${key.name || key.tenant}) within a second, for good.`, 'Revoke'))) return;
    await this.order(async () => {
      await ask('DELETE', `${PATH}/${key.id}`);
      toast(`${key.id} is revoked.`);
    });
  }

  async order(run) {
    try {
      await run();
    } catch (error) {
      toast(error.message, 'bad');
    }
    await this.load();
  }

  // The only time that a key is to be seen.
  tell(made) {
    const input = h('input', { id: 'made-key', readonly: true, value: made.key, spellcheck: 'false' });
    const copy = h('button', { type: 'button', class: 'primary', onclick: async () => { await navigator.clipboard.writeText(made.key); toast('Copied.'); } }, 'Copy');
    this.made.replaceChildren(h('section', { class: 'card note' },
      h('label', { for: 'made-key' }, `The new key ${made.id}, for ${made.tenant}. It is shown now and never again.`),
      h('div', { class: 'head' }, input, copy, h('button', { type: 'button', class: 'quiet', onclick: () => this.made.replaceChildren() }, 'Done'))));
    input.select();
  }

  makeForm() {
    const text = (name, label, more) => h('div', { class: 'field' }, h('label', { for: `key-${name}` }, label), h('input', { id: `key-${name}`, name, ...more }));
    const number = (name, label) => text(name, label, { type: 'number', min: 0, placeholder: 'no bound' });
    const error = h('p', { class: 'error', role: 'alert' });
    const form = h('form', { class: 'fields' },
      text('tenant', 'Tenant', { required: true }), text('name', 'Name, for people'), text('models', 'Models', { value: '*' }), text('days', 'Ends after days', { type: 'number', min: 1, placeholder: 'never' }),
      h('fieldset', { class: 'field' }, h('legend', {}, 'May'), ['infer', 'admin'].map((each) => h('label', { class: 'check' }, h('input', { type: 'checkbox', name: 'scopes', value: each, checked: each === 'infer' }), ` ${each}`))),
      number('requests_per_min', 'Requests a minute'), number('tokens_per_min', 'Tokens a minute'), number('streams', 'Requests at a time'), text('weight', 'Weight', { type: 'number', min: 1, max: 100, value: 1 }),
      h('button', { type: 'submit', class: 'primary' }, 'Make the key'), error);
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      say(error, '');
      try {
        this.tell(await askJson('POST', PATH, orderOf(new FormData(form))));
        form.reset();
        await this.load();
      } catch (problem) {
        say(error, problem.message);
      }
    });
    return form;
  }
}

function orderOf(data) {
  const number = (name) => Number(data.get(name)) || 0;
  const days = number('days');
  return {
    tenant: data.get('tenant'), name: data.get('name'), scopes: data.getAll('scopes'),
    models: data.get('models').split(',').map((each) => each.trim()).filter(Boolean),
    expires_s: days ? Math.floor(Date.now() / 1000) + days * 86400 : 0,
    quota: { requests_per_min: number('requests_per_min'), tokens_per_min: number('tokens_per_min'), streams: number('streams'), weight: number('weight') || 1 },
  };
}
