"use strict";

const FRAME = { left: 82, right: 14, top: 10, bottom: 44 };
const LETTER = 7; // how wide one is, about

const cut = (words, most) => (words.length > most ? `${words.slice(0, most - 1)}…` : words);

// Axes of a chart with their titles; returns what turns values into places.
function axes(svg, width, height, [x0, x1], [y0, y1], [xTitle, yTitle], written = short) {
  const x = (value) =>
    FRAME.left + ((value - x0) / (x1 - x0 || 1)) * (width - FRAME.left - FRAME.right);
  const y = (value) =>
    height - FRAME.bottom - ((value - y0) / (y1 - y0 || 1)) * (height - FRAME.top - FRAME.bottom);
  for (const tick of ticks(y0, y1, 6)) {
    const line = { class: "grid", x1: FRAME.left, x2: width - FRAME.right, y1: y(tick), y2: y(tick) };
    svg.append(shape("line", line));
    const place = { x: FRAME.left - 6, y: y(tick) + 4, "text-anchor": "end" };
    svg.append(shape("text", place, written(tick)));
  }
  const [top, bottom] = [FRAME.top, height - FRAME.bottom];
  const turned = `translate(14 ${(top + bottom) / 2}) rotate(-90)`;
  const place = { class: "axis", transform: turned, "text-anchor": "middle" };
  const words = cut(yTitle, Math.floor((bottom - top) / LETTER));
  svg.append(titled(shape("text", place, words), yTitle));
  xAxis(svg, height, (FRAME.left + width - FRAME.right) / 2, xTitle);
  return [x, y];
}

function xAxis(svg, height, x, title) {
  svg.append(shape("text", { class: "axis", x, y: height - 6, "text-anchor": "middle" }, title));
}

function below(svg, height, places) {
  for (const [x, words] of places) {
    svg.append(shape("text", { x, y: height - 26, "text-anchor": "middle" }, words));
  }
}

function wholeTicks(first, last, wanted) {
  return ticks(first, last, wanted).filter((tick) => Number.isInteger(Number(short(tick))));
}

const nothing = (words) => element("p", { class: "soft" }, words);

// Charts are drawn as wide as there is room, so that their words are as large as the page's.
// points: [round, value]; best: the round in which the best version was judged, or undefined;
// sites: [round, lowest, whose, highest, whose] of single clients.
function curve(width, points, name, best, sites) {
  if (!points.length) return nothing("No client has told a figure yet.");
  const height = 260;
  const values = points.map(([, value]) => value);
  const all = values.concat(sites.flatMap(([, low, , high]) => [low, high]));
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  const [first, last] = [points[0][0], points[points.length - 1][0]];
  const told = `${name} from ${figure(values[0])} to ${figure(values[values.length - 1])},`;
  const svg = chart(width, height, `${told} rounds ${first} to ${last}`);
  const [x, y] = axes(svg, width, height, [first, last], [low - room, high + room], ["round", name]);
  below(svg, height, wholeTicks(first, last, width / 90).map((tick) => [x(tick), short(tick)]));
  if (sites.length > 1) {
    const back = sites.map(([v, bottom]) => `${x(v).toFixed(1)} ${y(bottom).toFixed(1)}`).reverse();
    const d = sites.map(([v, , , top]) => `${x(v).toFixed(1)} ${y(top).toFixed(1)}`).concat(back);
    svg.append(titled(shape("path", { class: "band", d: `M${d.join("L")}Z` }), "from the lowest site to the highest"));
  }
  const path = points.map(([v, value], n) => `${n ? "L" : "M"}${x(v).toFixed(1)} ${y(value).toFixed(1)}`);
  svg.append(shape("path", { class: "curve", d: path.join("") }));
  // A point one can hover over for each, as long as they do not cover the curve.
  const every = Math.ceil(points.length / 150);
  points.forEach(([v, value], n) => {
    if (n % every && n !== points.length - 1) return;
    const dot = shape("circle", { class: "point", cx: x(v), cy: y(value), r: every > 1 ? 1.5 : 3 });
    svg.append(titled(dot, `round ${v}: ${figure(value)}`));
  });
  const found = points.find(([v]) => v === best);
  if (found) {
    const ring = shape("circle", { class: "best", cx: x(found[0]), cy: y(found[1]), r: 7 });
    svg.append(titled(ring, `version ${best - 1} is the best so far`));
  }
  return svg;
}

