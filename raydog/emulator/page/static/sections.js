// What each section shows: its columns, its heads, its words.

import { age, button, link, status, text } from "./dom.js";
import { breakdown, clock, inProgress, number, total, waiting, without, word } from "./format.js";

const TASK_OVER = ["COMPLETED", "FAILED", "ABORTED", "CANCELLED", "DISCARDED", "RESUBMITTED"];
const WORK_OVER = ["COMPLETED", "FAILED", "CANCELLED"];
const POOL_OVER = ["SHUTDOWN", "TERMINATED"];
const GONE = ["TERMINATED", "TERMINATING"];
const GROUPS_SHOWN = 100; // as view.py has it
const NODE_ORDER = ["RUNNING", "PENDING", "LOST", "TERMINATED"];

export const SECTIONS = [
  { name: "work", label: "Clusters" },
  { name: "pools", label: "Pools" },
  { name: "instances", label: "Instances" },
  { name: "events", label: "Events" },
];

/** The number and the line below it on each section's tab. */
export function summary(name, counts) {
  if (name === "work") {
    const { tasks } = counts;
    const parts = [`${number(inProgress(tasks))} executing`, `${number(waiting(tasks))} waiting`];
    return [without(counts.work, ...WORK_OVER), `Tasks: ${parts.join(", ")}`];
  }
  if (name === "pools") {
    const running = counts.nodes.RUNNING ?? 0;
    return [without(counts.pools, ...POOL_OVER), `Nodes: ${number(running)} running`];
  }
  if (name === "instances") {
    const { TERMINATED: _gone, ...there } = counts.instances;
    return [total(there), breakdown(there, NODE_ORDER) || "none"];
  }
  return [counts.events, "since the start"];
}

const over = (list) => (row) => list.includes(row.status);

/** The address of a thing's own list. */
export const addressOf = (section, id) => `#/${section}/${encodeURIComponent(id)}`;

/** The address of a task's details, over what is shown now. */
export const taskAddress = (id) => `${location.hash.split("?")[0] || "#/work"}?task=${encodeURIComponent(id)}`;

const EVENT_SECTION = { "work requirement": "work", task: "work", "worker pool": "pools", node: "pools", instance: "pools" };

/** What an instance is doing, in one word. */
export function instanceStatus(row) {
  if (GONE.includes(row.status)) return row.node === "LOST" ? "LOST" : row.status;
  if (!row.node) return "BOOTING";
  if (row.warned) return "PREEMPTION WARNING";
  return row.draining ? "DRAINING" : row.node;
}

function workers(row) {
  return row.node && !GONE.includes(row.status) ? `${row.claimed} of ${row.workers} busy` : "";
}

/** Links to the tasks that run on an instance. */
function tasksOfInstance() {
  const element = document.createElement("span");
  const links = new Map();
  return {
    element,
    update(row) {
      const wanted = new Set(row.tasks.map((task) => task.id));
      for (const [id, one] of links) {
        if (!wanted.has(id)) {
          one.element.remove();
          links.delete(id);
        }
      }
      for (const task of row.tasks) {
        let one = links.get(task.id);
        if (!one) {
          one = link((it) => it.name, (it) => taskAddress(it.id))();
          links.set(task.id, one);
          element.append(one.element, " ");
        }
        one.update(task);
      }
    },
  };
}

