// A playground: asks like any client, through this edge, in the nearest region or a chosen one, and shows the way.

import { ask, events } from './wire.js';
import { h, mark, say } from './dom.js';
import { details } from './phases.js';
import { ms, plural } from './words.js';

export class Chat {
  constructor(store) {
    this.store = store;
    this.messages = [];
    this.model = h('select', { id: 'chat-model' });
    this.region = h('select', { id: 'chat-region' });
    this.tokens = h('input', { id: 'chat-tokens', type: 'number', min: 1, max: 4096, value: 256 });
    this.heat = h('input', { id: 'chat-heat', type: 'number', min: 0, max: 2, step: 0.1, value: 0 });
    this.text = h('textarea', { id: 'chat-text', rows: 2, placeholder: 'Ask something …', 'aria-label': 'Your message' });
    this.text.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send();
      }
    });
    this.log = h('div', { class: 'log', role: 'log', 'aria-label': 'Conversation', tabindex: 0 }, h('p', { class: 'soft none' }, 'What you ask here is asked for the admin key’s tenant, and counted as its own.'));
    this.submit = h('button', { class: 'primary', type: 'submit' }, 'Send');
    this.stop = h('button', { class: 'quiet', type: 'button', hidden: true, onclick: () => this.abort && this.abort.abort() }, 'Stop');
    this.fresh = h('button', { class: 'quiet', type: 'button', onclick: () => this.clear() }, 'New chat');
    this.element = h('div', { class: 'chat' },
      h('h1', { tabindex: -1 }, 'Chat'),
      h('div', { class: 'fields' }, field('Model', this.model), field('Region', this.region), field('Most tokens', this.tokens), field('Temperature', this.heat), this.fresh),
      this.log,
      h('form', { class: 'ask', onsubmit: (event) => { event.preventDefault(); this.send(); } }, this.text, h('div', { class: 'actions' }, this.stop, this.submit)));
  }

  renew() {
    const models = [...this.store.models].filter(([, where]) => [...where.values()].some((row) => row.kind === 'generate' && row.revision)).map(([name]) => name).sort();
    options(this.model, models.map((name) => [name, name]), 'no chat model yet');
    const regions = this.store.state ? Object.keys(this.store.state.regions).sort() : [];
    options(this.region, [['', 'soonest (as the edge chooses)'], ...regions.map((name) => [name, `${name}${this.tier(name)}`])]);
    mark(this.submit, 'disabled', models.length && !this.abort ? null : '');
  }

  tier(region) {
    const row = this.store.models.get(this.model.value) && this.store.models.get(this.model.value).get(region);
    return row ? ` · ${row.tier}` : ' · not there';
  }

  clear() {
    if (this.abort) this.abort.abort();
    this.messages = [];
    this.log.replaceChildren();
    this.text.focus();
  }

  async send() {
    const content = this.text.value.trim();
    if (!content || this.abort || !this.model.value) return;
    this.text.value = '';
    this.messages.push({ role: 'user', content });
    const none = this.log.querySelector('.none');
    if (none) none.remove();
    const turn = new Turn(content);
    this.log.append(turn.asked, turn.answered);
    this.scroll();
    this.abort = new AbortController();
    mark(this.stop, 'hidden', null);
    mark(this.log, 'aria-busy', 'true');
    try {
      await this.stream(turn);
    } catch (error) {
      turn.fail(error.name === 'AbortError' ? 'stopped' : error.message);
      if (!turn.content) this.messages.pop();
    } finally {
      this.abort = null;
      mark(this.stop, 'hidden', '');
      mark(this.log, 'aria-busy', null);
      if (turn.content) this.messages.push({ role: 'assistant', content: turn.content });
      this.renew();
      this.scroll();
      this.text.focus();
    }
  }

  async stream(turn) {
    const headers = this.region.value ? { 'x-nearfield-region': this.region.value } : {};
    const body = { model: this.model.value, messages: this.messages, stream: true, max_tokens: Number(this.tokens.value) || 256, temperature: Number(this.heat.value) || 0 };
    const answer = await ask('POST', 'chat', body, { headers, signal: this.abort.signal });
    turn.began(answer.headers);
    for await (const event of events(answer)) {
      const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
      if (event.comment !== undefined) turn.comment(event.comment);
      else if (event.data !== '[DONE]') turn.event(JSON.parse(event.data));
      if (atEnd) this.scroll();
    }
    turn.over(this.model.value);
  }

  scroll() {
    this.log.scrollTop = this.log.scrollHeight;
  }
}

