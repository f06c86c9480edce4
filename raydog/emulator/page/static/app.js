// The page: where it is, what it shows, what keys and buttons do. The address (after #) says what is shown:
// #/pools, #/pools/<id>, either with ?task=<id> for a task's details at the side.

import { h, setAttribute, setNow, setText, status, Table, tick } from "./dom.js";
import { Drawer } from "./drawer.js";
import { act, Live, takeToken, useKey } from "./feed.js";
import { number } from "./format.js";
import { addressOf, canEnd, columns, facts, GROUP_COLUMNS, nothing, noun, SECTIONS, summary } from "./sections.js";

const WINDOW = 100;
const TYPING = 150; // milliseconds without a key before the filter is used
const NOTICE = 8_000;
const $ = (id) => document.getElementById(id);

const page = { section: "work", id: null, task: null, table: null, groups: null, head: null, list: null, counts: null };
/** Filter, offset and "live only" of each list that has been looked at. */
const settings = new Map();

function current() {
  const key = `${page.section}/${page.id ?? ""}`;
  if (!settings.has(key)) {
    const live = page.section === "instances" || (page.section === "pools" && page.id !== null);
    settings.set(key, { filter: "", offset: 0, live });
  }
  return settings.get(key);
}

// Actions: each asks first

let asked = null;

function ask(title, explanation, yes, path, warns = false) {
  setText($("confirm-title"), title);
  setText($("confirm-text"), explanation);
  setText($("confirm-yes"), yes);
  $("confirm-warning").hidden = !warns;
  $("confirm-seconds").value = "0";
  asked = { path, warns };
  $("confirm").returnValue = "no";
  $("confirm").showModal();
}

$("confirm").addEventListener("close", async () => {
  if ($("confirm").returnValue !== "yes") return;
  try {
    await act(asked.path, asked.warns ? { warningSeconds: Number($("confirm-seconds").value) } : {});
  } catch (error) {
    notice(error.message);
  }
});

const path = (kind, id, verb) => `${kind}/${encodeURIComponent(id)}/${verb}`;
const does = {
  abortTask: (row) =>
    ask(`Abort ${row.name}?`, "Its process gets SIGTERM, and SIGKILL 10 seconds later.", "Abort", path("tasks", row.id, "abort")),
  abortWork: (row) =>
    ask(
      `Abort ${row.name}?`,
      "All its tasks are aborted or cancelled. Its pools stay until they are shut down or idle.",
      "Abort",
      path("requirements", row.id, "abort"),
    ),
  preempt: (row) =>
    ask(
      `Preempt ${row.name}?`,
      "The cloud takes the instance away. Its node is lost, and so is what runs on it.",
      "Preempt",
      path("instances", row.id, "preempt"),
      true,
    ),
  shutDown: (row) =>
    ask(
      `Shut down ${row.name}?`,
      "It takes no more tasks. Each of its nodes ends when the tasks that run there have ended.",
      "Shut down",
      path("pools", row.id, "shutdown"),
    ),
};

let noticeTimer = 0;
function notice(message) {
  clearTimeout(noticeTimer);
  setText($("notice"), message);
  $("notice").hidden = false;
  noticeTimer = setTimeout(() => ($("notice").hidden = true), NOTICE);
}

// What is shown

const drawer = new Drawer($("drawer"), { close: () => (location.hash = here()), abortTask: does.abortTask });

const live = new Live({
  onParts: show,
  onState(state) {
    setText($("connection"), state === "live" ? "Live" : "Reconnecting");
    setAttribute($("connection"), "class", `status ${state === "live" ? "good" : "bad"}`);
    document.body.classList.toggle("stale", state !== "live");
  },
  onRefused() {
    setText($("connection"), "Key needed");
    setAttribute($("connection"), "class", "status wait");
    if (!$("login").open) $("login").showModal();
  },
});

function look() {
  const { filter, offset, live: only } = current();
  live.look({ section: page.section, id: page.id, task: page.task, filter, offset, limit: WINDOW, live: only });
}

function here() {
  return page.id === null ? `#/${page.section}` : addressOf(page.section, page.id);
}

function show(parts, line) {
  setNow(line.now);
  if (line.counts) showTabs(line.counts);
  if ("head" in line) showHead(line.head);
  if ("groups" in line) showGroups(line.groups);
  if (line.list) showList(line.list);
  drawer.update(parts, line);
  tick(document);
}

const tabs = SECTIONS.map(({ name, label }, index) => {
  const [count, below] = [h("b", {}, "–"), h("small", {}, "")];
  const element = h("a", { href: `#/${name}`, "aria-keyshortcuts": index + 1 }, h("span", {}, label), count, below);
  return { name, element, count, below };
});
$("sections").append(...tabs.map((tab) => tab.element));

function showTabs(counts) {
  for (const tab of tabs) {
    const [count, below] = summary(tab.name, counts);
    setText(tab.count, number(count));
    setText(tab.below, below);
  }
  setText($("where"), `${counts.kind} instances at ${location.host}`);
}

