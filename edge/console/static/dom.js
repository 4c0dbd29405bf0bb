// Elements made of names and values. Data becomes text nodes and attributes, never markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.flat(Infinity).filter((each) => each !== undefined && each !== null && each !== false));
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

// Text that changes each second: a node that says the same already is left alone, for screen readers and the selection.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function mark(element, name, value) {
  if (value === undefined || value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// Rows by key, each made once and renewed by its own function: focus, selection and scroll stay where they are.
export class Rows {
  constructor(parent, make, head) {
    this.parent = parent;
    this.make = make;
    this.head = head; // what stays before the rows
    this.kept = new Map();
  }

  show(items, keyOf) {
    const wanted = new Set();
    let next = this.head ? this.head.nextElementSibling : this.parent.firstElementChild;
    for (const item of items) {
      const key = keyOf(item);
      wanted.add(key);
      let row = this.kept.get(key);
      if (row === undefined) this.kept.set(key, (row = this.make(item)));
      row.renew(item);
      if (row.element === next) next = next.nextElementSibling;
      else this.parent.insertBefore(row.element, next);
    }
    for (const [key, row] of this.kept) {
      if (wanted.has(key)) continue;
      row.element.remove();
      this.kept.delete(key);
    }
  }
}

export function toast(text, kind) {
  const element = h('p', { class: `toast ${kind || ''}` }, text);
  byId('toasts').append(element);
  setTimeout(() => element.remove(), 6000);
}

// Ask before something that cannot be taken back; resolves to whether it was confirmed.
export function confirm(title, text, verb) {
  return new Promise((resolve) => {
    const dialog = h('dialog', { 'aria-labelledby': 'dialog-title' },
      h('h2', { id: 'dialog-title' }, title), h('p', {}, text),
      h('form', { method: 'dialog', class: 'actions' },
        h('button', { value: 'no', class: 'quiet' }, 'Cancel'), h('button', { value: 'yes', class: 'danger' }, verb)));
    dialog.addEventListener('close', () => {
      resolve(dialog.returnValue === 'yes');
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
