"use strict";

function table(id, headings, rows) {
  const head = element("tr");
  for (const [words, kind] of headings) {
    head.append(element("th", { scope: "col", class: kind }, words));
  }
  const body = element("tbody");
  for (const cells of rows) {
    const row = element("tr");
    cells.forEach((cell, n) => row.append(element("td", { class: headings[n][1] }, cell)));
    body.append(row);
  }
  at(id).replaceChildren(element("thead", {}, head), body);
}

const STATUS = {
  in: "in the newest model, or already in the next",
  late: "not in the newest model",
  gone: "in none of the last ten models",
  silent: "joined, and nothing has come of it yet",
};

function status(line) {
  const kind = Object.hasOwn(STATUS, line.status) ? line.status : "silent";
  return element("span", { class: `status ${kind}`, title: STATUS[kind] }, line.status);
}

function clientTable(lines, metrics, now) {
  const headings = [
    ["client", "words"], ["status", "words"], ["this round", ""], ["rounds behind", ""],
    ["staleness", ""], ["missed", ""], ["data", ""], ["examples", ""], ["updates", ""],
    ["size", ""], ["norm", ""], ["rejected", ""], ["seen", ""], ...metrics.map((name) => [name, ""]),
  ];
  const rows = lines.map((line) => [
    line.client,
    status(line),
    line.now === null ? "–" : line.now < 0 ? "refused" : "✓",
    String(line.behind),
    line.late === null ? "–" : String(line.late),
    String(line.missed),
    line.examples ? `${(100 * line.share).toFixed(1)} %` : "–",
    line.examples ? line.examples.toLocaleString("en") : "–",
    String(line.updates),
    line.bytes ? size(line.bytes) : "–",
    line.norm ? short(Number(line.norm.toPrecision(3))) : "–",
    String(line.rejected),
    line.seen ? `${duration(Math.max(0, now - line.seen))} ago` : "–",
    ...metrics.map((name) => figure(Object.hasOwn(line.metrics, name) ? line.metrics[name] : null)),
  ]);
  table("clients", headings, rows);
}

function rejectedTable(letters, now) {
  const headings = [["when", "words"], ["client", "words"], ["reason", "words"], ["why", "detail"]];
  const rows = [...letters].reverse().map((letter) => [
    `${duration(Math.max(0, now - letter.time))} ago`, letter.client, letter.reason, letter.detail,
  ]);
  table("rejected", headings, rows);
}