function showHead(head) {
  if (page.id === null) return $("head").replaceChildren();
  if (!page.head) {
    const state = status((one) => one.status)();
    const back = SECTIONS.find((one) => one.name === page.section).label;
    const made = { state, name: h("h2", { tabindex: "-1" }), facts: h("p", { class: "facts" }), trouble: h("p", { class: "trouble" }) };
    const [label, end] = page.section === "work" ? ["Abort", does.abortWork] : ["Shut down", does.shutDown];
    made.end = h("button", { type: "button", class: "danger", onclick: () => end(made.head) }, label);
    const title = h("div", { class: "title" }, h("a", { href: `#/${page.section}` }, back), h("span", { "aria-hidden": "true" }, "›"));
    title.append(made.name, state.element, made.end);
    $("head").replaceChildren(title, made.facts, made.trouble);
    page.head = made;
  }
  const made = page.head;
  made.head = head;
  setText(made.name, head ? head.name : "There is no such thing any more");
  made.end.hidden = !head || !canEnd(page.section, head);
  made.state.element.hidden = !head;
  made.trouble.hidden = !head?.error;
  if (!head) return undefined;
  made.state.update(head);
  made.end.setAttribute("aria-label", `${made.end.textContent} ${head.name}`);
  setText(made.facts, facts(page.section, head).join("  ·  "));
  setText(made.trouble, head.error);
  return undefined;
}

function showGroups(groups) {
  if (!groups) return;
  if (!page.groups) {
    page.groups = new Table("Task groups", GROUP_COLUMNS);
    $("head").append(page.groups.element);
  }
  page.groups.update(groups);
}

function showList(list) {
  const one = current();
  page.list = list;
  one.offset = list.offset;
  page.table.update(list.rows);
  const last = list.offset + list.rows.length;
  const hidden = list.total - list.matched;
  const range = list.rows.length < list.matched ? `${number(list.offset + 1)}–${number(last)} of ` : "";
  const kept = hidden ? `${number(list.matched)} of ${number(list.total)}` : number(list.matched);
  setText($("shown"), `${range}${range && hidden ? number(list.matched) : kept} ${noun(page.section, page.id !== null)}`);
  $("pager").hidden = list.rows.length === list.matched;
  $("previous").disabled = list.offset === 0;
  $("next").disabled = last >= list.matched;
  $("empty").hidden = list.rows.length > 0;
  page.table.element.hidden = !list.rows.length;
  setText($("empty"), nothing(page.section, page.id !== null, hidden > 0 && one.filter !== ""));
}

// Where the page is

function route() {
  if (takeToken()) $("login").close();
  const [where, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [section, id] = where.split("/");
  const known = SECTIONS.some((one) => one.name === section) ? section : "work";
  const wanted = id ? decodeURIComponent(id) : null;
  page.task = new URLSearchParams(query).get("task");
  if (known !== page.section || wanted !== page.id || !page.table) {
    Object.assign(page, { section: known, id: wanted, head: null, groups: null, list: null });
    const label = SECTIONS.find((one) => one.name === known).label;
    page.table = new Table(wanted ? "What belongs to it" : label, columns(known, wanted !== null, does));
    page.table.element.hidden = true;
    $("list").replaceChildren(page.table.element);
    $("head").replaceChildren();
    $("empty").hidden = true;
    setText($("shown"), "");
    $("filter").value = current().filter;
    $("live").checked = current().live;
    $("live").closest("label").hidden = known === "events";
    for (const tab of tabs) setAttribute(tab.element, "aria-current", tab.name === known && "page");
    document.title = `${label} – RayDog emulator`;
  }
  drawer.show(page.task);
  look();
}

let typing = 0;
$("filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    Object.assign(current(), { filter: $("filter").value, offset: 0 });
    look();
  }, TYPING);
});
$("live").addEventListener("change", () => {
  Object.assign(current(), { live: $("live").checked, offset: 0 });
  look();
});
for (const [id, step] of [["previous", -WINDOW], ["next", WINDOW]]) {
  $(id).addEventListener("click", () => {
    current().offset = Math.max(0, current().offset + step);
    look();
  });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typed = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape") back(event);
  else if (typed) {
    if (event.target === $("filter") && event.key === "ArrowDown") page.table.focusFirst();
  } else if (event.key === "/") {
    event.preventDefault();
    $("filter").select();
    $("filter").focus();
  } else if (/^[1-9]$/.test(event.key) && SECTIONS[event.key - 1]) {
    location.hash = `#/${SECTIONS[event.key - 1].name}`;
  }
});

/** Escape leaves the innermost thing: the filter, then the task, then the cluster or pool. */
function back(event) {
  if (event.target === $("filter") && $("filter").value) {
    event.preventDefault();
    $("filter").value = "";
    $("filter").dispatchEvent(new Event("input"));
  } else if (event.target === $("filter")) $("filter").blur();
  else if (drawer.open) location.hash = here();
  else if (page.id !== null) location.hash = `#/${page.section}`;
}

$("login").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("login-id").value.trim(), $("login-secret").value.trim());
  $("login-secret").value = "";
  $("login").close();
  look();
});
$("login").addEventListener("cancel", (event) => event.preventDefault());

window.addEventListener("hashchange", route);
setInterval(() => tick(document), 1000);
route();
