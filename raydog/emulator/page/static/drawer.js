// A task's details with its live output, at the side.

import { age, h, setText, status, Table, text } from "./dom.js";
import { clock, word } from "./format.js";
import { addressOf } from "./sections.js";

const MOST_OUTPUT = 400_000; // characters kept on the page

const ERRORS = [
  { label: "Time", kind: "number", widget: text((row) => clock(Date.parse(row.time) / 1000)) },
  { label: "Error", widget: text((row) => word(row.type).replaceAll("_", " ")) },
  { label: "What", kind: "long", widget: text((row) => row.error) },
];

/** Why there is no output to see. */
function silence(task) {
  if (task.finished) return "It printed nothing, or its output went with its node.";
  return task.started ? "Nothing printed yet." : "It has not started.";
}

const FACTS = [
  ["Status", status((task) => (task.aborting ? "ABORTING" : task.status))],
  ["Group", text((task) => task.group)],
  ["Type", text((task) => task.type)],
  ["Node", text((task) => (task.node ? [task.node, task.address].filter(Boolean).join(" at ") : "none"))],
  ["Ran for", age((task) => task.started, (task) => task.finished)],
  ["Retries", text((task) => String(task.retries))],
  ["Id", text((task) => task.id)],
];

export class Drawer {
  #element;
  #does;
  #made = null;
  #id = null;
  #opener = null;

  /** `does` has `close()` and `abortTask(task)`. */
  constructor(element, does) {
    this.#element = element;
    this.#does = does;
  }

  get open() {
    return this.#id !== null;
  }

  /** Show the task with this id from now on, or none. */
  show(id) {
    if (id === this.#id) return;
    if (!this.open) this.#opener = document.activeElement;
    this.#id = id;
    this.#made = id === null ? null : this.#make();
    this.#element.replaceChildren(...(this.#made?.children ?? []));
    this.#element.hidden = id === null;
    document.body.classList.toggle("with-drawer", id !== null);
    if (id === null) {
      if (this.#opener?.isConnected) this.#opener.focus();
      this.#opener = null;
    } else this.#made.title.focus();
  }

  update(parts, line) {
    if (!this.open) return;
    const { task } = parts;
    const made = this.#made;
    if ("task" in line) {
      made.body.hidden = !task;
      setText(made.title, task ? task.name : "There is no such task");
    }
    if (task && "task" in line) {
      setText(made.cluster, task.requirement);
      made.cluster.href = addressOf("work", task.requirementId);
      for (const one of made.facts) one.update(task);
      made.errors.update(task.errors.map((error, index) => ({ id: index, ...error })));
      made.trouble.hidden = !task.errors.length;
      made.abort.hidden = task.finished !== null || task.aborting;
      made.task = task;
    }
    if (line.output) this.#print(line.output);
    else if (task && !made.output.textContent) setText(made.none, silence(task));
  }

  #print({ text: gained, restart }) {
    const { output, none } = this.#made;
    const following = output.scrollTop + output.clientHeight >= output.scrollHeight - 8;
    if (restart) output.textContent = gained.slice(-MOST_OUTPUT);
    else if (output.textContent.length + gained.length > MOST_OUTPUT) {
      output.textContent = (output.textContent + gained).slice(-MOST_OUTPUT / 2);
    } else output.append(gained);
    output.hidden = false;
    none.hidden = true;
    if (following) output.scrollTop = output.scrollHeight;
  }

  #make() {
    const made = { facts: FACTS.map(([, widget]) => widget()), errors: new Table("Errors", ERRORS), task: null };
    made.title = h("h2", { id: "drawer-title", tabindex: "-1" }, "");
    made.cluster = h("a");
    made.abort = h(
      "button",
      { type: "button", class: "danger", hidden: true, onclick: () => this.#does.abortTask(made.task) },
      "Abort task",
    );
    const close = h("button", { type: "button", class: "quiet", "aria-label": "Close the task", onclick: this.#does.close }, "Close");
    const facts = FACTS.flatMap(([name], index) => [h("dt", {}, name), h("dd", {}, made.facts[index].element)]);
    made.trouble = h("div", { hidden: true }, h("h3", {}, "Errors"), made.errors.element);
    made.output = h("pre", { tabindex: "0", "aria-label": "Output of the task", hidden: true });
    made.none = h("p", { class: "faint" }, "");
    made.body = h(
      "div",
      { class: "body", hidden: true },
      h("dl", {}, h("dt", {}, "Cluster"), h("dd", {}, made.cluster), ...facts),
      made.trouble,
      h("h3", {}, "Output"),
      made.none,
      made.output,
    );
    made.children = [h("div", { class: "title" }, made.title, made.abort, close), made.body];
    return made;
  }
}
