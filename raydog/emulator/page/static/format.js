// Words and numbers for people.

const TONES = {
  good: "RUNNING COMPLETED IDLE",
  busy: "EXECUTING ALLOCATED DOWNLOADING UPLOADING",
  wait:
    "PENDING READY NEW PROVISIONING HELD FINISHING CANCELLING SHUTDOWN TERMINATING STOPPING " +
    "BOOTING DRAINING ABORTING STARVED PREEMPTION_WARNING NO_CAPACITY",
  bad: "FAILED FAILING LOST BOOT_FAILED",
};
const TONE = new Map(
  Object.entries(TONES).flatMap(([tone, names]) => names.split(" ").map((name) => [name, tone])),
);
const WAITING = ["PENDING", "READY"];
const IN_PROGRESS = ["ALLOCATED", "DOWNLOADING", "EXECUTING", "UPLOADING"];
const TASK_ORDER = ["EXECUTING", "ALLOCATED", "READY", "PENDING", "FAILED", "COMPLETED"];

/** The colour class of a platform status; what has none is over. */
export const tone = (status) => TONE.get(status.replaceAll(" ", "_")) ?? "done";

/** A platform status (or kind) as a word in a sentence: EXECUTING becomes Executing. */
export const word = (status) => status.charAt(0).toUpperCase() + status.slice(1).toLowerCase();

export const number = (value) => value.toLocaleString("en-GB");

const sum = (counts, names) => names.reduce((total, name) => total + (counts[name] ?? 0), 0);

export const waiting = (counts) => sum(counts, WAITING);
export const inProgress = (counts) => sum(counts, IN_PROGRESS);

export const total = (counts) => Object.values(counts).reduce((one, other) => one + other, 0);

export const without = (counts, ...names) => total(counts) - sum(counts, names);

/** "3 executing, 1 ready": what goes on first. */
export function breakdown(counts, order = TASK_ORDER) {
  const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return Object.entries(counts)
    .filter(([, count]) => count)
    .sort(([one], [other]) => place(one) - place(other))
    .map(([status, count]) => `${number(count)} ${status.toLowerCase()}`)
    .join(", ");
}

/** Seconds as at most two units: 45 s, 3 m 05 s, 2 h 10 m, 3 d 4 h. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value) => String(value).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} m`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** The local time of day. */
export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

export const moment = (seconds) => new Date(seconds * 1000).toLocaleString("en-GB");
