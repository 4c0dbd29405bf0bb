// What the edge has said so far, and who wants to hear of it.

const MAX_REQUESTS = 200;
const MAX_TRACE = 60;

export class Store {
  constructor() {
    this.state = null;
    this.models = new Map(); // name -> Map(region -> row)
    this.requests = []; // newest first
    this.trace = []; // answers a second, oldest first
    this.fresh = []; // requests of the last event
    this.since = new Map(); // model -> when this page first heard of it
    this.listeners = new Set();
    this.pending = false;
    this.skew = 0; // this clock less the edge's, in seconds
  }

  heard(name, value) {
    if (name === 'begin') this.begin();
    else if (name === 'state') this.takeState(value);
    else if (name === 'models') this.takeModels(value);
    else if (name === 'requests') this.takeRequests(value);
    this.tell();
  }

  // A new stream tells everything anew: what is no more by then must not stay.
  begin() {
    this.models = new Map();
    this.requests = [];
  }

  takeState(state) {
    this.state = state;
    this.skew = Date.now() / 1000 - state.at;
    this.trace.push(this.everywhere('answers_per_s'));
    if (this.trace.length > MAX_TRACE) this.trace.shift();
  }

  takeModels(regions) {
    for (const [region, rows] of Object.entries(regions)) {
      for (const [name, row] of Object.entries(rows)) {
        const where = this.models.get(name) || new Map();
        if (row === null) where.delete(region);
        else where.set(region, row);
        if (where.size) this.models.set(name, where);
        else this.models.delete(name);
      }
    }
  }

  takeRequests(requests) {
    this.fresh = requests;
    this.requests = [...requests.slice().reverse(), ...this.requests].slice(0, MAX_REQUESTS);
  }

  total(name) {
    if (!this.state) return 0;
    return Object.values(this.state.regions).reduce((sum, each) => sum + each[name], 0);
  }

  // Over all edges that are heard of.
  everywhere(name) {
    if (!this.state) return 0;
    const others = Object.values(this.state.edges).filter((edge) => heard(edge) !== 'down');
    return others.reduce((sum, edge) => sum + Object.values(edge.regions).reduce((part, each) => part + each[name], 0), this.total(name));
  }

  now() {
    return Date.now() / 1000 - this.skew;
  }

  // Once a frame at most, whatever comes.
  tell() {
    if (this.pending) return;
    this.pending = true;
    const run = () => {
      if (!this.pending) return;
      this.pending = false;
      for (const each of this.listeners) each();
      this.fresh = [];
    };
    requestAnimationFrame(run);
    setTimeout(run, 250); // a hidden page has no frames
  }
}

// Another edge in one word: it speaks every two seconds.
export function heard(edge) {
  if (edge.heard_s === null || edge.heard_s > 8) return 'down';
  return edge.heard_s > 5 ? 'doubted' : 'up';
}

// A region in one word, worst first.
export function standing(region) {
  if (region.down || region.heard_s === null || region.heard_s > 15) return 'down';
  if (region.breaker !== 'closed' || region.heard_s > 3) return 'doubted';
  return region.draining ? 'draining' : 'up';
}