/** The columns of a section's list, or of one thing's. `does` has what the buttons do. */
export function columns(section, isOne, does) {
  if (section === "work" && isOne) {
    return [
      { label: "Task", kind: "name", widget: link((row) => row.name, (row) => taskAddress(row.id), (row) => row.id) },
      { label: "Status", kind: "state", widget: status((row) => (row.aborting ? "ABORTING" : row.status)) },
      { label: "Group", kind: "minor", widget: text((row) => row.group) },
      { label: "Node", widget: link((row) => row.node ?? "", (row) => (row.pool ? addressOf("pools", row.pool) : null)) },
      { label: "Address", kind: "code minor", widget: text((row) => row.address ?? "") },
      { label: "Ran for", kind: "number", widget: age((row) => row.started, (row) => row.finished) },
      {
        label: "Trouble",
        kind: "long wide",
        widget: text(trouble, (row) => row.error),
      },
      {
        label: "",
        kind: "act",
        widget: button("Abort", (row) => `Abort task ${row.name}`, (row) => !over(TASK_OVER)(row) && !row.aborting, does.abortTask),
      },
    ];
  }
  if (section === "work") {
    return [
      { label: "Cluster", kind: "name", widget: link((row) => row.name, (row) => addressOf("work", row.id), (row) => row.id) },
      { label: "Status", kind: "state", widget: status((row) => row.status) },
      {
        label: "Tasks",
        kind: "wide",
        widget: text((row) => (breakdown(row.tasks) || "none") + (row.starved ? "; a group is starved" : "")),
      },
      { label: "Groups", kind: "number minor", widget: text((row) => String(row.groups)) },
      { label: "Namespace", kind: "minor", widget: text((row) => row.namespace) },
      { label: "Age", kind: "number", widget: age((row) => row.created) },
      {
        label: "",
        kind: "act",
        widget: button("Abort", (row) => `Abort ${row.name} with its tasks`, (row) => !over(WORK_OVER)(row), does.abortWork),
      },
    ];
  }
  if (section === "pools" && !isOne) {
    return [
      { label: "Pool", kind: "name", widget: link((row) => row.name, (row) => addressOf("pools", row.id), (row) => row.id) },
      { label: "Status", kind: "state", widget: status((row) => row.status) },
      { label: "Nodes", widget: text(nodes) },
      { label: "Workers", widget: text((row) => `${row.claimed} of ${row.claimed + row.idle} busy`) },
      { label: "Template", kind: "minor", widget: text((row) => row.template + (row.spot ? ", spot" : "")) },
      { label: "Limits", kind: "number minor", widget: text((row) => `${number(row.minimum)}–${number(row.maximum)}`) },
      { label: "Age", kind: "number", widget: age((row) => row.created) },
      { label: "Trouble", kind: "long wide", widget: text((row) => row.error ?? "", (row) => row.error) },
      {
        label: "",
        kind: "act",
        widget: button("Shut down", (row) => `Shut down pool ${row.name}`, (row) => !over(POOL_OVER)(row), does.shutDown),
      },
    ];
  }
  if (section === "events") {
    return [
      { label: "Time", kind: "time", widget: text((row) => clock(row.time)) },
      { label: "What", kind: "minor", widget: text((row) => word(row.kind)) },
      {
        label: "Name",
        kind: "name",
        widget: link(
          (row) => row.name,
          (row) => addressOf(EVENT_SECTION[row.kind], row.owner) + (row.kind === "task" ? `?task=${encodeURIComponent(row.of)}` : ""),
          (row) => row.of,
        ),
      },
      { label: "Status", kind: "state", widget: status((row) => row.status) },
      { label: "Why", kind: "long wide", widget: text((row) => row.detail, (row) => row.detail) },
    ];
  }
  return [
    { label: isOne ? "Node" : "Instance", kind: "name", widget: text((row) => row.name, (row) => row.nodeId ?? row.id) },
    { label: "Status", kind: "state", widget: status(instanceStatus) },
    { label: "Address", kind: "code", widget: text((row) => row.address ?? "") },
    ...(isOne
      ? [{ label: "Workers", kind: "minor", widget: text(workers) }]
      : [{ label: "Pool", widget: link((row) => row.pool ?? "", (row) => (row.poolId ? addressOf("pools", row.poolId) : null)) }]),
    { label: "Tasks", kind: "wide", widget: tasksOfInstance },
    { label: "CPU", kind: "number", widget: text((row) => (row.cpu == null ? "–" : `${row.cpu} %`)) },
    { label: "Processes", kind: "number minor", widget: text((row) => (row.processes == null ? "–" : String(row.processes))) },
    ...(isOne ? [] : [{ label: "Type", kind: "minor", widget: text((row) => row.type + (row.spot ? ", spot" : "")) }]),
    { label: "Age", kind: "number", widget: age((row) => row.created, (row) => (GONE.includes(row.status) ? row.since : null)) },
    {
      label: "",
      kind: "act",
      widget: button("Preempt", (row) => `Preempt ${row.name}`, (row) => !GONE.includes(row.status), does.preempt),
    },
  ];
}

function trouble(row) {
  if (!row.error) return "";
  return row.error + (row.retries ? ` (${row.retries === 1 ? "1 retry" : `${row.retries} retries`})` : "");
}

function nodes(row) {
  const booting = row.booting ? [`${number(row.booting)} booting`] : [];
  return [breakdown(row.nodes, NODE_ORDER), ...booting].filter(Boolean).join(", ") || "none";
}

/** The columns of a cluster's task groups. */
export const GROUP_COLUMNS = [
  { label: "Task group", kind: "name", widget: text((row) => row.name, (row) => row.id) },
  { label: "Status", kind: "state", widget: status((row) => (row.starved ? "STARVED" : row.status)) },
  { label: "Tasks", kind: "wide", widget: text((row) => breakdown(row.tasks) || "none") },
  { label: "Worker tags", kind: "code", widget: text((row) => row.tags.join(", ") || "any") },
  { label: "Since", kind: "number", widget: age((row) => row.since) },
];

/** What stands beside the name of one thing. */
export function facts(section, head) {
  if (section === "work") {
    const groups = `${number(head.groups)} task groups${head.groups > GROUPS_SHOWN ? `, the first ${GROUPS_SHOWN} shown` : ""}`;
    return [`namespace ${head.namespace}`, groups, breakdown(head.tasks) || "no tasks"];
  }
  return [
    `namespace ${head.namespace}`,
    `template ${head.template}${head.spot ? ", spot" : ""}`,
    `worker tag ${head.tag ?? "none"}`,
    `nodes: ${nodes(head)}`,
  ];
}

export const canEnd = (section, head) => !over(section === "work" ? WORK_OVER : POOL_OVER)(head);

/** What the rows of a list are called. */
export function noun(section, isOne) {
  if (section === "work") return isOne ? "tasks" : "clusters";
  return section === "pools" && isOne ? "nodes" : section;
}

/** What an empty list says. */
export function nothing(section, isOne, filtered) {
  if (filtered) return "Nothing fits the filter.";
  if (section === "work") return isOne ? "No tasks." : "No clusters. ray up makes one: its work requirement appears here.";
  if (section === "pools") return isOne ? "No nodes." : "No worker pools.";
  return section === "instances" ? "No instances." : "Nothing has happened.";
}
