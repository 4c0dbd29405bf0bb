// Numbers as words.

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

export function bytes(number) {
  if (!number) return '0 B';
  const power = Math.min(Math.floor(Math.log10(number) / 3), UNITS.length - 1);
  const value = number / 1000 ** power;
  return `${value >= 100 || power === 0 ? value.toFixed(0) : value.toPrecision(3)} ${UNITS[power]}`;
}

export const rate = (number) => (number ? `${bytes(number)}/s` : '–');

export function ms(value) {
  if (value === null || value === undefined) return '–';
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  if (value >= 100) return `${value.toFixed(0)} ms`;
  if (value >= 1) return `${value.toFixed(1)} ms`;
  return `${value.toFixed(2)} ms`;
}

export const perSecond = (value) => (value ? (value >= 10 ? value.toFixed(0) : value.toFixed(1)) : '0');

export function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
export const day = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
export const plural = (number, word) => `${number} ${word}${number === 1 ? '' : 's'}`;
export const TIERS = ['origin', 'region', 'host', 'resident', 'warm'];
