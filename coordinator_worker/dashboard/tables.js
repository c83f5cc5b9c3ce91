"use strict";

function table(id, headings, rows) {
  const head = element("tr");
  for (const [words, kind, title = ""] of headings) {
    head.append(element("th", { scope: "col", class: kind, title }, words));
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
  rejected: "nothing of it counts: all that came was rejected",
  unseen: "enrolled, and never seen",
};

function status(line) {
  if (line.trouble.startsWith("left")) {
    return element("span", { class: "status gone", title: line.trouble }, "left");
  }
  if (line.away) return element("span", { class: "status gone", title: "not connected" }, "away");
  const kind = Object.hasOwn(STATUS, line.status) ? line.status : "silent";
  return element("span", { class: `status ${kind}`, title: line.trouble || STATUS[kind] }, line.status);
}

function clientTable(lines, metrics, now) {
  const headings = [
    ["client", "words", "its name on the broker"],
    ["status", "words", "in, late, gone, silent, rejected or unseen"],
    ["now", "", "whether its update is in the round in progress"],
    ["behind", "", "rounds since its last contribution"],
    ["stale", "", "how many versions late its newest update was"],
    ["missed", "", "of the last 60 rounds since it is known, those without it"],
    ["data", "", "its share of all examples"],
    ["examples", "", "that it last trained on"],
    ["updates", "", "rounds that it was in"],
    ["size", "", "of its newest update"],
    ["norm", "", "L2 norm of its newest update"],
    ["rejected", "", "messages of it that were refused"],
    ["seen", "", "when its newest update came"],
    ...metrics.map((name) => [name, "", "as the client says of itself"]),
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
    line.norm == null ? "–" : short(Number(line.norm.toPrecision(3))),
    String(line.rejected),
    line.seen ? `${duration(Math.max(0, now - line.seen))} ago` : "–",
    ...metrics.map((name) => figure(Object.hasOwn(line.metrics, name) ? line.metrics[name] ?? NaN : null)),
  ]);
  table("clients", headings, rows);
}

const MAX_LETTERS = 12;

function rejectedTable(letters, now) {
  const headings = [["when", "words"], ["client", "words"], ["reason", "words"], ["why", "detail"]];
  const rows = letters.slice(-MAX_LETTERS).reverse().map((letter) => [
    `${duration(Math.max(0, now - letter.time))} ago`, letter.client, letter.reason, letter.detail,
  ]);
  table("rejected", headings, rows);
}
