// Elements, and tables whose rows are changed in place: focus, selection and scrolling survive every update.

import { duration, moment, tone, word } from "./format.js";

/** An element with attributes (`on…` are listeners) and children. Texts are only ever texts, never markup. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function setText(element, text) {
  const wanted = text ?? "";
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function setAttribute(element, name, value) {
  if (value == null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// Widgets: each makes an element once and then only changes it. `update(row)` gets the newest data.

/** Text; `title` is the long form. */
export function text(read, title) {
  return () => {
    const element = h("span");
    return {
      element,
      update(row) {
        setText(element, read(row));
        if (title) setAttribute(element, "title", title(row));
      },
    };
  };
}

/** A status as a coloured dot and a word. */
export function status(read) {
  return () => {
    const element = h("span", { class: "status" });
    return {
      element,
      update(row) {
        const value = read(row);
        setAttribute(element, "class", value ? `status ${tone(value)}` : "");
        setText(element, value ? word(value) : "");
      },
    };
  };
}

/** A link where there is an address, else text. */
export function link(read, address, title) {
  return () => {
    const element = h("a");
    return {
      element,
      update(row) {
        setText(element, read(row));
        setAttribute(element, "href", address(row));
        if (title) setAttribute(element, "title", title(row));
      },
    };
  };
}

/** How long ago something was; it goes on by itself. `end` stops it. */
export function age(begin, end = () => null) {
  return () => {
    const element = h("time");
    return {
      element,
      update(row) {
        const [from, to] = [begin(row), end(row)];
        setAttribute(element, "data-since", from != null && to == null ? from : null);
        setAttribute(element, "title", from == null ? null : moment(from));
        setText(element, from == null ? "" : duration((to ?? now()) - from));
      },
    };
  };
}

/** A button that is there while `when(row)` says so. */
export function button(label, name, when, press) {
  return () => {
    let newest = null;
    const element = h("button", { type: "button", class: "quiet", onclick: () => press(newest) }, label);
    return {
      element,
      update(row) {
        newest = row;
        setAttribute(element, "aria-label", name(row));
        element.hidden = !when(row);
      },
    };
  };
}

let skew = 0;
/** The emulator's time, in seconds since 1970. */
export const now = () => Date.now() / 1000 + skew;
export const setNow = (seconds) => {
  skew = seconds - Date.now() / 1000;
};

export function tick(root) {
  for (const element of root.querySelectorAll("[data-since]")) {
    setText(element, duration(now() - Number(element.dataset.since)));
  }
}

/** A table of `columns` ({label, widget, kind}); `update(rows)` keeps a row's elements as long as its id is there. */
export class Table {
  #columns;
  #body = h("tbody", { role: "rowgroup" });
  #rows = new Map();

  constructor(caption, columns) {
    this.#columns = columns;
    const heads = columns.map(({ label, kind = "" }) => h("th", { role: "columnheader", scope: "col", class: kind }, label));
    this.element = h(
      "table",
      { role: "table" },
      h("caption", { class: "hidden" }, caption),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...heads)),
      this.#body,
    );
    this.element.addEventListener("keydown", (event) => this.#walk(event));
  }

  update(rows) {
    const focused = document.activeElement?.closest("tr");
    const place = focused && [...this.#body.rows].indexOf(focused);
    const wanted = new Set(rows.map((row) => row.id));
    for (const [id, { element }] of this.#rows) {
      if (!wanted.has(id)) {
        element.remove();
        this.#rows.delete(id);
      }
    }
    let before = this.#body.firstElementChild;
    for (const row of rows) {
      let known = this.#rows.get(row.id);
      if (!known) this.#rows.set(row.id, (known = this.#make(row.id)));
      if (known.element === before) before = before.nextElementSibling;
      else this.#body.insertBefore(known.element, before);
      for (const widget of known.widgets) widget.update(row);
    }
    if (focused && !focused.isConnected && place >= 0) {
      const next = this.#body.rows[Math.min(place, this.#body.rows.length - 1)];
      next?.querySelector("a[href], button:not([hidden])")?.focus();
    }
  }

  #make(id) {
    const widgets = this.#columns.map((column) => column.widget());
    const cells = this.#columns.map(({ label, kind = "" }, index) =>
      h("td", { role: "cell", class: kind, "data-label": label }, widgets[index].element),
    );
    return { element: h("tr", { role: "row", "data-id": id }, ...cells), widgets };
  }

  /** Up and down go to the same column's link or button in the next row that has one. */
  #walk(event) {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const cell = event.target.closest("td");
    if (!step || !cell) return;
    event.preventDefault();
    for (let row = cell.parentElement[step]; row; row = row[step]) {
      const target = row.cells[cell.cellIndex].querySelector("a[href], button:not([hidden])");
      if (target) return target.focus();
    }
  }

  focusFirst() {
    this.#body.querySelector("a[href]")?.focus();
  }
}
