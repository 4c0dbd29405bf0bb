// Asking this edge, and its stream. The session has two halves: a cookie that no script reads, and this token.

const TOKEN = 'nearfield-console';
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10000;
const SILENT_MS = 8000; // the stream speaks each second

export class Problem extends Error {
  constructor(status, body) {
    super((body && body.error && body.error.message) || `The edge answers ${status}.`);
    this.status = status;
  }
}

export const hasToken = () => localStorage.getItem(TOKEN) !== null;
export const keepToken = (token) => localStorage.setItem(TOKEN, token);
export const forgetToken = () => localStorage.removeItem(TOKEN);

export async function ask(method, path, body, extra) {
  const headers = { 'x-nearfield-console': localStorage.getItem(TOKEN) || '', ...((extra && extra.headers) || {}) };
  if (body !== undefined) headers['content-type'] = 'application/json';
  const answer = await fetch(path, {
    method, headers, credentials: 'same-origin', cache: 'no-store', redirect: 'error',
    body: body === undefined ? undefined : JSON.stringify(body), signal: extra && extra.signal,
  });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  if (answer.status === 401) dispatchEvent(new Event('logged-out'));
  throw new Problem(answer.status, said);
}

export const askJson = async (method, path, body) => (await ask(method, path, body)).json();

// Events of a stream that is read by fetch: each {name, data}, or {comment}.
export async function* events(answer, heard) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    if (heard) heard();
    rest += value;
    const blocks = rest.split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) yield* eventsOf(block);
  }
}

function* eventsOf(block) {
  let name = 'message';
  const data = [];
  for (const line of block.split('\n')) {
    if (line.startsWith(':')) yield { comment: line.slice(1).trim() };
    else if (line.startsWith('event:')) name = line.slice(6).trim();
    else if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''));
  }
  if (data.length) yield { name, data: data.join('\n') };
}

// The console's own stream, asked for again whenever it breaks, until `close` or the session ends.
export class Live {
  constructor(heard, became) {
    this.heard = heard; // (name, value)
    this.became = became; // 'live' | 'connecting' | 'lost'
    this.closed = false;
    this.run();
  }

  close() {
    this.closed = true;
    if (this.abort) this.abort.abort();
  }

  async run() {
    let pause = FIRST_PAUSE_MS;
    this.became('connecting');
    while (!this.closed) {
      try {
        if (await this.read(() => { pause = FIRST_PAUSE_MS; })) return;
      } catch (error) {
        if (error instanceof Problem && error.status === 401) return;
      }
      if (this.closed) return;
      this.became('lost');
      await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random() / 2)));
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
  }

  // True: the session is over.
  async read(good) {
    this.abort = new AbortController();
    let timer = 0;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.abort.abort(), SILENT_MS);
    };
    alive();
    try {
      const answer = await ask('GET', 'events', undefined, { signal: this.abort.signal });
      this.heard('begin', null);
      for await (const event of events(answer, alive)) {
        if (event.name === 'bye') {
          dispatchEvent(new Event('logged-out'));
          return true;
        }
        if (event.comment !== undefined) continue;
        this.heard(event.name, JSON.parse(event.data));
        this.became('live');
        good();
      }
      return false;
    } finally {
      clearTimeout(timer);
    }
  }
}