// One question and its answer, with what the hops said of it.
class Turn {
  constructor(asked) {
    this.since = performance.now();
    this.content = '';
    this.numPieces = 0;
    this.hops = [];
    this.text = h('p', { class: 'text' });
    this.way = h('p', { class: 'way' }, 'on its way …');
    this.asked = h('article', { class: 'asked', 'aria-label': 'You' }, h('p', { class: 'text' }, asked));
    this.answered = h('article', { class: 'answered', 'aria-label': 'Answer' }, this.text, this.way);
  }

  began(headers) {
    this.region = headers.get('x-nearfield-region');
    this.start = headers.get('x-nearfield-start');
    this.route = headers.get('x-nearfield-route') || '';
  }

  comment(text) {
    if (!text.startsWith('nearfield ')) return;
    const said = JSON.parse(text.slice('nearfield '.length));
    if (said.hop) this.hops.unshift(said);
    else say(this.way, `the model wakes${this.region ? ` in ${this.region}` : ''}: ${said.phase} ${said.percent} %${said.eta_s === null ? '' : `, ${said.eta_s} s left`}`);
  }

  event(value) {
    if (value.error) throw new Error(value.error.message);
    const delta = value.choices && value.choices[0] && value.choices[0].delta;
    if (!delta || !delta.content) return;
    if (!this.numPieces) this.firstMs = performance.now() - this.since;
    this.numPieces += 1;
    this.content += delta.content;
    say(this.text, this.content);
    say(this.way, `${this.region || ''} · first token after ${ms(this.firstMs)}`);
  }

  over(model) {
    const edge = this.hops.find((each) => each.hop === 'edge') || {}, node = this.hops.find((each) => each.hop === 'node') || {};
    const gateway = this.hops.find((each) => each.hop === 'gateway') || {};
    const took = performance.now() - this.since;
    const tokens = node.completion_tokens || this.numPieces;
    const pace = tokens > 1 && took > this.firstMs ? `${((tokens - 1) / ((took - this.firstMs) / 1000)).toFixed(0)} tokens/s` : null;
    const start = gateway.start || node.start || this.start;
    this.way.replaceChildren(...[
      h('span', { class: `tier ${start}` }, start || '–'), ` ${edge.region || this.region || ''}`, this.firstMs !== undefined && `first token ${ms(this.firstMs)}`,
      plural(tokens, 'token'), pace, `${ms(took)} in all`].filter(Boolean).flatMap((each, index) => (index > 1 ? [' · ', each] : [each])));
    const woken = this.hops.find((each) => each.start_phases && Object.keys(each.start_phases).length) || {};
    const request = { id: edge.request_id || '', path: '/v1/chat/completions', model, tenant: '', key: '', tokens, remote_bytes: gateway.remote_bytes === undefined ? null : gateway.remote_bytes,
      bytes: woken.bytes || node.bytes || {}, start_phases: woken.start_phases || {}, replayed: edge.replayed || [], code: '', total_ms: edge.total_ms || took,
      hops: ['edge', 'gateway', 'node'].map((name) => this.hops.find((each) => each.hop === name)).filter(Boolean) };
    if (request.hops.length) this.answered.append(h('details', {}, h('summary', {}, 'Where the time went'), details(request), this.route && h('p', { class: 'soft route' }, this.route)));
  }

  fail(text) {
    say(this.way, text);
    mark(this.way, 'class', 'way error');
    mark(this.way, 'role', 'alert');
  }
}

const field = (name, input) => h('div', { class: 'field' }, h('label', { for: input.id }, name), input);

// Options that are as they were are left alone, so an open list stays open; what was chosen stays chosen.
function options(select, pairs, otherwise) {
  const wanted = pairs.length ? pairs : [['', otherwise]];
  const told = wanted.map(([, words]) => words).join('\n');
  if (select.told === told) return;
  const chosen = select.value;
  select.told = told;
  select.replaceChildren(...wanted.map(([value, words]) => h('option', { value }, words)));
  if (wanted.some(([value]) => value === chosen)) select.value = chosen;
}