// counts: how many updates came so many versions late.
function histogram(width, counts) {
  const late = Object.keys(counts).map(Number);
  if (!late.length) return nothing("No update has been accepted yet.");
  const height = 260;
  const last = Math.max(...late);
  const most = Math.max(...Object.values(counts));
  const told = late.map((s) => `${counts[s]} updates ${s} late`).join(", ");
  const svg = chart(width, height, told);
  const [x, y] = axes(svg, width, height, [-0.5, last + 0.5], [0, most], ["versions late", "updates"]);
  const wide = Math.min(60, (x(1) - x(0)) * 0.8);
  for (const s of late) {
    const box = { class: "bar", x: x(s) - wide / 2, width: wide, y: y(counts[s]), rx: 2 };
    const bar = shape("rect", { ...box, height: y(0) - y(counts[s]) });
    svg.append(titled(bar, `${plural(counts[s], "update")}, ${plural(s, "version")} late`));
  }
  below(svg, height, wholeTicks(0, last, 8).map((tick) => [x(tick), short(tick)]));
  return svg;
}

// Bytes up and down of the last rounds, side by side.
function traffic(width, rounds) {
  const shown = rounds.slice(-30).filter((round) => round.bytes_up !== undefined);
  if (!shown.length) return nothing("No round has closed yet.");
  const height = 240;
  const most = Math.max(...shown.map((r) => Math.max(r.bytes_up, r.bytes_down ?? 0)), 1);
  const svg = chart(width, height, `bytes of the last ${plural(shown.length, "round")}`);
  const edges = [-0.5, Math.max(9.5, shown.length - 0.5)];
  const [x, y] = axes(svg, width, height, edges, [0, most], ["round", "bytes"], (tick) => size(tick));
  const wide = Math.min(14, (x(1) - x(0)) * 0.4);
  shown.forEach((round, n) => {
    for (const [kind, bytes, left] of [
      ["up", round.bytes_up, x(n) - wide],
      ["down", round.bytes_down ?? 0, x(n)],
    ]) {
      const place = { x: left, y: y(bytes), width: wide, height: y(0) - y(bytes) };
      const bar = shape("rect", { class: `bar ${kind}`, ...place });
      svg.append(titled(bar, `round ${round.version}: ${size(bytes)} ${kind}`));
    }
  });
  const every = Math.ceil(shown.length / 6);
  below(svg, height, shown.map((r, n) => [x(n), String(r.version)]).filter((_, n) => n % every === 0));
  return svg;
}

const ABSENT = ".";
const REFUSED = "x";

function told(letter) {
  if (letter === ABSENT) return ["absent", "not in it"];
  if (letter === REFUSED) return ["refused", "refused"];
  const late = parseInt(letter, 36);
  return late ? ["older", `in it, ${plural(late, "version")} late`] : ["fresh", "in it"];
}

// clients: lines with `client` and `strip`, a letter for each round up to `version`.
function heat(width, clients, version) {
  const [names, high, least] = [Math.min(150, width / 3), 17, 7];
  const known = Math.max(0, ...clients.map((line) => line.strip.length));
  const rounds = Math.min(known, Math.floor((width - names - 4) / least));
  if (!rounds) return nothing("No round has closed yet.");
  const height = clients.length * high + 46;
  const label = `who was in the last ${plural(rounds, "round")}; the table below has it in figures`;
  const svg = chart(width, height, label);
  const wide = Math.min(24, (width - names - 4) / rounds);
  const x = (v) => names + (v - (version - rounds + 1)) * wide;
  clients.forEach((line, row) => {
    const y = row * high;
    const name = cut(line.client, Math.floor(names / 7.5));
    const place = { x: names - 8, y: y + 12, "text-anchor": "end" };
    svg.append(titled(shape("text", place, name), line.client));
    const strip = line.strip.slice(-rounds);
    [...strip].forEach((letter, n) => {
      const v = version - strip.length + 1 + n;
      const [kind, words] = told(letter);
      const box = { x: x(v) + 0.5, y: y + 1.5, width: wide - 1, height: high - 3, rx: 2 };
      const cell = shape("rect", { class: `cell ${kind}`, ...box });
      svg.append(titled(cell, `${line.client}, round ${v}: ${words}`));
      if (kind !== "refused") return;
      const middle = [x(v) + wide / 2, y + high / 2];
      const d = `M${middle[0] - 3} ${middle[1] - 3}l6 6m0-6l-6 6`; // not by its colour alone
      svg.append(shape("path", { class: "cross", d }));
    });
  });
  const shown = wholeTicks(version - rounds + 1, version, width / 90);
  below(svg, height, shown.map((v) => [x(v) + wide / 2, short(v)]));
  xAxis(svg, height, names + (rounds * wide) / 2, "round");
  return svg;
}
