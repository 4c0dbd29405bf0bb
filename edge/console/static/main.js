// The console: who is logged in, which page is shown, and the stream behind all of them.

import { Live, ask, askJson, forgetToken, hasToken, keepToken } from './wire.js';
import { byId, mark, say } from './dom.js';
import { Store } from './store.js';
import { Overview } from './overview.js';
import { Models } from './models.js';
import { Requests } from './requests.js';
import { Chat } from './chat.js';
import { Keys } from './keys.js';
import { Reports } from './reports.js';

const PAGES = { overview: Overview, models: Models, requests: Requests, chat: Chat, keys: Keys, reports: Reports };
const BECAME = { live: 'live', connecting: 'connecting …', lost: 'no answer from the edge, trying again … (nearfield doctor finds why)' };

class Console {
  constructor() {
    this.store = new Store();
    this.pages = new Map();
    this.store.listeners.add(() => this.renew());
    this.live = new Live((name, value) => this.store.heard(name, value), (how) => this.became(how));
    this.turn = () => this.show(true);
    addEventListener('hashchange', this.turn);
    this.show(false);
  }

  close() {
    this.live.close();
    removeEventListener('hashchange', this.turn);
    byId('content').replaceChildren();
  }

  became(how) {
    say(byId('live'), BECAME[how]);
    mark(byId('live'), 'class', `live ${how}`);
    mark(byId('content'), 'class', how === 'live' ? 'content' : 'content stale');
  }

  show(hasMoved) {
    const wanted = location.hash.slice(1);
    if (wanted === 'content') return;
    const name = wanted in PAGES ? wanted : 'overview';
    if (!this.pages.has(name)) this.pages.set(name, new PAGES[name](this.store));
    this.page = this.pages.get(name);
    byId('content').replaceChildren(this.page.element);
    for (const link of document.querySelectorAll('.side a')) mark(link, 'aria-current', link.hash === `#${name}` ? 'page' : null);
    document.querySelector('.side [aria-current]').scrollIntoView({ block: 'nearest', inline: 'nearest' }); // of a row that is too long
    document.title = `${name[0].toUpperCase()}${name.slice(1)} · Nearfield`;
    if (this.page.shown) this.page.shown();
    this.page.renew();
    if (!hasMoved) return;
    this.page.element.querySelector('h1').focus({ preventScroll: true }); // it would be put behind the head
    scrollTo(0, 0);
  }

  renew() {
    const state = this.store.state;
    if (state) {
      say(byId('edge-name'), `edge ${state.edge}${state.processes > 1 ? ` · ${state.processes} processes` : ''}`);
      say(byId('simulated'), state.simulated_wan ? `simulated: ${state.simulated_wan}` : '');
      mark(byId('simulated'), 'hidden', state.simulated_wan ? null : '');
      mark(byId('frozen'), 'hidden', state.rows.frozen ? null : '');
    }
    this.page.renew();
  }
}

let shown = null;

function enter() {
  mark(byId('login'), 'hidden', '');
  mark(byId('app'), 'hidden', null);
  shown = new Console();
}

function leave(words) {
  if (shown) shown.close();
  shown = null;
  forgetToken();
  mark(byId('app'), 'hidden', '');
  mark(byId('login'), 'hidden', null);
  say(byId('login-error'), words || '');
  document.title = 'Log in · Nearfield';
  byId('login-key').focus();
}

async function logIn(order) {
  const { token } = await askJson('POST', 'login', order);
  keepToken(token);
  enter();
}

byId('login-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const input = byId('login-key');
  say(byId('login-error'), '');
  try {
    await logIn({ key: input.value.trim() });
  } catch (error) {
    say(byId('login-error'), error.message);
    input.select();
  } finally {
    if (shown) input.value = '';
  }
});
byId('logout').addEventListener('click', async () => {
  await ask('POST', 'logout').catch(() => null);
  leave();
});
byId('skip').addEventListener('click', (event) => {
  event.preventDefault();
  byId('content').focus();
});
addEventListener('logged-out', () => {
  if (shown) leave('The session is over; log in again.');
});

async function begin() {
  const ticket = new URLSearchParams(location.hash.slice(1)).get('ticket');
  if (ticket) {
    history.replaceState(null, '', location.pathname); // it is worth nothing once it was used
    await logIn({ ticket }).catch((error) => leave(error.message));
    return;
  }
  if (!hasToken()) return leave();
  const known = await ask('GET', 'session').then(() => true, () => false);
  if (known) enter();
  else leave();
}

begin();
