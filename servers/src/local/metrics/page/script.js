// Requests the status of the server every two seconds and shows it. Rates and quantiles are
// computed from the difference between two responses; the history of the plots is kept here.
// Everything that the server sends is shown as text, never as HTML.
"use strict";

const POLL_INTERVAL = 2000; // ms
const RESPONSE_TIMEOUT = 5000; // ms
const HISTORY = 5 * 60; // seconds
const ROWS = 100; // in a table, before "Show more"

const byId = (id) => document.getElementById(id);

// ---- Numbers for people -------------------------------------------------------------------------

const grouped = new Intl.NumberFormat("en");
const rounded = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const exactTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

// Each returns [number, unit].
function count(n) {
  if (n < 100 && n % 1) return [rounded.format(n), ""];
  if (n < 1e5) return [grouped.format(Math.round(n)), ""];
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"]])
    if (n >= size) return [rounded.format(n / size), unit];
  return [rounded.format(n / 1e3), "k"];
}

function bytes(n) {
  if (n < 1024) return [grouped.format(n), n === 1 ? "byte" : "bytes"];
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = n / 1024;
  while (value >= 1000 && units.length > 1) {
    value /= 1024;
    units.shift();
  }
  return [rounded.format(value), units[0]];
}

function seconds(s) {
  if (s === null) return ["–", ""];
  if (s < 1e-3) return [rounded.format(s * 1e6), "µs"];
  if (s < 1) return [rounded.format(s * 1e3), "ms"];
  return [rounded.format(s), "s"];
}

const joined = ([number, unit]) => (unit ? `${number} ${unit}` : number);

