// Where the time of one request went: each hop's own phases, one inside the other.

import { h } from './dom.js';
import { bytes, ms } from './words.js';

const INWARD = new Set(['connect', 'first_byte', 'stream']); // a hop's time in the hands of the next one
const WORDS = {
  'edge.read': 'edge reads the request', 'edge.route': 'edge chooses the region', 'edge.send': 'edge asks the region', 'edge.finish': 'edge ends the answer', 'edge.quota': 'quota',
  'edge.replay': 'asked elsewhere first', 'gateway.read': 'gateway reads the request', 'gateway.pick': 'gateway picks a host',
  'gateway.send': 'gateway asks the worker', 'gateway.finish': 'gateway ends the answer', 'node.finish': 'worker ends the answer', 'gateway.wake': 'the model wakes', 'gateway.heard': 'its end is heard', 'node.read': 'worker reads the request', 'node.template': 'chat template',
  'node.tokenize': 'tokens', 'node.queue': 'queue', 'node.weights': 'waits for its layers', 'node.prefill': 'prefill', 'node.decode': 'decode',
};
const FAMILY = { edge: 'edge', gateway: 'gateway', wake: 'wake', heard: 'wake', prefill: 'prefill', decode: 'decode', node: 'prompt', weights: 'bytes' };

// Spans that exclude each other and sum to the edge's total: [{name, ms, family}].
export function spans(request) {
  const found = [];
  request.hops.forEach((hop, index) => {
    const inner = request.hops[index + 1];
    let outside = hop.total_ms;
    for (const [name, took] of Object.entries(hop.phases)) {
      if (name.includes('.')) continue; // a part of a phase
      outside -= took;
      if (inner && INWARD.has(name)) continue;
      found.push({ name: `${hop.hop}.${name}`, ms: took, family: INWARD.has(name) ? 'network' : FAMILY[name] || FAMILY[hop.hop], words: INWARD.has(name) ? `behind the ${hop.hop} (${name.replace('_', ' ')})` : WORDS[`${hop.hop}.${name}`] });
    }
    if (inner) {
      const inward = Object.entries(hop.phases).reduce((sum, [name, took]) => sum + (INWARD.has(name) ? took : 0), 0);
      const between = hop.hop === 'edge' ? 'edge to region and back' : 'gateway to worker and back';
      if (inward > inner.total_ms) found.push({ name: `net.${inner.hop}`, ms: inward - inner.total_ms, family: 'network', words: between });
    }
    if (outside > 0.005) found.push({ name: `unattributed.${hop.hop}`, ms: outside, family: 'unattributed', words: `unattributed (${hop.hop})` });
  });
  return found.filter((each) => each.ms > 0);
}

export function bar(request) {
  const found = spans(request);
  const total = found.reduce((sum, each) => sum + each.ms, 0) || 1;
  return h('span', { class: 'bar', role: 'img', 'aria-label': found.length ? found.slice().sort((a, b) => b.ms - a.ms).slice(0, 3).map((each) => `${each.words || each.name} ${ms(each.ms)}`).join(', ') : 'no phases' },
    found.map((each) => h('span', { class: `f-${each.family}`, title: `${each.words || each.name} ${ms(each.ms)}`, style: { 'flex-grow': (each.ms / total).toFixed(5) } })));
}

export function details(request) {
  const found = spans(request);
  const total = found.reduce((sum, each) => sum + each.ms, 0) || 1;
  const starts = Object.entries(request.start_phases);
  return h('div', { class: 'details' },
    bar(request),
    h('div', { class: 'columns' },
      h('table', { class: 'phases' }, h('caption', {}, 'Phases'),
        h('tbody', {}, found.map((each) => h('tr', {}, h('th', { scope: 'row', class: 'left' }, h('span', { class: `swatch f-${each.family}` }), each.words || each.name),
          h('td', {}, ms(each.ms)), h('td', { class: 'soft' }, `${((each.ms / total) * 100).toFixed(1)} %`))),
        h('tr', { class: 'sum' }, h('th', { scope: 'row', class: 'left' }, 'at this edge'), h('td', {}, ms(request.total_ms)), h('td', {})))),
      starts.length > 0 && h('table', { class: 'phases' }, h('caption', {}, 'Its start'),
        h('tbody', {}, starts.map(([name, took]) => h('tr', {}, h('th', { scope: 'row', class: 'left' }, name), h('td', {}, ms(took)))))),
      h('dl', { class: 'facts' },
        pair('request', h('code', {}, request.id)), pair('path', request.path), pair('tenant', request.tenant), pair('key', request.key && h('code', {}, request.key)),
        pair('tokens', request.tokens), pair('bytes', Object.entries(request.bytes).filter(([, each]) => each).map(([name, each]) => `${bytes(each)} ${name}`).join(', ')),
        pair('remote', request.remote_bytes === null ? null : bytes(request.remote_bytes)),
        pair('asked before', request.replayed.join(', ')), pair('error', request.code))));
}

const pair = (name, value) => value !== null && value !== undefined && value !== '' && [h('dt', {}, name), h('dd', {}, value)];