function duration(s) {
  s = Math.floor(s);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${grouped.format(Math.floor(s / 86400))} d ${Math.floor((s % 86400) / 3600)} h`;
}

// ---- From two responses to rates ----------------------------------------------------------------

const sum = (numbers) => Object.values(numbers).reduce((a, b) => a + b, 0);

// The latency that the share `q` of the operations stays below, or null without operations.
// Latencies are taken as evenly spread within a bucket.
function quantile(q, bounds, buckets) {
  const total = buckets.reduce((a, b) => a + b, 0);
  if (total === 0) return null;
  let before = 0;
  for (let i = 0; i < bounds.length; i++) {
    if (before + buckets[i] >= q * total) {
      const low = i ? bounds[i - 1] : 0;
      return low + ((bounds[i] - low) * (q * total - before)) / buckets[i];
    }
    before += buckets[i];
  }
  return bounds[bounds.length - 1];
}

function difference(before, now) {
  const time = now.uptime - before.uptime;
  const rates = {};
  for (const kind of Object.keys(now.operations))
    rates[kind] = (sum(now.operations[kind]) - sum(before.operations[kind])) / time;
  const buckets = now.latency.bounds.concat(0).map((_, i) =>
    Object.keys(now.latency.buckets).reduce(
      (all, kind) => all + now.latency.buckets[kind][i] - before.latency.buckets[kind][i], 0));
  const at = (q) => quantile(q, now.latency.bounds, buckets);
  return {
    time: performance.now() / 1000,
    at: new Date(),
    rates,
    operations: sum(rates),
    callbacks: (now.changes.sent - before.changes.sent) / time,
    latency: { p50: at(0.5), p90: at(0.9), p99: at(0.99) },
  };
}

// ---- Plots --------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// A scale from 0 to a round number.
function linear(most) {
  const step = 10 ** Math.floor(Math.log10(Math.max(most, 4) / 4));
  const size = [1, 2, 5, 10].map((n) => n * step).find((n) => n * 4 >= most) ?? step * 10;
  const top = Math.max(1, Math.ceil(most / size)) * size;
  const ticks = [];
  for (let n = 0; n <= top + size / 2; n += size) ticks.push(n);
  return { ticks, place: (value) => value / top };
}

// A scale of powers of ten around all values.
function logarithmic(least, most) {
  const low = Math.max(-7, Math.floor(Math.log10(least) + 1e-9));
  const high = Math.max(low + 1, Math.ceil(Math.log10(most) - 1e-9));
  const ticks = [];
  for (let power = low; power <= high; power++) ticks.push(10 ** power);
  return { ticks, place: (value) => Math.max(0, (Math.log10(value) - low) / (high - low)) };
}

const period = (minutes) => (minutes === 1 ? "last minute" : `last ${minutes} minutes`);

class Plot {
  // `value(sample, name)` is a number or null; `names` are all series, `always` those that are
  // shown without values, too.
  constructor(id, { title, names, always, value, format, scale, filled }) {
    Object.assign(this, { title, names, always, value, format, scale, filled });
    const figure = byId(id);
    this.svg = figure.querySelector("svg");
    this.legend = figure.querySelector(".legend");
    this.when = figure.querySelector(".when");
    this.cursor = null;
    this.svg.addEventListener("pointermove", (event) => {
      this.cursor = event.clientX - this.svg.getBoundingClientRect().left;
      this.show();
    });
    this.svg.addEventListener("pointerleave", () => {
      this.cursor = null;
      this.show();
    });
    new ResizeObserver(() => this.show()).observe(this.svg);
  }

  show() {
    const [width, height] = [this.svg.clientWidth, this.svg.clientHeight];
    if (!width) return;
    const [left, right, top, bottom] = [56, width - 6, 8, height - 24];
    const end = paused ? (samples.at(-1)?.time ?? 0) : performance.now() / 1000;
    const shown = samples.filter((sample) => sample.time >= end - HISTORY);
    // As many whole minutes as there are samples for.
    const span = Math.min(HISTORY, shown.length ? end - shown[0].time : 0);
    const minutes = Math.ceil(Math.max(1, span / 60));
    const x = (time) => right - ((end - time) / (minutes * 60)) * (right - left);
    const names = this.names.filter(
      (name) => this.always.includes(name) || shown.some((sample) => this.value(sample, name) > 0));
    const values = shown.flatMap((sample) => names.map((name) => this.value(sample, name)))
      .filter((value) => value !== null);
    const { ticks, place } = this.scale(values);
    const y = (value) => bottom - place(value) * (bottom - top);

    const parts = [];
    for (const tick of ticks) {
      parts.push(draw("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }));
      const at = { x: left - 8, y: y(tick) + 4, "text-anchor": "end" };
      parts.push(draw("text", at, joined(this.format(tick))));
    }
    // As many marks of time as fit.
    const mark = minutes === 1 ? 20 : (right - left) / minutes < 60 ? 120 : 60;
    for (let ago = 0; ago <= minutes * 60; ago += mark) {
      const text = ago === 0 ? "now" : mark < 60 ? `−${ago} s` : `−${ago / 60} min`;
      const at = { x: x(end - ago), y: height - 4, "text-anchor": ago ? "middle" : "end" };
      parts.push(draw("text", at, text));
    }
    for (const name of names) {
      // The line has a gap where a response is missing or has no such value.
      const runs = [];
      let run = null;
      for (const sample of shown) {
        const value = this.value(sample, name);
        if (value === null || sample.gap) run = null;
        if (value === null) continue;
        if (!run) runs.push((run = []));
        run.push([x(sample.time).toFixed(1), y(value).toFixed(1)]);
      }
      for (const points of runs) {
        const line = points.map((point) => point.join(" ")).join("L");
        const [first, last] = [points[0][0], points.at(-1)[0]];
        const outline = `M${first} ${bottom}L${line}L${last} ${bottom}Z`;
        const area = draw("path", { class: "area", d: outline });
        area.style.fill = `var(--${name})`;
        if (this.filled) parts.push(area);
        // A line of one point is a dot.
        const d = `M${line}${points.length > 1 ? "" : "h0.1"}`;
        const stroke = draw("path", { class: "line", "data-series": name, d });
        stroke.style.stroke = `var(--${name})`;
        parts.push(stroke);
      }
    }
    let pointed = shown.at(-1);
    if (this.cursor !== null && shown.length) {
      const distance = (sample) => Math.abs(x(sample.time) - this.cursor);
      pointed = shown.reduce((best, sample) => (distance(sample) < distance(best) ? sample : best));
      const at = x(pointed.time);
      parts.push(draw("line", { class: "cursor", x1: at, x2: at, y1: top, y2: bottom }));
    }
    if (!values.length)
      parts.push(
        draw(
          "text",
          { x: (left + right) / 2, y: (top + bottom) / 2, "text-anchor": "middle" },
          "no measurements yet",
        ),
      );
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...parts);

    const said = names.map((name) => {
      const value = pointed ? this.value(pointed, name) : null;
      return [name, value === null ? "–" : joined(this.format(value))];
    });
    this.when.textContent =
      this.cursor !== null && pointed ? `at ${clock.format(pointed.at)}` : period(minutes);
    this.legend.replaceChildren(...said.map(([name, value]) => {
      const item = document.createElement("li");
      const swatch = document.createElement("i");
      swatch.style.background = `var(--${name})`;
      const strong = document.createElement("b");
      strong.textContent = value;
      item.append(swatch, name.replace("_", " "), strong);
      return item;
    }));
    const now = said.map(([name, value]) => `${name.replace("_", " ")} ${value}`).join(", ");
    const latest = now ? `Latest: ${now}.` : "";
    this.svg.setAttribute("aria-label", `${this.title}, ${period(minutes)}. ${latest}`);
  }
}

// ---- Tables -------------------------------------------------------------------------------------

class Table {
  // `columns`: for each key, `value(row)` to sort by and `show(cell, row)`. `order` breaks ties.
  constructor(id, { columns, order, identity, sort }) {
    Object.assign(this, { columns, order, identity, sort, most: ROWS });
    this.region = byId(id);
    this.body = this.region.querySelector("tbody");
    this.heads = [...this.region.querySelectorAll("thead th")];
    this.lines = new Map();
    this.more = byId(`${id}-more`);
    this.more.querySelector("button").addEventListener("click", () => {
      this.most += ROWS * 5;
      this.show(this.rows, this.leftOut);
    });
    for (const head of this.heads)
      head.querySelector("button").addEventListener("click", () => this.sortBy(head.dataset.key));
    this.mark();
  }

  sortBy(key) {
    const up = this.sort.key === key ? !this.sort.up : !this.columns[key].descending;
    this.sort = { key, up };
    this.mark();
    this.show(this.rows, this.leftOut);
  }

  mark() {
    for (const head of this.heads) {
      if (head.dataset.key === this.sort.key)
        head.setAttribute("aria-sort", this.sort.up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
  }

  show(rows, leftOut) {
    Object.assign(this, { rows, leftOut });
    const { value } = this.columns[this.sort.key];
    const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    const sorted = rows.slice().sort(
      (a, b) => (this.sort.up ? 1 : -1) * compare(value(a), value(b)) || this.order(a, b));
    const shown = sorted.slice(0, this.most);
    // Unchanged rows are kept, so that a selection in them survives.
    const before = this.lines;
    this.lines = new Map();
    const lines = shown.map((row) => {
      const id = this.identity(row);
      const line = before.get(id) ?? this.line();
      this.lines.set(id, line);
      this.heads.forEach((head, i) => this.columns[head.dataset.key].show(line.cells[i], row));
      return line;
    });
    const present = this.body.rows;
    if (lines.length !== present.length || lines.some((line, i) => line !== present[i]))
      this.body.replaceChildren(...lines);
    const hidden = sorted.length - shown.length;
    this.more.hidden = hidden + leftOut === 0;
    this.more.querySelector("button").hidden = hidden === 0;
    this.more.querySelector("span").textContent =
      `${grouped.format(hidden + leftOut)} more` +
      (hidden ? "" : " are not listed: the server reports only the latest");
    this.region.hidden = shown.length === 0;
  }

  line() {
    const line = document.createElement("tr");
    for (const [i, head] of this.heads.entries()) {
      const cell = document.createElement(i ? "td" : "th");
      if (!i) cell.scope = "row";
      cell.className = head.className;
      line.append(cell);
    }
    return line;
  }
}

function text(cell, content) {
  if (cell.textContent !== content) cell.textContent = content;
}

// A name may have any text direction; the text around it keeps its own.
function name(cell, content) {
  if (!cell.firstChild) cell.append(document.createElement("bdi"));
  text(cell.firstChild, content);
}

function state(cell, content, kind) {
  if (!cell.firstChild) cell.append(document.createElement("span"));
  text(cell.firstChild, content);
  cell.firstChild.className = `state ${kind}`;
}

// ---- The page -----------------------------------------------------------------------------------

let status = null;
let samples = [];
let gap = false;
let paused = false;
let timer = 0;
let pollId = 0;
let lostAt = null;

const plots = [
  new Plot("plot-operations", {
    title: "Operations per second",
    names: ["get", "put", "delete", "put_many", "keys", "watch", "unwatch", "unknown"],
    always: ["get", "put"],
    value: (sample, kind) => sample.rates[kind] ?? null,
    format: count,
    filled: true,
    scale: (values) => linear(Math.max(0, ...values)),
  }),
  new Plot("plot-latency", {
    title: "Latency",
    names: ["p50", "p90", "p99"],
    always: ["p50", "p90", "p99"],
    value: (sample, q) => sample.latency[q],
    format: seconds,
    scale: (values) =>
      values.length
        ? logarithmic(Math.min(...values), Math.max(...values))
        : logarithmic(1e-6, 1e-3),
  }),
];

const groups = new Table("groups", {
  columns: {
    name: { value: (group) => group.name, show: (cell, group) => name(cell, group.name) },
    applications: {
      descending: true,
      value: (group) => group.framed + group.original,
      show: (cell, group) => text(cell, grouped.format(group.framed + group.original)),
    },
    pairs: {
      descending: true,
      value: (group) => group.pairs,
      show: (cell, group) => text(cell, grouped.format(group.pairs)),
    },
    bytes: {
      descending: true,
      value: (group) => group.bytes,
      show: (cell, group) => text(cell, joined(bytes(group.bytes))),
    },
  },
  order: (a, b) => (a.name < b.name ? -1 : 1),
  identity: (group) => group.name,
  sort: { key: "name", up: true },
});

const applications = new Table("applications", {
  columns: {
    group: { value: (app) => app.group, show: (cell, app) => name(cell, app.group) },
    pid: { value: (app) => app.pid, show: (cell, app) => text(cell, String(app.pid)) },
    connected: {
      value: (app) => (app.connected ? 0 : 1),
      show: (cell, app) =>
        app.connected ? state(cell, "Connected", "good") : state(cell, "Closed", "gone"),
    },
    stay: {
      descending: true,
      value: (app) => app.stay,
      show: (cell, app) => text(cell, duration(app.stay)),
    },
    watches: {
      descending: true,
      value: (app) => app.watches,
      show: (cell, app) => text(cell, grouped.format(app.watches)),
    },
    since: {
      descending: true,
      value: (app) => app.connected_at,
      show: (cell, app) => {
        text(cell, exactTime.format(new Date(app.connected_at)));
        cell.title = app.closed_at ? `closed ${exactTime.format(new Date(app.closed_at))}` : "";
      },
    },
    session: { value: (app) => app.session, show: (cell, app) => text(cell, app.session) },
  },
  order: (a, b) => {
    if (a.connected_at === b.connected_at) return b.number - a.number;
    return a.connected_at < b.connected_at ? 1 : -1;
  },
  identity: (app) => `${app.number} ${app.group}`,
  sort: { key: "connected", up: true },
});

function tile(id, [number, unit], note) {
  const [value, below] = byId(`tile-${id}`).querySelectorAll(".value, .note");
  const small = document.createElement("small");
  small.textContent = unit;
  value.replaceChildren(number, ...(unit ? [small] : []));
  below.textContent = note;
}

function showFacts() {
  text(byId("socket"), status.socket);
  text(byId("version"), status.version);
  text(byId("uptime"), duration(status.uptime));
  text(byId("since"), exactTime.format(new Date(status.started_at)));
  text(byId("auth-state"), status.auth.up ? "up" : "down");
  byId("auth-state").className = `state ${status.auth.up ? "good" : "bad"}`;
  text(byId("auth-server"), status.auth.server);
}

function showTiles() {
  const last = samples.at(-1);
  const none = ["–", ""];
  const results = Object.values(status.operations);
  const operations = results.reduce((all, byResult) => all + sum(byResult), 0);
  tile("operations", last ? count(last.operations) : none, `${joined(count(operations))} total`);
  tile("p50", last ? seconds(last.latency.p50) : none, "half are faster");
  tile("p99", last ? seconds(last.latency.p99) : none, "1 in 100 is slower");
  const coalesced = joined(count(status.changes.merged));
  tile("callbacks", last ? count(last.callbacks) : none, `${coalesced} coalesced`);
  const { totals, logins } = status;
  const refused =
    logins.wrong_secret + logins.too_many_guesses + logins.no_such_group + logins.limit;
  const note = refused ? `${joined(count(refused))} refused` : "connected";
  tile("applications", count(totals.applications), note);
  const groups = totals.groups === 1 ? "1 group" : `${grouped.format(totals.groups)} groups`;
  tile("pairs", count(totals.pairs), `in ${groups}`);
  tile("bytes", bytes(totals.bytes), "keys and values");
  const rate = last ? `${joined(count(last.operations))}/s · ` : "";
  document.title = `${rate}kvs local server`;
}

function showTables() {
  text(byId("groups-count"), grouped.format(status.totals.groups));
  byId("no-groups").hidden = status.totals.groups > 0;
  groups.show(status.groups, status.groups_left_out);

  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (app) => {
    const connection = app.connected ? "connected" : "closed";
    const all = `${app.group} ${app.pid} ${connection} ${app.session}`.toLowerCase();
    return words.every((word) => all.includes(word));
  };
  const found = status.applications.filter(matches);
  const connected = grouped.format(status.totals.applications);
  const summary = words.length ? `${grouped.format(found.length)} found` : `${connected} connected`;
  text(byId("applications-count"), summary);
  applications.show(found, words.length ? 0 : status.applications_left_out);
  const none = byId("no-applications");
  none.hidden = found.length > 0;
  const noMatch = "None of the listed applications matches.";
  text(none, words.length ? noMatch : "No application has connected yet.");
}

function show() {
  showFacts();
  showTiles();
  showTables();
  for (const plot of plots) plot.show();
}

function received(response) {
  const before = status;
  status = response;
  // After a restart the counters start at zero.
  if (before && before.started_at === response.started_at && response.uptime > before.uptime) {
    samples.push({ ...difference(before, response), gap });
    gap = false;
  } else if (before) {
    gap = true;
  }
  const end = performance.now() / 1000;
  samples = samples.filter((sample) => sample.time >= end - HISTORY - 10);
  lostAt = null;
  byId("banner").hidden = true;
  text(byId("updated"), `updated ${clock.format(new Date())}`);
  show();
}

function lost() {
  gap = true;
  lostAt ??= new Date();
  const banner = byId("banner");
  // Set once: a screen reader would repeat it at every attempt.
  if (banner.hidden) {
    banner.textContent = `The server has not answered since ${clock.format(lostAt)}. ` +
      (status ? "The page shows the last known state. " : "") + "Retrying.";
    banner.hidden = false;
  }
  if (status) {
    text(byId("auth-state"), "unknown");
    byId("auth-state").className = "state";
  }
}

async function poll() {
  // A response that arrives after a pause is ignored.
  const own = ++pollId;
  try {
    const signal = AbortSignal.timeout(RESPONSE_TIMEOUT);
    const response = await fetch("/api/status", { cache: "no-store", signal });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const body = await response.json();
    if (own === pollId) received(body);
  } catch {
    if (own === pollId) lost();
  }
  if (own === pollId) timer = setTimeout(poll, POLL_INTERVAL);
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", paused);
  byId("pause").textContent = paused ? "Resume" : "Pause";
  clearTimeout(timer);
  pollId++;
  if (paused) {
    gap = true;
    text(byId("updated"), `paused at ${clock.format(new Date())}`);
  } else {
    poll();
  }
});
byId("filter").addEventListener("input", () => {
  if (status) showTables();
});

poll();
